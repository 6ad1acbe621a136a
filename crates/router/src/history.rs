//! What changed lately, in sentences, and since when there is (or isn't) a primary.
//! Leaves what a change means for sessions to `table`.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgherd_core::types::{NodeName, Term};
use serde::Serialize;

use crate::topology::{MemberRoute, Topology};

/// Enough for the story of a bad night's last failover, small enough for every status answer.
const CHANGES_MAX: usize = 50;

/// The story so far.
#[derive(Default)]
pub(crate) struct History {
    changes: VecDeque<Change>,
    leader_change: Option<LeaderChange>,
    /// The last leader that there was, also while there is none.
    last_leader: Option<(NodeName, Term)>,
    /// Since when the present state of the write route lasts, and whether there is one.
    primary: Option<(bool, Instant)>,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Change {
    /// When the router learned of it.
    pub(crate) at: Timestamp,
    pub(crate) kind: ChangeKind,
    pub(crate) text: String,
}

/// What sort of thing, for the eye.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeKind {
    Leader,
    Lost,
    Member,
    Note,
}

/// The last time that another member became leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct LeaderChange {
    pub(crate) at: Timestamp,
    pub(crate) from: Option<NodeName>,
    pub(crate) to: NodeName,
    pub(crate) term: Term,
}

impl History {
    /// Takes in that `old` became `new`. True when there is another leader than the last one.
    pub(crate) fn record(&mut self, old: &Topology, new: &Topology, at: Timestamp) -> bool {
        for (kind, text) in changes(old, new) {
            if self.changes.len() == CHANGES_MAX {
                self.changes.pop_front();
            }
            self.changes.push_back(Change { at, kind, text });
        }
        let Some(leader) = &new.leader else { return false };
        let from = self.last_leader.replace((leader.name.clone(), leader.term));
        if from.as_ref().is_some_and(|(name, _)| *name == leader.name) {
            return false;
        }
        let changed = from.is_some();
        if changed {
            let from = from.map(|(name, _)| name);
            let (to, term) = (leader.name.clone(), leader.term);
            self.leader_change = Some(LeaderChange { at, from, to, term });
        }
        changed
    }

    /// Takes in whether writes have a route now.
    pub(crate) fn set_primary(&mut self, routed: bool, now: Instant) {
        if self.primary.is_none_or(|(was, _)| was != routed) {
            self.primary = Some((routed, now));
        }
    }

    /// For how long there has (true) or hasn't (false) been a route for writes.
    pub(crate) fn primary_for(&self) -> (bool, Duration) {
        self.primary.map_or((false, Duration::ZERO), |(is, since)| (is, since.elapsed()))
    }

    /// The changes, the newest first.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes.iter().rev().cloned().collect()
    }

    pub(crate) fn leader_change(&self) -> Option<&LeaderChange> {
        self.leader_change.as_ref()
    }
}

/// What happened between two views, in sentences.
fn changes(old: &Topology, new: &Topology) -> Vec<(ChangeKind, String)> {
    if new.fresh_at.is_none() {
        return Vec::new();
    }
    if old.fresh_at.is_none() {
        let who = new.leader.as_ref().map_or_else(
            || "no leader".to_owned(),
            |leader| format!("{} leads (term {})", leader.name, leader.term),
        );
        let text = format!("first view of the cluster: {} members, {who}", new.members.len());
        return vec![(ChangeKind::Note, text)];
    }
    let mut changes = Vec::new();
    leader(old, new, &mut changes);
    for member in &new.members {
        match old.members.iter().find(|m| m.name == member.name) {
            Some(was) => member_changed(was, member, &mut changes),
            None => changes
                .push((ChangeKind::Member, format!("{} joined ({})", member.name, member.address))),
        }
    }
    for was in &old.members {
        if !new.members.iter().any(|m| m.name == was.name) {
            changes.push((ChangeKind::Lost, format!("{} left the list of members", was.name)));
        }
    }
    if old.paused != new.paused {
        let verb = if new.paused { "paused" } else { "resumed" };
        changes.push((ChangeKind::Note, format!("automatic failover was {verb}")));
    }
    changes
}

fn leader(old: &Topology, new: &Topology, changes: &mut Vec<(ChangeKind, String)>) {
    let mut say = |kind, text| changes.push((kind, text));
    match (&old.leader, &new.leader) {
        (Some(was), None) => {
            say(ChangeKind::Lost, format!("{} lost the leader key (term {})", was.name, was.term));
        }
        (was, Some(is)) => {
            let same_reign =
                was.as_ref().is_some_and(|was| was.name == is.name && was.term == is.term);
            let served = same_reign && was.as_ref().is_some_and(|was| was.serving);
            let (name, term) = (&is.name, is.term);
            if !same_reign && is.serving {
                say(ChangeKind::Leader, format!("{name} leads and accepts writes (term {term})"));
            } else if !same_reign {
                say(ChangeKind::Leader, format!("{name} holds the leader key (term {term})"));
            } else if is.serving && !served {
                say(ChangeKind::Leader, format!("{name} accepts writes (term {term})"));
            } else if served && !is.serving {
                say(ChangeKind::Lost, format!("{name} stopped accepting writes"));
            }
        }
        (None, None) => {}
    }
}

fn member_changed(was: &MemberRoute, is: &MemberRoute, changes: &mut Vec<(ChangeKind, String)>) {
    // A promotion changes the word too, and is told already.
    if was.state != is.state && was.role == is.role {
        changes.push((ChangeKind::Member, format!("{}: {} → {}", is.name, was.state, is.state)));
    }
    if was.address != is.address {
        changes.push((ChangeKind::Member, format!("{} moved to {}", is.name, is.address)));
    }
}
