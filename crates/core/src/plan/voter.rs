//! Another node asks for this one's pledge: promise, on disk, and stop receiving; after both, say how
//! far one got. Bound until the ballot can't succeed any more (docs/protocol.md, Pledges).

use crate::cluster::{Purpose, ReignEnd};
use crate::input::{Action, Promise};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::{PeerBeat, PeerMessage, PledgeAnswer, PledgeRefusal};
use crate::postgres::{PgOp, PgState};
use crate::state::Asked;
use crate::{Duration, NodeName};

/// A question that can't be answered within this time is dropped; the candidate asks again.
const STALE: Duration = Duration::secs(1);
/// Killing what is left of a PostgreSQL takes less than this, and the release comes after it.
const DYING: Duration = Duration::secs(1);
/// A ballot that nobody decides is withdrawn by a voter after this.
const UNDECIDED: Duration = Duration::secs(2);

impl Node {
    /// The candidate to whom this node is bound, when it is another's ballot that may still
    /// succeed.
    pub(crate) fn bound_to_candidate(&mut self) -> Option<NodeName> {
        let promise = self.durable.promise.clone()?;
        let decided = self.newer_term_than(promise.against)
            || self.view.claim.as_ref().is_some_and(|c| c.modified > promise.ballot);
        let forgotten = self.breaks(Mutant::PledgeForgotten) && self.asked.is_none();
        if decided || forgotten {
            self.durable.promise = None;
            self.persist();
            return None;
        }
        if promise.candidate == self.config.name && self.candidacy.is_some() {
            return None;
        }
        let undecided = self
            .view
            .claim
            .as_ref()
            .is_some_and(|c| c.modified == promise.ballot && !c.value.withdrawn);
        let old = self.passed(self.claim_seen.1, UNDECIDED);
        if undecided && (old || promise.candidate == self.config.name) {
            self.withdraw(promise.ballot);
        }
        Some(promise.candidate)
    }

    /// Goes on with the question that was asked last, as far as it can now.
    pub(crate) fn answer_pledge(&mut self) {
        let Some(asked) = self.asked.clone() else { return };
        let promised = self.durable.promise.as_ref().is_some_and(|p| p.ballot == asked.ballot);
        if let Some(why) = self.refusal(&asked, promised) {
            self.answer(&asked, PledgeAnswer::Refused(why));
            return;
        }
        // The question may arrive before the claim's revision does.
        let known = self.view.claim.as_ref().is_some_and(|c| {
            c.modified == asked.ballot && c.value.candidate == asked.from && !c.value.withdrawn
        });
        if !known {
            if self.passed(asked.at, STALE) {
                self.asked = None;
            } else {
                self.read();
            }
            return;
        }
        if !promised {
            self.candidacy = None;
            self.durable.promise = Some(Promise {
                ballot: asked.ballot,
                candidate: asked.from.clone(),
                against: self.view.current_term(),
            });
            self.persist();
        }
        self.stop_receiving_and_answer(&asked);
    }

    fn refusal(&self, asked: &Asked, promised: bool) -> Option<PledgeRefusal> {
        if self.shutdown.is_some() {
            return Some(PledgeRefusal::Stopping);
        }
        if self.policy().pause {
            return Some(PledgeRefusal::Paused);
        }
        if self.holds() {
            return Some(PledgeRefusal::Holds);
        }
        let taking = self.in_flight(Purpose::TakeOver) + self.in_flight(Purpose::Found) > 0;
        if self.reign.is_some() || self.primary().is_some() || taking {
            return Some(PledgeRefusal::Leads);
        }
        let newer = self.view.claim.as_ref().is_some_and(|c| c.modified > asked.ballot);
        let to_newer = self.durable.promise.as_ref().is_some_and(|p| p.ballot > asked.ballot);
        if newer || to_newer {
            return Some(PledgeRefusal::NewerClaim);
        }
        let free = matches!(
            self.view.reign_end(),
            Some(ReignEnd::Died | ReignEnd::Stopped { .. } | ReignEnd::HandedOver { .. })
        ) || self.view.foreign_over();
        if !promised && !free && self.hears_leader() {
            return Some(PledgeRefusal::HearsLeader);
        }
        match self.pg_facts().map(|f| &f.state) {
            Some(
                PgState::Absent
                | PgState::Broken(_)
                | PgState::NotAccepting(_)
                | PgState::Unresponsive { .. },
            ) => Some(PledgeRefusal::NoPosition),
            Some(PgState::Stopped(control)) if Self::primary_data(control) => {
                Some(PledgeRefusal::NoPosition)
            }
            Some(PgState::Stopped(_) | PgState::Running(_)) | None => None,
        }
    }

    fn stop_receiving_and_answer(&mut self, asked: &Asked) {
        if self.op.is_some() || self.kill.is_some() {
            // What it does is not in the facts yet: it may be about to follow somebody.
            return;
        }
        if self.stopped().is_some() {
            self.start_op(PgOp::StartReplica { upstream: None });
            return;
        }
        let Some(replica) = self.replica() else { return };
        let quiet = replica.upstream.is_none() && !replica.streaming;
        if !quiet && !self.breaks(Mutant::PledgeKeepsReceiving) {
            self.start_op(PgOp::Follow { upstream: None });
            return;
        }
        if !replica.at_end && !self.breaks(Mutant::PledgeKeepsReceiving) {
            return;
        }
        // Both at once, and the answer after both.
        if !self.all_persisted() && !self.breaks(Mutant::PledgeForgotten) {
            return;
        }
        if let (Some(position), Some(instance)) = (self.position(), self.instance()) {
            self.answer(asked, PledgeAnswer::Pledged { position, instance });
        } else {
            self.answer(asked, PledgeAnswer::Refused(PledgeRefusal::NoPosition));
        }
    }

    /// Nothing comes from a leader that is dead, and a pledge asks for the same: no need to wait for
    /// the question, nor for the release.
    pub(super) fn let_go_of_dead(&mut self) {
        let released = self.view.reign_end() == Some(&ReignEnd::Died);
        if self.voters_decide() && (released || self.leader_says_it_died()) {
            self.stop_receiving();
        }
    }

    pub(super) fn leader_says_it_died(&self) -> bool {
        let leader = self.other_leader();
        let said = leader.and_then(|leader| self.fresh(leader, DYING));
        let this_term = |said: &PeerBeat| said.leads == self.view.current_term();
        !self.policy().pause && said.is_some_and(|said| said.died && this_term(said))
    }

    pub(super) fn stop_receiving(&mut self) {
        if self.op.is_none() && self.replica().is_some_and(|r| r.upstream.is_some() || r.streaming)
        {
            self.start_op(PgOp::Follow { upstream: None });
        }
    }

    pub(super) fn stops_receiving(&self) -> bool {
        let op = self.op.as_ref().map(|running| &running.op);
        self.kill.is_none() && op == Some(&PgOp::Follow { upstream: None })
    }

    /// An operation runs that may change where this node stands.
    pub(super) fn unsettled(&self) -> bool {
        let settled = |op: &PgOp| matches!(op, PgOp::EnsureSlots { .. });
        self.op.as_ref().is_some_and(|running| !settled(&running.op))
    }

    fn answer(&mut self, asked: &Asked, answer: PledgeAnswer) {
        self.asked = None;
        let message = PeerMessage::Pledge { ballot: asked.ballot, answer };
        self.push(Action::Send { to: asked.from.clone(), message });
    }
}

#[cfg(test)]
mod tests;
