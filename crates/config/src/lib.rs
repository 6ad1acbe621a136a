//! Configuration as values: texts, environment variables and the store's document in, settings out,
//! each with the place it came from (contract 3).
//!
//! Deliberately absent: reading files, the environment and the store, and everything done with a
//! setting.
#![forbid(unsafe_code)]

pub mod check;
pub mod docs;
pub mod dynamic;
pub mod environment;
pub mod explain;
pub mod guc;
pub mod lifecycle;
mod local;
pub mod log;
pub mod node;
mod origin;
pub mod parse;
pub mod postgres;
pub mod problem;
pub mod rest;
pub mod schema;
mod secret;
pub mod section;
pub mod settings;
mod sources;
pub mod spilo;
mod standby;
pub mod store;
pub mod tags;
#[cfg(test)]
mod tests;
pub mod watchdog;
pub mod yaml;

pub use lifecycle::Lifecycle;
pub use local::Local;
pub use log::LogSettings;
pub use origin::Origin;
pub use postgres::{PostgresSettings, Role, effective};
pub use problem::{Problem, Severity};
pub use secret::Secret;
pub use settings::{Login, Settings, StoreSettings, StoreSrv, StoreTls};
pub use sources::Sources;
pub use standby::{StandbyCluster, standby_cluster};
pub use watchdog::{WatchdogMode, WatchdogSettings};

/// A settings file to begin with.
pub const SAMPLE: &str = include_str!("sample.yml");
