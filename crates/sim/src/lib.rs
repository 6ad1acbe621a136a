//! A simulated world for the core: agents with their guards, a store with leases, PostgreSQLs, a
//! network, clients, an operator, faults; and the invariants that must hold at every step.
//!
//! One thread, one seed, virtual microseconds: the same seed gives the same run, event by event.
//! Nothing here decides anything about the cluster; that is the core's.
#![forbid(unsafe_code)]

mod actions;
mod client;
mod clock;
mod cluster_store;
mod command;
mod disk;
mod event;
mod faults;
mod invariants;
mod ledger;
mod machine;
mod net;
mod operator;
mod ops;
mod patroni;
mod pg;
mod postmaster;
mod queue;
mod refine;
mod replay;
mod report;
mod rng;
mod run;
mod scenario;
mod stats;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod wal;
mod world;

pub use command::{Outside, main};
pub use run::{Outcome, Wanted, seed};
pub use world::Violation;
