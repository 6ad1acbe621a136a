//! What a node knows about its own PostgreSQL, and what it may ask of it.
//! Facts are observed and operations executed by the shell; nothing here decides.

use serde::{Deserialize, Serialize};

use crate::{Instance, Lsn, NodeName, SystemId, Time, Timeline};

/// One observation of the local PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PgFacts {
    /// When the observation began, on this node's clock.
    pub at: Time,
    /// What was seen.
    pub state: PgState,
}

/// The state of the local PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PgState {
    /// The data directory doesn't exist or is empty.
    Absent,
    /// A copy, rewind or initdb was interrupted; the directory must not be started.
    Broken(BrokenData),
    /// A data directory and no process of this PostgreSQL left.
    Stopped(ControlFacts),
    /// The postmaster lives and doesn't take connections yet (starting, crash recovery), or it is
    /// shutting down.
    NotAccepting(ControlFacts),
    /// The postmaster lives, but a new connection and query did not succeed since that instant.
    Unresponsive {
        /// The last time a probe succeeded, or the start of the process.
        since: Time,
        /// A signal or a debugger has stopped the postmaster: it is not merely slow.
        halted: bool,
    },
    /// It answers queries.
    Running(RunningFacts),
}

/// Why a data directory can't be used as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokenData {
    /// A marker says that initdb did not finish.
    InitInterrupted,
    /// A marker says that pg_rewind did not finish.
    RewindInterrupted,
    /// pg_control can't be read.
    ControlFile,
}

/// From pg_control (PostgreSQL docs, pg_controldata).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ControlFacts {
    /// Which database cluster this is.
    pub system_id: SystemId,
    /// The data directory's life.
    pub instance: Instance,
    /// State as of the last write of the file.
    pub state: ControlState,
    /// The latest checkpoint's timeline.
    pub timeline: Timeline,
    /// Where the latest checkpoint's record begins.
    pub checkpoint: Lsn,
    /// For a standby, how far its WAL must be replayed; 0/0 otherwise.
    pub min_recovery_end: Lsn,
}

/// "Database cluster state" of pg_controldata.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlState {
    /// Never started.
    StartingUp,
    /// A primary that wrote its shutdown checkpoint.
    ShutDown,
    /// A standby that was stopped cleanly.
    ShutDownInRecovery,
    /// A primary that is writing its shutdown checkpoint.
    ShuttingDown,
    /// A primary in crash recovery.
    InCrashRecovery,
    /// A standby, running or crashed.
    InArchiveRecovery,
    /// A primary, running or crashed.
    InProduction,
}

/// A PostgreSQL that answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunningFacts {
    /// Which database cluster this is.
    pub system_id: SystemId,
    /// The data directory's life.
    pub instance: Instance,
    /// The timeline being written (primary) or replayed and received (replica).
    pub timeline: Timeline,
    /// In recovery or not, and what belongs to it.
    pub role: PgRole,
}

/// What `pg_is_in_recovery()` says, with the facts that belong to each answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PgRole {
    /// Not in recovery.
    Primary(PrimaryFacts),
    /// In recovery.
    Replica(ReplicaFacts),
}

/// Facts of a primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryFacts {
    /// `pg_current_wal_flush_lsn()`.
    pub flushed: Lsn,
    /// `synchronous_standby_names` as a new connection sees it and every backend must by now.
    pub names: SyncNames,
    /// `pg_stat_replication`, one row per streaming client that is a node.
    pub senders: Vec<SenderFacts>,
    /// Where its timeline comes from: the lines of its own history file
    /// (`pg_wal/0000000N.history`), oldest first; empty on timeline 1.
    pub history: Vec<TimelineEnd>,
    /// pg_control names the timeline that is written: there was a checkpoint since the promotion.
    pub checkpointed: bool,
    /// Backends whose commit waits for replicas (`wait_event` SyncRep).
    pub waiting: Vec<WaitingBackend>,
}

/// A backend whose commit waits for replicas.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct WaitingBackend {
    /// Its process.
    pub pid: u32,
    /// When its transaction began, in unix microseconds: tells one wait of it from the next.
    pub began: i64,
}

/// One line of a timeline history file: that timeline ended here, and the next one began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineEnd {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The switch point.
    pub end: Lsn,
}

/// One row of `pg_stat_replication`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SenderFacts {
    /// `application_name`, when it is a node's name.
    pub node: NodeName,
    /// `state = 'streaming'`.
    pub streaming: bool,
    /// `flush_lsn`: what that replica has on disk.
    pub flushed: Lsn,
    /// `replay_lsn`.
    pub replayed: Lsn,
}

/// Facts of a replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// The greater of `pg_last_wal_receive_lsn()` and `pg_last_wal_replay_lsn()`: on disk here.
    pub received: Lsn,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Lsn,
    /// A WAL receiver is connected and streaming.
    pub streaming: bool,
    /// Where its WAL comes from, as its configuration says; `None`: from nowhere.
    pub upstream: Option<Upstream>,
    /// All local WAL has been replayed (nothing is received and replay stands at its end), so that
    /// `received` is the end of what this node has. Only then may it vote (docs/protocol.md, Pledges).
    pub at_end: bool,
}

/// Where a replica's WAL comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upstream {
    /// From the leader: a server in recovery is refused.
    Leader(NodeName),
    /// From the leader of a cluster that follows another one: it is in recovery itself.
    StandbyLeader(NodeName),
    /// From the cluster that this one follows; where that is, the shell knows.
    Remote,
    /// From another member, in that life of its data directory and in no other.
    Member {
        /// Which member.
        node: NodeName,
        /// The life of its data directory.
        instance: Instance,
    },
    /// From the archive alone, by `restore_command`.
    Archive,
}

impl Upstream {
    /// The node, when it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Leader(node) | Self::StandbyLeader(node) | Self::Member { node, .. } => {
                Some(node)
            }
            Self::Remote | Self::Archive => None,
        }
    }
}

impl SyncNames {
    /// A name that no node may have: a list of only it lets no commit be acknowledged, and keeps the
    /// list from being empty while the real names aren't known (docs/protocol.md, "The list").
    pub const NOBODY: &'static str = "pgherd.nobody";

    /// The list that no standby can satisfy.
    ///
    #[must_use]
    pub fn nobody() -> Self {
        let names = NodeName::new(Self::NOBODY).into_iter().collect();
        Self { count: 1, names }
    }

    /// Whether this is [`Self::nobody`].
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.names.len() == 1 && self.names[0].as_str() == Self::NOBODY
    }
}

/// A value of `synchronous_standby_names`: `ANY k (…)` or `FIRST k (…)`, or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncNames {
    /// How many must acknowledge; 0 with an empty list: commits wait for nobody.
    pub count: u32,
    /// The named nodes, sorted.
    pub names: Vec<NodeName>,
}

/// Something to be done to the local PostgreSQL. One at a time, except [`PgOp::Kill`], which
/// interrupts whatever runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PgOp {
    /// Make a new data directory with its roles and passwords; leaves PostgreSQL stopped.
    Init,
    /// Start as primary (crash recovery included), with this list in force before any client.
    /// The guard is armed first.
    StartPrimary {
        /// `synchronous_standby_names` from the first moment.
        names: SyncNames,
    },
    /// Start as replica of `upstream`, or of nobody.
    StartReplica {
        /// Whom to stream from.
        upstream: Option<Upstream>,
    },
    /// Point a running replica at another upstream. `None` stops receiving and returns only when
    /// the WAL receiver process is gone (a pledge).
    Follow {
        /// Whom to stream from.
        upstream: Option<Upstream>,
    },
    /// End recovery: become primary on a new timeline, with this list in force before any client.
    Promote {
        /// `synchronous_standby_names` from the first moment.
        names: SyncNames,
    },
    /// A planned stop: checkpoint first, then fast; the tree is killed when it takes too long.
    Stop,
    /// Kill the whole process tree now (SIGKILL), and report when nothing is left.
    Kill,
    /// Make this former primary's directory a replica's of `source` with pg_rewind.
    Rewind {
        /// The leader.
        source: NodeName,
    },
    /// Replace the directory by a new copy; what was there is moved aside first.
    Clone {
        /// Whose data.
        source: Source,
    },
    /// Change `synchronous_standby_names`; done when a new connection and the checkpointer have
    /// loaded it.
    SetNames {
        /// The value to be in force.
        names: SyncNames,
    },
    /// Make sure that each of these nodes has a physical slot here. What becomes of the slots of
    /// others is the shell's: it knows how long they are kept.
    EnsureSlots {
        /// The nodes that may stream from here.
        nodes: Vec<NodeName>,
    },
}

/// Where a new copy of the data comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The leader: a server in recovery is refused.
    Leader(NodeName),
    /// A replica that stands in for it, or the leader of a cluster that follows another one.
    Member(NodeName),
    /// The cluster that this one follows.
    Remote,
    /// A backup, by the methods that need no running server.
    Backup,
}

impl Source {
    /// The node, when it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Leader(node) | Self::Member(node) => Some(node),
            Self::Remote | Self::Backup => None,
        }
    }
}

/// How an operation ended. Failed is a normal value: what follows is decided from new facts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PgOpResult {
    /// Done; the next facts show it.
    Done,
    /// Interrupted by [`PgOp::Kill`].
    Cancelled,
    /// It failed, with the last words of the tool for the reader.
    Failed(PgOpFailure),
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PgOpFailure {
    /// The class that decides what follows.
    pub kind: PgFailureKind,
    /// Words for the reader: a tool's last line, a SQLSTATE and message. Never a secret.
    pub detail: String,
}

/// Classes of failure that are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgFailureKind {
    /// It took longer than its bound.
    TimedOut,
    /// No space left on the device.
    DiskFull,
    /// The source could not be reached.
    SourceUnreachable,
    /// pg_rewind can't do it (missing WAL, no common ancestor, same timeline).
    RewindImpossible,
    /// A process ended with an error.
    ToolFailed,
    /// A query failed.
    QueryFailed,
    /// The user's script said no to a promotion (`pre_promote`).
    Refused,
}
