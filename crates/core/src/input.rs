//! Everything that can happen to a node, and everything that it can want done.
//! The two closed vocabularies between the core and whoever carries it (agent or simulator).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterView, ForeignTerm, Purpose, Txn};
use crate::disk::DiskFacts;
use crate::peer::{PatroniAnswer, PeerLost, PeerMessage};
use crate::policy::Repair;
use crate::postgres::{PgFacts, PgOp, PgOpResult};
use crate::reason::Decision;
use crate::{Duration, Instance, LeaseId, NodeName, Revision, Tags, Term, Time, Timeline};

/// Numbers a request to the store; unique within one life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Numbers an operation on PostgreSQL; unique within one life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// Something happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A deadline is due, or nothing else happened for a while.
    Tick,
    /// The watch (or a read) shows the cluster as of a revision. Older than known: ignored.
    View(Arc<ClusterView>),
    /// The answer to [`Action::Store`].
    Store {
        /// Whose answer.
        id: RequestId,
        /// What came of it.
        outcome: StoreOutcome,
    },
    /// An observation of the local PostgreSQL, periodic and after each operation.
    Postgres(PgFacts),
    /// The postmaster's process ended (its pidfd fired). The guard kills the rest of the tree.
    PostgresExited,
    /// Nothing of PostgreSQL is left (the guard saw the last process go).
    PostgresEmpty,
    /// A [`crate::postgres::PgOp::Kill`] has got as far as SIGKILL pending on every process. Its
    /// [`Input::OpDone`] follows when nothing is left, which a hung disk can put off for ever.
    PostgresKilled {
        /// Which.
        id: OpId,
    },
    /// What became of the writes that try the disks.
    Disk(DiskFacts),
    /// The answer to [`Action::Postgres`].
    OpDone {
        /// Whose answer.
        id: OpId,
        /// What came of it.
        result: PgOpResult,
    },
    /// A peer says something.
    Peer {
        /// Who.
        from: NodeName,
        /// What.
        message: PeerMessage,
    },
    /// A stream to a peer ended.
    PeerLost(PeerLost),
    /// What came of [`Action::AskPatroni`].
    Patroni {
        /// Who was asked.
        from: NodeName,
        /// When, on this node's clock.
        asked: Time,
        /// What it said.
        answer: PatroniAnswer,
    },
    /// [`Action::Persist`] is on disk.
    Persisted {
        /// Whose answer.
        seq: u64,
    },
    /// Stop PostgreSQL in order, hand over or release, then [`Action::Exit`].
    Shutdown,
    /// An operator wants this node's data replaced by a new copy of the leader.
    Reinitialize,
    /// What the shell adds to the member key (a pending restart, tags, ...) has changed: it is
    /// written again.
    MemberChanged,
    /// The node's tags are others: they count from now on, and the member key is written again.
    Tags(Tags),
    /// What may be done to diverged data, from now on.
    Repair(Repair),
    /// [`Input::Reinitialize`], and a copy or repair that runs is given up for it.
    ReinitializeNow,
    /// An operator wants PostgreSQL stopped in order and started where it is.
    Restart,
    /// A start would bring this replica logical slots that it lacks: it is restarted if nothing speaks
    /// against that now, and the wish is forgotten otherwise.
    RestartForSlots,
}

/// What came of a request to the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StoreOutcome {
    /// A lease was granted.
    Granted(LeaseId),
    /// The lease lives; it was renewed.
    Alive,
    /// The lease is gone.
    LeaseGone,
    /// The transaction was applied at this revision.
    Applied(Revision),
    /// A compare did not hold; nothing happened.
    Refused,
    /// It certainly did not happen: nobody could be asked.
    NotSent,
    /// It may have happened: no answer came.
    Unknown,
}

impl StoreOutcome {
    /// At which revision a transaction is known to have happened.
    pub(crate) fn applied(&self) -> Option<Revision> {
        match self {
            Self::Applied(revision) => Some(*revision),
            Self::Refused
            | Self::NotSent
            | Self::Unknown
            | Self::Granted(_)
            | Self::Alive
            | Self::LeaseGone => None,
        }
    }
}

/// Something is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// Ask the store. Requests may overlap; answers come as [`Input::Store`].
    Store {
        /// For the answer.
        id: RequestId,
        /// What to ask.
        request: StoreRequest,
    },
    /// Do something to PostgreSQL. At most one at a time, except `Kill`, which cancels the other.
    Postgres {
        /// For the answer.
        id: OpId,
        /// What to do.
        op: PgOp,
        /// The term that it was planned under: refused when the guard has fired for it.
        term: Option<Term>,
    },
    /// Set the guard's deadline: unless it is moved on, PostgreSQL is killed then. Never waits.
    Arm {
        /// Under which term PostgreSQL may be primary.
        term: Term,
        /// On this node's clock.
        deadline: Time,
    },
    /// PostgreSQL is no primary (or management is paused): no deadline.
    Disarm,
    /// Tell a peer, if it can be reached now; never queued for later.
    Send {
        /// Whom.
        to: NodeName,
        /// What.
        message: PeerMessage,
    },
    /// Ask a Patroni agent's REST API where its PostgreSQL stands, within 2 s (contract 4.4).
    AskPatroni {
        /// Whom.
        node: NodeName,
    },
    /// Write this to disk outside the data directory, then [`Input::Persisted`]. In order.
    Persist {
        /// For the answer.
        seq: u64,
        /// What.
        record: Durable,
    },
    /// What this node decided, and why; only when it changed.
    Decided(Decision),
    /// The shutdown is complete.
    Exit,
}

/// A request to the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StoreRequest {
    /// A new lease.
    GrantLease {
        /// Its time to live.
        ttl: Duration,
    },
    /// Renew it.
    KeepAlive(LeaseId),
    /// One transaction.
    Txn(Txn),
    /// A linearizable read of everything; comes back as [`Input::View`].
    Read,
}

impl StoreRequest {
    /// The purpose, when it is a transaction.
    #[must_use]
    pub fn purpose(&self) -> Option<Purpose> {
        match self {
            Self::Txn(txn) => Some(txn.purpose),
            Self::GrantLease { .. } | Self::KeepAlive(_) | Self::Read => None,
        }
    }
}

/// What a node must remember across its own death, beside PostgreSQL's data.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The latest promise to a candidate.
    pub promise: Option<Promise>,
    /// The latest term whose beginning lies within this node's WAL.
    pub wal_term: Option<Term>,
    /// The terms whose leaders this data directory followed, or was copied or repaired from: it may
    /// hold WAL of these terms and of those that they continue, and of no other. More than one while
    /// a repair is under way.
    #[serde(default)]
    pub data_terms: Vec<Term>,
    /// The node whose WAL of these terms it is.
    #[serde(default)]
    pub data_from: Option<NodeName>,
    /// The member whose WAL it is instead, when that is not the leader.
    #[serde(default)]
    pub data_via: Option<Via>,
    /// Management was paused when last heard of: without the store, PostgreSQL is left alone.
    #[serde(default)]
    pub paused: bool,
    /// The latest promise to a leader to stay out of other terms.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// The greatest term that this node has seen: it never goes back behind it.
    pub term_seen: Option<Term>,
    /// The latest reign of an agent that writes no `term`.
    #[serde(default)]
    pub foreign: Option<ForeignTerm>,
    /// The terms that `wal_term` continues, as this node's own WAL has shown: for a foreign term,
    /// of which no key tells.
    #[serde(default)]
    pub wal_lineage: Vec<Term>,
}

/// A member that is not the leader, whose WAL a node streams.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Via {
    /// Which member.
    pub node: NodeName,
    /// The life of its data directory: all that came is a beginning of what it has in this life.
    pub instance: Instance,
    /// The leader's timeline when it began: WAL of later ones is of later terms.
    pub timeline: Timeline,
}

/// A pledge given: this node follows nobody but the candidate until the ballot is decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    /// The claim's revision.
    pub ballot: Revision,
    /// To whom.
    pub candidate: NodeName,
    /// Against which term.
    pub against: Option<Term>,
}

/// A hold given: for the ttl from its receipt, this node has no part in another term. A node that
/// starts counts from its start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// The term that is held.
    pub term: Term,
    /// Whose it is.
    pub leader: NodeName,
    /// For how long.
    pub ttl: Duration,
}
