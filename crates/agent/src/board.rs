//! What the event loop shows to others: one value per turn, and the latest decisions.
//! Whoever answers HTTP reads it from memory and never asks the loop.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use pgherd_api::Cluster;
use pgherd_api::rest::DecisionBody;
use pgherd_core::peer::PeerBeat;
use pgherd_core::{Decision, Incarnation, NodeName, Term, Time};

use crate::clock;
use crate::postgres::Observation;

/// So many decisions are kept: some minutes of a bad day.
const DECISIONS: usize = 200;

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
    pub(crate) peers: Vec<PeerSeen>,
    /// What runs on PostgreSQL.
    pub(crate) operation: Option<&'static str>,
    /// How the last failed operation failed.
    pub(crate) last_failure: Option<String>,
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

impl Board {
    /// Whether this node leads and lets clients write, at an instant that may be later than the
    /// board: belief ends by itself.
    pub(crate) fn leads_now(&self, now: Time) -> bool {
        self.serving && self.belief_until.is_some_and(|end| now < end)
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
pub(crate) struct Journal(Arc<Mutex<VecDeque<DecisionBody>>>);

impl Journal {
    pub(crate) fn write(&self, decision: &Decision) {
        let mut decisions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() == DECISIONS {
            decisions.pop_back();
        }
        decisions.push_front(DecisionBody::new(decision, clock::unix_millis()));
    }

    /// The latest first.
    pub(crate) fn read(&self) -> Vec<DecisionBody> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
