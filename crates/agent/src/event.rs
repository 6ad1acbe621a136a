//! Everything that lanes and streams tell the event loop. Answers of the store and of the disk
//! don't come this way: the loop owns those tasks and joins them.

use pgherd_config::{Problem, Settings};
use pgherd_core::disk::DiskFacts;
use pgherd_core::peer::{PeerLost, PeerMessage};
use pgherd_core::postgres::{PgOp, PgOpResult};
use pgherd_core::{NodeName, OpId};

use tokio::sync::oneshot;

use crate::postgres::Observation;
use crate::restart::Planned;
use pgherd_postgres::{Pending, SlotSeen};

/// What happened outside.
#[derive(Debug)]
pub(crate) enum Event {
    /// PostgreSQL was looked at.
    Observed(Box<Observation>),
    /// The postmaster ended.
    PostgresExited,
    /// Nothing of PostgreSQL is left.
    PostgresEmpty,
    /// A kill has reached every process, though some may not end yet.
    PostgresKilled {
        /// Which.
        id: OpId,
    },
    /// What became of the writes that try the disks.
    Disks(DiskFacts),
    /// An operation on PostgreSQL ended.
    OpDone {
        /// Which.
        id: OpId,
        /// What it was.
        op: PgOp,
        /// How.
        result: PgOpResult,
    },
    /// A peer said something.
    Peer {
        /// Who.
        from: NodeName,
        /// What.
        message: PeerMessage,
    },
    /// A stream to a peer ended.
    PeerLost(PeerLost),
    /// An operator wants this node's data replaced.
    Reinitialize {
        /// A copy or repair that runs is given up.
        force: bool,
    },
    /// An operator wants the configuration read again.
    Reload,
    /// The configuration was read again.
    Reread(Box<Result<Settings, Vec<Problem>>>),
    /// An operator wants PostgreSQL restarted.
    Restart,
    /// A restart would bring this replica logical slots.
    RestartForSlots,
    /// The replication slots as they were seen.
    Slots(Vec<SlotSeen>),
    /// A Patroni leader without the store asks this node to hold its term; answered when it does.
    HoldFor {
        /// Whoever says that it leads.
        leader: NodeName,
        /// Whoever waits for the answer.
        reply: oneshot::Sender<()>,
    },
    /// Other parameters wait for a restart of PostgreSQL.
    PendingRestart(Pending),
    /// An operator plans a restart, or takes the plan back; the answer says whether there was room
    /// for it, or anything to take back.
    PlanRestart {
        /// The plan.
        plan: Option<Box<Planned>>,
        /// Whoever waits for the answer.
        reply: oneshot::Sender<bool>,
    },
}

/// How many events may wait. The loop takes one in microseconds; senders that find it full wait,
/// which stops their streams and is felt by nobody else. A burst is one message from each peer, one
/// observation and an operation's end, so this is ample.
pub(crate) const EVENTS_BOUND: usize = 256;
