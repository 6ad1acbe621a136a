//! Bodies of what a router asks an agent, and of WAL that was kept aside (docs/protocol.md, Routers).
//! Leaves everything of Patroni's to [`crate::rest`], which shows these as its own.

use pgherd_core::{NodeName, Term, Timeline};
use serde::{Deserialize, Serialize};

/// `GET /waiting`: for a router that has a cancel request to deliver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitingBody {
    /// The node.
    pub name: NodeName,
    /// The processes of backends whose commit waited for replicas, looked at after the call came.
    pub waiting: Vec<u32>,
}

/// WAL that is kept aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LostBody {
    /// When it was found, in unix seconds.
    pub at: u64,
    /// Its timeline.
    pub timeline: Timeline,
    /// Where the cluster's history goes another way.
    pub from: String,
    /// The last record that was found.
    pub to: String,
    /// Transactions that were committed there, acknowledged or not; absent: not counted to the end.
    pub commits: Option<u64>,
    /// Segments for which there was no room.
    pub left_out: u64,
    /// Where its segments are, on the node.
    pub path: String,
}

/// `GET /term`: until when a router may rely on this node's term (docs/protocol.md, Routers).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermBody {
    /// The node.
    pub name: NodeName,
    /// The cluster.
    pub scope: String,
    /// The term under which it leads and lets clients write.
    pub term: Option<Term>,
    /// For how long from now, in milliseconds; 0 when it doesn't.
    pub valid_ms: u64,
}
