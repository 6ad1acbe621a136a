//! What the event loop shows to others: one value per turn, and the latest decisions.
//! Whoever answers HTTP reads it from memory and never asks the loop.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use pgherd_api::Cluster;
use pgherd_api::rest::{AskedBody, DecisionBody};
use pgherd_core::disk::{Ailment, DiskFacts};
use pgherd_core::peer::PeerBeat;
use pgherd_core::postgres::PgState;
use pgherd_core::{Decision, Duration, Incarnation, Lsn, Node, NodeName, Restarts, Term, Time};

use crate::clock;
use crate::peers::Peers;
use crate::postgres::Observation;
use crate::restart::Planned;

/// So many decisions are kept: some minutes of a bad day.
const DECISIONS: usize = 200;
/// So many calls.
const CALLS: usize = 50;

/// An observation begun longer ago says nothing: a look whose every step hits its bound ends before
/// this, as "does not answer".
const OBSERVED_LIMIT: Duration = Duration::secs(5);

/// One node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) incarnation: Incarnation,
    /// When the loop turned last.
    pub(crate) at: Time,
    /// The cluster as the store last showed it.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// When the store was last heard.
    pub(crate) store: Option<StoreSeen>,
    /// PostgreSQL as it was last seen.
    pub(crate) observed: Option<Arc<Observation>>,
    pub(crate) decision: Decision,
    /// The term under which this node leads.
    pub(crate) leads: Option<Term>,
    /// Until when it believes that.
    pub(crate) belief_until: Option<Time>,
    /// Clients may write here.
    pub(crate) serving: bool,
    /// Synchronous waits that ended without the replicas.
    pub(crate) cancelled_waits: u64,
    /// Up to where there are commits of such waits that too few have.
    pub(crate) unreplicated: Option<Lsn>,
    /// The term that routers may rely on, and until when.
    pub(crate) vouches: Option<(Term, Time)>,
    /// The members confirm this leader, while the store is away.
    pub(crate) failsafe: bool,
    pub(crate) peers: Vec<PeerSeen>,
    /// What this node is ill of.
    pub(crate) ailment: Option<Ailment>,
    /// Its disks, as they were tried last.
    pub(crate) disks: DiskFacts,
    /// What runs on PostgreSQL.
    pub(crate) operation: Option<&'static str>,
    /// How the last failed operation failed.
    pub(crate) last_failure: Option<String>,
    /// An operator's restart is under way.
    pub(crate) restarting: bool,
    /// Those that have ended.
    pub(crate) restarts: Restarts,
    /// A restart that is due later.
    pub(crate) planned: Option<Arc<Planned>>,
}

/// When the store was last heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StoreSeen {
    pub(crate) at: Time,
    pub(crate) unix_seconds: i64,
}

/// A peer as it was last heard.
#[derive(Clone, Debug)]
pub(crate) struct PeerSeen {
    pub(crate) name: NodeName,
    pub(crate) connected: bool,
    pub(crate) heard: Option<(PeerBeat, Time)>,
}

/// Everybody to whom there is, or should be, a stream.
pub(crate) fn peers_seen(node: &Node, peers: &Peers) -> Vec<PeerSeen> {
    let heard = |wanted: &NodeName| {
        let found = node.peers().find(|(name, ..)| *name == wanted);
        found.map(|(_, beat, at)| (beat.clone(), at))
    };
    let known = peers.connected();
    known
        .map(|(name, connected)| PeerSeen { name: name.clone(), connected, heard: heard(name) })
        .collect()
}

impl Board {
    /// Whether this node leads and lets clients write, at an instant that may be later than the
    /// board: belief ends by itself.
    pub(crate) fn leads_now(&self, now: Time) -> bool {
        self.serving && self.holds_key(now)
    }

    /// Whether this node believes that the leader key is its own.
    pub(crate) fn holds_key(&self, now: Time) -> bool {
        self.belief_until.is_some_and(|end| now < end)
    }

    /// PostgreSQL's state, unless nobody has seen it for too long.
    pub(crate) fn state(&self, now: Time) -> Option<&PgState> {
        let observed = self.observed.as_ref()?;
        (now.since(observed.facts.at) < OBSERVED_LIMIT).then_some(&observed.facts.state)
    }

    /// The cluster's ttl, as last seen.
    pub(crate) fn ttl(&self) -> Duration {
        let view = self.cluster.as_ref().map(|cluster| cluster.view());
        let config = view.as_ref().and_then(|view| view.config.as_ref());
        config.map_or(Duration::secs(30), |config| config.value.ttl)
    }

    pub(crate) fn paused(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| {
            cluster.view().config.as_ref().is_some_and(|config| config.value.pause)
        })
    }
}

/// The latest decisions with the wall clock's time, shared between loop and HTTP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    latest_first: VecDeque<DecisionBody>,
    /// The calls that were to change something, the latest first.
    asked: VecDeque<AskedBody>,
    written: u64,
}

impl Journal {
    pub(crate) fn write(&self, decision: &Decision) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.latest_first.len() == DECISIONS {
            entries.latest_first.pop_back();
        }
        entries.written += 1;
        entries.latest_first.push_front(DecisionBody::new(decision, clock::unix_millis()));
    }

    /// Somebody wants something changed.
    pub(crate) fn note(&self, asked: AskedBody) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.asked.truncate(CALLS - 1);
        entries.asked.push_front(asked);
    }

    /// Who wanted what, the latest first.
    pub(crate) fn asked(&self) -> Vec<AskedBody> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.asked.iter().cloned().collect()
    }

    /// The latest first.
    pub(crate) fn read(&self) -> Vec<DecisionBody> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.latest_first.iter().cloned().collect()
    }

    /// How many there were so far: a mark for [`Self::since`].
    pub(crate) fn mark(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written
    }

    /// Those after the mark, the latest first.
    pub(crate) fn since(&self, mark: u64) -> Vec<DecisionBody> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = usize::try_from(entries.written.saturating_sub(mark)).unwrap_or(usize::MAX);
        entries.latest_first.iter().take(news).cloned().collect()
    }
}
