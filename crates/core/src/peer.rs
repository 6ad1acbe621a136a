//! What agents tell each other over their own streams, beside the store.
//! Leaves connections and encoding to the shell.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::disk::Ailment;
use crate::{Duration, Incarnation, Instance, Lsn, NodeName, Revision, Term, Time, Timeline};

/// One message between two agents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerMessage {
    /// Each 100 ms, and at once when something changes.
    Beat(PeerBeat),
    /// "Pledge ballot B to me": stop following the leader and say how far you got.
    AskPledge {
        /// The claim's revision.
        ballot: Revision,
    },
    /// The answer.
    Pledge {
        /// The claim's revision.
        ballot: Revision,
        /// Yes with the position, or no with the reason.
        answer: PledgeAnswer,
    },
    /// "Stay out of any other term than mine for the ttl": the leader, when the store is away.
    Hold {
        /// Its term.
        term: Term,
        /// For how long, from receipt.
        ttl: Duration,
        /// When it asks, on its own clock; comes back in the answer.
        at: Time,
    },
    /// Yes: it is on disk.
    Held {
        /// The term that is held.
        term: Term,
        /// When it was asked.
        at: Time,
    },
}

/// An agent's sign of life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerBeat {
    /// Which life of the agent.
    pub incarnation: Incarnation,
    /// The term under which this node is leader and believes it.
    pub leads: Option<Term>,
    /// Its PostgreSQL.
    pub pg: PeerPg,
    /// How far its WAL reaches; `None` while that isn't known.
    pub position: Option<Position>,
    /// The timeline of its PostgreSQL.
    pub timeline: Option<Timeline>,
    /// Its data directory's life.
    pub instance: Option<Instance>,
    /// It hears the leader (a beat or WAL within the last 300 ms).
    pub hears_leader: bool,
    /// It may lead (no `nofailover`, not paused, not stopping, not ill).
    pub electable: bool,
    /// The names in its PostgreSQL's synchronous list, when it is primary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<NodeName>,
    /// What it is ill of.
    #[serde(default)]
    pub ailment: Option<Ailment>,
    /// The life of the data directory of the member that it streams from or wants to, when that is
    /// not the leader.
    #[serde(default)]
    pub follows: Option<Instance>,
    /// It leads, and its PostgreSQL ended though nobody told it to. What of it still lives is being
    /// killed: the release, which says that all of it is dead, comes later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub died: bool,
}

/// The state of a peer's PostgreSQL, as it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerPg {
    /// No usable data.
    Absent,
    /// Not running.
    Down,
    /// Running, not answering yet, or no longer.
    Busy,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Replica {
        /// A WAL receiver streams.
        streaming: bool,
    },
}

/// How far a node's WAL reaches: the term whose WAL its end is, and the end. Ordered so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The latest term whose beginning lies within this WAL.
    pub term: Term,
    /// The end of what is on disk.
    pub lsn: Lsn,
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.term, self.lsn).cmp(&(other.term, other.lsn))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Yes or no to a ballot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PledgeAnswer {
    /// Persisted; this node receives nothing any more.
    Pledged {
        /// Where its WAL ends.
        position: Position,
        /// Its data directory's life.
        instance: Instance,
    },
    /// Not now.
    Refused(PledgeRefusal),
}

/// Why a voter refuses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PledgeRefusal {
    /// It hears the leader.
    HearsLeader,
    /// It knows a newer claim.
    NewerClaim,
    /// Management is paused.
    Paused,
    /// Its PostgreSQL can't say how far it got.
    NoPosition,
    /// It is stopping.
    Stopping,
    /// It leads, or is about to.
    Leads,
    /// It promised the leader to hold its term.
    Holds,
}

/// What a Patroni agent's REST API says of its PostgreSQL (contract 2.6): what Patroni's own
/// candidates ask each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatroniAnswer {
    /// Not in recovery: nobody else may lead while it runs.
    Primary,
    /// In recovery.
    Replica {
        /// The greater of received and replayed.
        lsn: Lsn,
        /// Its timeline.
        timeline: Option<Timeline>,
        /// A WAL receiver streams.
        streaming: bool,
        /// It may not lead (`nofailover`, or its watchdog failed).
        barred: bool,
    },
    /// The agent answers and its PostgreSQL doesn't.
    Down,
    /// No answer. That proves nothing.
    Unreachable,
}

/// How a stream to a peer ended: evidence, with the age that the core gives it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerLost {
    /// The connection ended or was reset: the agent's process is gone.
    Closed(NodeName),
    /// Nobody listens there.
    Refused(NodeName),
}
