//! Holds core's steps against the rules of `pgherd_model::belief`, where clocks decide: in every mode, by
//! what the simulator knows of each node's own clock. Leaves consent to `events.rs`, and what PostgreSQL
//! does with a deadline to the invariants. Clusters with Patroni's agents are not judged.

use std::collections::BTreeMap;

use pgherd_core::cluster::{Accession, ClusterView, Key, Purpose, Txn};
use pgherd_core::peer::PeerMessage;
use pgherd_core::{Duration, RequestId, Revision, StoreOutcome, Term, Time};
use pgherd_model::belief::rules::{self, By, Holder, Rule, Taker};

use crate::event::Ix;
use crate::pg::MAX_NODES;
use crate::world::World;

/// What stands in the store, as a takeover compares it.
type Seen = [Revision; 3];

/// A takeover that was sent.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    over: Option<Term>,
    seen: Seen,
    /// No answer has come, so that it may still succeed.
    open: bool,
}

/// When each node last saw a sign of the leader, on its own clock, and what it has sent.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    signs: [(Revision, Revision, Time); MAX_NODES],
    /// By node, the agent's life, and its request.
    attempts: BTreeMap<(Ix, u32, RequestId), Attempt>,
}

fn seen(view: &ClusterView) -> Seen {
    [Key::Term, Key::Leader, Key::Beat].map(|key| view.modified(&key))
}

impl World {
    fn clocks_judge(&mut self, node: Ix, verdict: Result<(), Rule>, step: &str) {
        self.refine.judged.clocks += 1;
        if let Err(rule) = verdict {
            self.broken(super::RULE, format!("{rule}; n{}: {step}", node + 1));
        }
    }

    fn clocks_on(&self) -> bool {
        self.refine.clocks_on && self.violation.is_none()
    }

    fn sees(&self, node: Ix) -> Option<&ClusterView> {
        self.nodes[node].agent.node.as_ref().map(|core| core.view().as_ref())
    }

    /// An agent begins: it has seen nothing yet, and its patience with it.
    pub(crate) fn clocks_agent(&mut self, node: Ix) {
        self.refine.clocks.signs[node] = (Revision(0), Revision(0), self.clock(node));
    }

    /// A view arrives. One from the past shows nothing, and that a lease expired is no sign of the leader.
    pub(crate) fn clocks_look(&mut self, node: Ix, view: &ClusterView) {
        if self.sees(node).is_some_and(|known| view.revision <= known.revision) {
            return;
        }
        let (leader, beat) = (view.modified(&Key::Leader), view.modified(&Key::Beat));
        let (known, of, _) = self.refine.clocks.signs[node];
        let expired = leader == Revision(0) && beat == of;
        if (leader, beat) != (known, of) && !expired {
            self.refine.clocks.signs[node] = (leader, beat, self.clock(node));
        }
    }

    pub(crate) fn clocks_sent(&mut self, node: Ix, id: RequestId, txn: &Txn) {
        if !self.clocks_on() {
            return;
        }
        match txn.purpose {
            Purpose::TakeOver => self.clocks_take(node, id, txn),
            Purpose::Release => {
                let paused = self.store.view().config.as_ref().is_some_and(|c| c.value.pause);
                if !paused {
                    let verdict = rules::lets_go(self.nodes[node].pg.writable());
                    self.clocks_judge(node, verdict, "lets go");
                }
            }
            Purpose::ReserveBootstrap
            | Purpose::AbandonBootstrap
            | Purpose::Found
            | Purpose::Beat
            | Purpose::Claim
            | Purpose::WithdrawClaim
            | Purpose::PublishSync
            | Purpose::PublishHistory
            | Purpose::PublishFailsafe
            | Purpose::PublishMember
            | Purpose::PublishInitialize
            | Purpose::ClearFailover => {}
        }
    }

    fn clocks_take(&mut self, node: Ix, id: RequestId, txn: &Txn) {
        let Some(view) = self.sees(node) else { return };
        let (over, compares) = (view.current_term(), seen(view));
        let ended = view.reign_end().is_some();
        let by = match super::accession(txn) {
            Some(Accession::Return) => Some(By::Return),
            Some(Accession::HandOver) => Some(By::Released),
            Some(Accession::Silence) => Some(if ended { By::Released } else { By::Silence }),
            // Consent decides, or an operator.
            Some(Accession::Founding | Accession::Pledges | Accession::Operator) | None => None,
        };
        if let Some(taker) = by.and_then(|by| self.taker(node, by)) {
            self.clocks_judge(node, rules::takes(&taker), &format!("{taker:?}"));
        }
        let life = self.nodes[node].agent.life;
        let attempt = Attempt { over, seen: compares, open: true };
        self.refine.clocks.attempts.insert((node, life, id), attempt);
    }

    fn taker(&self, node: Ix, by: By) -> Option<Taker> {
        let core = self.nodes[node].agent.node.as_ref()?;
        let view = core.view();
        let me = &self.names[node];
        let ttl = view.beat.as_ref().map_or(self.options.policy.ttl, |beat| beat.value.ttl);
        let (_, _, since) = self.refine.clocks.signs[node];
        let stands = view.leader.as_ref().is_some_and(|leader| leader.value == *me);
        Some(Taker {
            by,
            holds: self.is_counted_on(node),
            leads: core.leads().is_some() && stands,
            alive: self.nodes[node].pg.writable(),
            last: view.last_leader() == Some(me),
            ended: view.reign_end().is_some(),
            patient: self.clock(node).since(since) > ttl.percent(101),
        })
    }

    /// A leader that lives may count on this member's promise, and the member knows of nothing newer.
    fn is_counted_on(&self, member: Ix) -> bool {
        let knows = self.nodes[member].agent.durable.term_seen;
        (0..self.nodes.len()).filter(|leader| *leader != member).any(|leader| {
            let (machine, belief) = (&self.nodes[leader], &self.ledger.beliefs[leader]);
            let at = belief.holds.get(&member).copied();
            let counts = at.is_some_and(|at| {
                at > machine.held_until && self.clock(leader) < at + belief.ttl.percent(99)
            });
            let lives = !belief.ended && !machine.held_clock && machine.pg.writable();
            counts && lives && knows <= belief.term
        })
    }

    /// A takeover is applied.
    pub(crate) fn clocks_applied(
        &mut self,
        node: Ix,
        (id, life): (RequestId, u32),
        txn: &Txn,
        before: &ClusterView,
    ) {
        if !self.clocks_on() || txn.purpose != Purpose::TakeOver {
            return;
        }
        let attempt = self.refine.clocks.attempts.get(&(node, life, id)).copied();
        if let Some(attempt) = attempt {
            let verdict = rules::takes_effect(attempt.seen != seen(before));
            self.clocks_judge(node, verdict, "its takeover is applied");
        }
    }

    pub(crate) fn clocks_answered(&mut self, node: Ix, id: RequestId, outcome: &StoreOutcome) {
        let life = self.nodes[node].agent.life;
        if *outcome == StoreOutcome::Unknown {
            self.refine.unanswered.insert((node, id, life));
        }
        let attempt = self.refine.clocks.attempts.get_mut(&(node, life, id));
        let Some(attempt) = attempt else { return };
        match outcome {
            StoreOutcome::Applied(_) | StoreOutcome::Refused | StoreOutcome::NotSent => {
                attempt.open = false;
            }
            StoreOutcome::Granted(_)
            | StoreOutcome::Alive
            | StoreOutcome::LeaseGone
            | StoreOutcome::Unknown => {}
        }
    }

    /// A member promises a leader to hold its term.
    pub(crate) fn clocks_says(&mut self, node: Ix, message: &PeerMessage) {
        let PeerMessage::Held { term, .. } = message else { return };
        if !self.clocks_on() {
            return;
        }
        let Some(core) = self.nodes[node].agent.node.as_ref() else { return };
        let life = self.nodes[node].agent.life;
        let open = |((of, in_life, _), attempt): (&(Ix, u32, RequestId), &Attempt)| {
            (*of, *in_life) == (node, life) && attempt.open && attempt.over >= Some(*term)
        };
        let holder = Holder {
            knows_newer: core.view().current_term() > Some(*term),
            leads: core.leads().is_some(),
            takes: self.refine.clocks.attempts.iter().any(open),
        };
        self.clocks_judge(node, rules::holds(&holder), &format!("holds {term}: {holder:?}"));
    }

    /// The guard's deadline moves on.
    pub(crate) fn clocks_armed(&mut self, node: Ix, term: Term, deadline: Time) {
        let belief = &self.ledger.beliefs[node];
        let others = belief.term != Some(term) || belief.ended || self.nodes[node].held_clock;
        let paused = self.nodes[node].agent.node.as_ref().is_some_and(|n| n.durable().paused);
        if !self.clocks_on() || others || paused || deadline == Time::NEVER {
            return;
        }
        let good: Duration = belief.ttl.percent(99);
        let Some(proof) = self.proof(node) else { return };
        let verdict = rules::lives(deadline.since(proof).0, good.0);
        let step = format!("its guard waits until {deadline:?} under {term}, proven at {proof:?}");
        self.clocks_judge(node, verdict, &step);
    }
}
