//! Failsafe: while the store is away, the members themselves confirm the leader (docs/protocol.md,
//! Failsafe). Both sides of it: the leader asks, a member promises. Leaves belief to `node`.

use std::collections::BTreeSet;

use crate::cluster::{Key, Op, Purpose, SyncState, Value};
use crate::input::{Action, Hold};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::{PeerMessage, PeerPg};
use crate::{Duration, NodeName, Term, Time};

/// Between two questions to the same member.
const ASK: Duration = Duration::millis(200);

impl Node {
    // === the leader ===

    /// Since when enough members hold this node's term that nobody else can get it: the sending of
    /// the oldest question among the answers that are needed. `None`: not enough answered.
    pub(crate) fn held_since(&self) -> Option<Time> {
        let reign = self.reign.as_ref().filter(|r| r.ended.is_none())?;
        if !self.policy().failsafe_mode {
            return None;
        }
        // This node pledges to nobody while it leads; but alone it confirms nothing.
        let latest = reign.holds.values().max().copied();
        let held = |node: &NodeName| {
            if *node == self.config.name { latest } else { reign.holds.get(node).copied() }
        };
        let others = |sync: &SyncState| sync.voters.keys().any(|node| *node != self.config.name);
        // Nobody else may take over without every member of the map, nor who isn't in it. Patroni's
        // candidates need no pledges, in no mode.
        let everyone = || {
            let map = &self.view.failsafe.as_ref()?.value;
            let mut everyone: BTreeSet<&NodeName> = map.iter().chain(&self.sent_failsafe).collect();
            everyone.extend(self.sent_syncs.iter().flat_map(|sync| sync.voters.keys()));
            everyone.into_iter().map(held).min().flatten()
        };
        if !self.policy().synchronous() || !self.patroni.is_empty() {
            return everyone();
        }
        // Whichever of these stands in the store by now: enough for each.
        let nobody = SyncState::default();
        let standing = self.view.sync.as_ref().map_or(&nobody, |sync| &sync.value);
        let fewer = usize::from(self.breaks(Mutant::OneHoldTooFew));
        let since = |sync| if others(sync) { enough(sync, fewer, held) } else { everyone() };
        std::iter::once(standing).chain(&self.sent_syncs).map(since).min().flatten()
    }

    /// Asks the members to hold the term as soon as the store's proofs come late.
    pub(crate) fn ask_holds(&mut self) {
        if !self.policy().failsafe_mode {
            return;
        }
        let (now, late) = (self.now, self.store_is_late());
        let Some(reign) = self.reign.as_mut().filter(|r| r.ended.is_none()) else { return };
        if !late || now < reign.next_hold {
            return;
        }
        reign.next_hold = now + ASK;
        let message = PeerMessage::Hold { term: reign.term, ttl: reign.ttl, at: now };
        for to in self.holders() {
            self.push(Action::Send { to, message: message.clone() });
        }
    }

    /// The store's proofs come late: two beats in a row brought none. Until they come again, what the
    /// members' word rests on stands still: their list, and PostgreSQL's.
    pub(crate) fn store_is_late(&self) -> bool {
        let patience = self.policy().ttl.percent(40);
        self.store_proof().is_none_or(|at| self.passed(at, patience))
    }

    fn holders(&self) -> BTreeSet<NodeName> {
        let map = self.view.failsafe.iter().flat_map(|map| &map.value).chain(&self.sent_failsafe);
        let lists = self.view.sync.iter().map(|s| &s.value).chain(&self.sent_syncs);
        let names = map.chain(lists.flat_map(|sync| sync.voters.keys()));
        names.filter(|node| **node != self.config.name).cloned().collect()
    }

    pub(crate) fn on_held(&mut self, from: NodeName, term: Term, at: Time) {
        let now = self.now;
        let Some(reign) = self.reign.as_mut().filter(|r| r.term == term && at <= now) else {
            return;
        };
        let known = reign.holds.entry(from).or_insert(at);
        *known = (*known).max(at);
    }

    /// Members confirm the leader now, and not the store.
    #[must_use]
    pub fn failsafe_active(&self) -> bool {
        self.store_is_late() && self.leads().is_some() && self.held_since().is_some()
    }

    /// `failsafe` names everybody who has to agree where no voters are named (contract 1.3).
    pub(crate) fn publish_failsafe(&mut self) {
        if self.in_flight(Purpose::PublishFailsafe) > 0 || self.view_lags() || self.store_is_late()
        {
            return;
        }
        let wanted: Option<BTreeSet<NodeName>> =
            self.policy().failsafe_mode.then(|| self.view.members.keys().cloned().collect());
        if wanted.as_ref() == self.view.failsafe.as_ref().map(|map| &map.value) {
            self.sent_failsafe.clear();
            return;
        }
        if let Some(wanted) = wanted {
            self.sent_failsafe.extend(wanted.iter().cloned());
            self.under_term(Purpose::PublishFailsafe, Key::Failsafe, Value::Failsafe(wanted));
        } else {
            self.txn_under_term(
                Purpose::PublishFailsafe,
                &Key::Failsafe,
                Op::Delete(Key::Failsafe),
            );
        }
    }

    // === a member ===

    /// A leader asks this node not to have any part in another term.
    pub(crate) fn on_hold(&mut self, from: NodeName, term: Term, ttl: Duration, at: Time) {
        if !self.free_to_hold(term) {
            return;
        }
        let hold = Hold { term, leader: from.clone(), ttl };
        if self.durable.hold.as_ref() != Some(&hold) {
            self.durable.hold = Some(hold);
            self.persist();
        }
        self.held_until = self.held_until.max(self.now + ttl.percent(101));
        self.hold_answer = Some((from, term, at));
    }

    /// Nothing that this node did or promised can still help another term.
    fn free_to_hold(&self, term: Term) -> bool {
        let known = self.durable.term_seen.max(self.view.current_term());
        let promised = self.durable.promise.as_ref().is_some_and(|p| p.against >= Some(term));
        let tries = [Purpose::TakeOver, Purpose::Found, Purpose::Claim];
        known <= Some(term)
            && !promised
            && self.reign.is_none()
            && self.candidacy.is_none()
            && self.attempts.iter().all(|attempt| attempt.over < Some(term))
            && tries.iter().all(|purpose| self.in_flight(*purpose) == 0)
    }

    /// The promise is on disk: say so.
    pub(crate) fn answer_hold(&mut self) {
        if !self.all_persisted() {
            return;
        }
        if let Some((to, term, at)) = self.hold_answer.take() {
            // A disk that stalls keeps promises waiting while the cluster goes on.
            if !self.free_to_hold(term) {
                return;
            }
            self.push(Action::Send { to, message: PeerMessage::Held { term, at } });
        }
    }

    /// This node promised a leader to stay out, and that leader may still count on it.
    pub(crate) fn holds(&self) -> bool {
        let Some(hold) = &self.durable.hold else { return false };
        if self.breaks(Mutant::HoldForgotten) {
            return false;
        }
        let over = self.view.current_term() > Some(hold.term) || self.says_it_is_dead(hold);
        self.now < self.held_until && !over
    }

    /// The leader's own agent says that its PostgreSQL is dead: nobody counts on anything.
    fn says_it_is_dead(&self, hold: &Hold) -> bool {
        let ended = self.view.current_term() == Some(hold.term) && self.view.reign_end().is_some();
        let down = self.fresh(&hold.leader, Duration::secs(1)).is_some_and(|said| {
            said.leads.is_none() && matches!(said.pg, PeerPg::Down | PeerPg::Absent)
        });
        ended || down
    }
}

/// The n-th latest of the voters' holds, where n is what meets every set of `quorum` + 1 pledges.
fn enough(
    sync: &SyncState,
    fewer: usize,
    held: impl Fn(&NodeName) -> Option<Time>,
) -> Option<Time> {
    let needed = sync.voters.len().saturating_sub(sync.quorum as usize + fewer).max(1);
    let mut since: Vec<Time> = sync.voters.keys().filter_map(held).collect();
    since.sort_unstable_by(|a, b| b.cmp(a));
    since.get(needed - 1).copied()
}

#[cfg(test)]
mod tests;
