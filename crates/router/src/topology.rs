//! What the router is told: one view of the cluster, a plain value that somebody else fills.
//! Leaves reading the store and parsing its keys to that somebody, and what to route to `table`.

use std::fmt;

use pgherd_core::time::Time;
use pgherd_core::types::{Lsn, NodeName, Term, Timeline};

/// The cluster as the store describes it at one revision.
///
/// Who fills it keeps sending the last view while the store can't be reached, with the old
/// `fresh_at`: losing the store is not losing the leader.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    /// The cluster's name (scope).
    pub cluster: String,
    /// The store's revision that this view was read at.
    pub revision: u64,
    /// When the store last confirmed that this view is current, on CLOCK_BOOTTIME; `None` = never.
    /// Nothing is routed before the first confirmation.
    pub fresh_at: Option<Time>,
    /// The member that holds the leader key; `None` when the key is absent.
    pub leader: Option<LeaderRoute>,
    /// Every member that the store lists.
    pub members: Vec<MemberRoute>,
    /// Replicas further behind than this many bytes get no new read sessions.
    pub max_lag: u64,
    /// Whether automatic failover is paused.
    pub paused: bool,
    /// The cluster's synchronous mode, as its settings name it (`off`, `on`, `quorum`, ...).
    pub sync_mode: String,
    /// Sentences that the dashboard shows as they are.
    pub notes: Vec<String>,
}

/// The holder of the leader key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderRoute {
    /// Whose key it is.
    pub name: NodeName,
    /// The reign; it only grows.
    pub term: Term,
    /// Whether it accepts writes already: promoted, and let in by its agent.
    pub serving: bool,
    /// Where its PostgreSQL listens.
    pub address: HostPort,
    /// Until when somebody who knows vouches for this term, on CLOCK_BOOTTIME; `None` = nobody has.
    /// Only [`crate::TermCheck::On`] asks for it.
    pub confirmed_until: Option<Time>,
}

/// One member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRoute {
    /// The member's name.
    pub name: NodeName,
    /// Where its PostgreSQL listens.
    pub address: HostPort,
    /// What it says it is.
    pub role: Role,
    /// Its state in its own word: `running`, `streaming`, `starting`, ...
    pub state: String,
    /// Whether it receives WAL over streaming replication.
    pub streaming: bool,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// Its WAL position.
    pub lsn: Option<Lsn>,
    /// How far it lies behind the leader; `None` = unknown.
    pub lag_bytes: Option<u64>,
    /// Tagged to get no read sessions.
    pub noloadbalance: bool,
    /// Its agent's REST API.
    pub api_url: Option<String>,
    /// Its part in synchronous replication.
    pub sync: SyncRole,
}

/// What a member says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Holds the leader key.
    Leader,
    /// Follows a leader.
    Replica,
    /// Anything else: uninitialized, a standby leader, a word from the future.
    Other,
}

/// A member's part in synchronous replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncRole {
    /// No commit waits for it.
    #[default]
    None,
    /// A synchronous standby.
    Sync,
    /// One of those that make up a quorum.
    Quorum,
}

/// A host name or address, and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl HostPort {
    /// Puts host and port together.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
