//! The protocol of docs/protocol.md as two small models, all of whose states are looked at:
//! [`belief`] has the clocks (lease, beat, guard, silence, holds), [`ballot`] the consent (claims,
//! pledges, lists, commits). Where core's own functions can be used they are; a rule that is restated
//! names the function that it restates. Leaves long runs and real delays to the simulator.
#![forbid(unsafe_code)]

pub mod ballot;
pub mod belief;
pub mod explore;
pub mod mutant;
mod report;

pub use report::main;
