//! The guard: one process per life of a postmaster, which outlives the agent and kills PostgreSQL,
//! the whole process tree, when the agent's belief ends.
//!
//! Two sides, one page of shared memory between them ([`shared`]):
//! - [`main`] is the guard process ([`watch`]): it starts the postmaster, sleeps until the deadline
//!   and kills ([`tree`], with [`cgroup`] where there is one). It never waits for the agent, a disk, a lock or an allocation.
//!   Where a kernel's watchdog is wanted, it feeds it ([`watchdog`]).
//! - [`Guard`] is the agent's handle ([`handle`]): spawn, adopt after a restart, arm, kill.
//! - [`sweep`] is for the case that the guard itself was killed: the kernel then kills the
//!   postmaster, and the agent kills what that left behind.
//!
//! Left to others: when to arm and what a deadline means (core), waiting without blocking a thread
//! and everything about PostgreSQL except its processes (`pgherd-postgres`).

mod cgroup;
mod handle;
mod process;
mod shared;
mod sweep;
mod tree;
mod watch;
mod watchdog;

pub use handle::{Guard, GuardError, GuardSpec, LastWords, last_words};
pub use process::{Pid, ProcessStat, ProcessState, boottime_micros, stat};
pub use shared::{Cause, NEVER, Phase, Status};
pub use sweep::{SweepError, living_in, sweep};
pub use watch::main;
pub use watchdog::{Driver, Watchdog, WatchdogState};

/// `argv[0]` and the command name of a guard: whoever is started under this name calls [`main`].
pub const ARGV0: &str = "pg-fence";
