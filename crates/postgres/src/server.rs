//! The server as the agent sees it (API first; bodies follow).

use pgherd_core::postgres::{PgFacts, PgOp, PgOpResult};
use pgherd_core::{Instance, Term, Time};

use crate::{Peers, PgError, Settings};

/// One PostgreSQL and everything the agent holds of it.
pub struct Server {
    _settings: Settings,
}

/// What [`Server::open`] found running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A PostgreSQL under a guard of ours; it was adopted.
    Adopted {
        /// The term its guard is armed for.
        term: Term,
        /// Its deadline.
        deadline: Time,
    },
    /// Processes without a living guard. [`PgOp::Stop`] stops them in order, [`PgOp::Kill`] and
    /// every start kill them.
    Unguarded {
        /// Their pids.
        pids: Vec<i32>,
    },
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes received.
    pub done: u64,
    /// Bytes expected; grows when the source grows.
    pub total: u64,
}
#[allow(
    clippy::unused_async,
    clippy::unimplemented,
    unused_variables,
    missing_docs,
    clippy::missing_errors_doc
)]
impl Server {
    pub async fn open(settings: Settings, peers: Peers) -> Result<(Self, Found), PgError> {
        unimplemented!()
    }
    /// Observes, within about a second whatever PostgreSQL does. `now` becomes the facts' time.
    pub async fn facts(&self, now: Time) -> PgFacts {
        unimplemented!()
    }
    /// One at a time (a second waits), except Kill.
    pub async fn execute(&self, op: PgOp) -> PgOpResult {
        unimplemented!()
    }
    /// Asks the guard to kill now, and cancels the running operation. Never waits.
    pub fn kill(&self) {
        unimplemented!()
    }
    /// Until SIGKILL is pending on every process of the tree or it is gone.
    pub async fn killed(&self) {
        unimplemented!()
    }
    /// Until no process is left. Pending as long as one is.
    pub async fn empty(&self) {
        unimplemented!()
    }
    /// Until a postmaster ends that hasn't been reported yet.
    pub async fn exited(&self) {
        unimplemented!()
    }
    /// Arms the guard; before a start: the next StartPrimary is armed so. False when too late.
    pub fn arm(&self, term: Term, deadline: Time) -> bool {
        unimplemented!()
    }
    pub fn progress(&self) -> Option<Progress> {
        unimplemented!()
    }
    pub fn instance(&self) -> Option<Instance> {
        unimplemented!()
    }
}
