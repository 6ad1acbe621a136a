//! Routes write and read connections to the right PostgreSQL, and shows what it knows.
//!
//! In goes a [`Topology`] whenever somebody (not this crate) learns of a new one; out come a write
//! port that leads to the primary, a read port that leads to the replicas, and a dashboard.
//!
//! Two planes. The *control plane* is ordinary tokio code, run rarely: `listen` accepts, `session`
//! reads the head of a connection and negotiates, `connect` finds a server or waits for one, `answer`
//! says how long another one will do,
//! `shared` takes over topologies, `http` shows. The *data plane* (`relay`) only moves bytes. They
//! meet in `registry`: what sessions there are, and how to end them.
//!
//! The routes themselves are a pure value: [`table`].
//!
//! Left out: speaking to the store, deciding who leads, checking servers' health, terminating TLS.
#![forbid(unsafe_code)]

pub mod confirm;
pub mod table;
pub mod topology;

mod answer;
mod cancel;
mod clock;
mod config;
mod connect;
mod history;
mod http;
mod listen;
mod registry;
mod relay;
mod resolve;
mod router;
mod session;
mod shared;
mod socket;
mod stats;
#[cfg(test)]
mod testing;
mod wire;
pub mod witness;

pub use clock::boottime;
pub use config::{RouterConfig, StartError};
pub use confirm::TermCheck;
pub use router::{LocalAddrs, Router};
pub use table::ReadFallback;
pub use topology::{HostPort, LeaderRoute, MemberRoute, Role, SyncRole, Topology};
pub use witness::Witness;
