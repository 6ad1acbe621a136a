//! Asynchronous mode: belief, guard, silence, release, return and holds, in ticks. Two nodes must
//! never both have a PostgreSQL that acknowledges.
//!
//! Ages count real ticks. A node's own clock may be wrong by a tick within a ttl, always to the worse
//! side: a leader's slow, the others' fast; whatever may happen then may happen later too. Restates
//! core's `belief_until`, `store_proof`, `held_since`, `on_hold`, `holds`, `silent`, `plan_return`
//! and the transactions of `requests.rs`; what a step may rest on is in `rules.rs`, by which the simulator
//! judges core's own steps too.

use crate::explore::{Label, Model};
use crate::mutant::Mutant;

pub mod rules;
mod steps;

pub(crate) use rules::By;

/// The most nodes that fit.
pub(crate) const NODES: usize = 3;
/// How wrong a clock may be within one ttl, in ticks.
const DRIFT: u8 = 1;
/// An age that no longer matters, or of nothing.
pub(crate) const OLD: u8 = u8::MAX;

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes; the first leads.
    pub nodes: usize,
    /// The highest term.
    pub terms: u8,
    /// The ttl, in ticks.
    pub ttl: u8,
    /// Messages and requests under way at a time.
    pub messages: usize,
    /// Crashes of an agent.
    pub crashes: u8,
    /// Whether members are asked to hold.
    pub failsafe: bool,
}

/// A request, an answer or a word between agents. May be lost, and as late as it likes. An age is
/// that of the question's sending.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Message {
    Beat { node: u8, term: u8, age: u8 },
    Beaten { node: u8, term: u8, age: u8 },
    Take { node: u8, by: By, stale: bool, known: bool, age: u8 },
    Taken { node: u8, term: u8, age: u8 },
    Release { node: u8, term: u8 },
    Hold { node: u8, to: u8, term: u8, age: u8 },
    Held { node: u8, by: u8, term: u8, age: u8 },
}

/// One node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    /// The age of the proof on which the guard lets PostgreSQL live; `OLD`: it is dead, or no primary.
    pub(crate) proof: u8,
    /// The term under which the agent knows itself to lead, or 0.
    pub(crate) reign: u8,
    /// PostgreSQL died under that term, and it has not been said yet.
    pub(crate) died: bool,
    /// The newest term that it knows.
    pub(crate) seen: u8,
    /// There is something in the store that it hasn't seen.
    pub(crate) behind: bool,
    /// Since it saw the last sign of the leader.
    pub(crate) silence: u8,
    /// When the takeover that may still succeed was sent, and over which term.
    pub(crate) attempt: Option<(u8, u8)>,
    /// The term that it holds (on disk), and for how long.
    pub(crate) hold: (u8, u8),
    /// The age of each member's hold.
    pub(crate) holds: [u8; NODES],
}

/// The store, the nodes, what is under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub(crate) term: u8,
    pub(crate) leader: u8,
    /// The leader key is there.
    pub(crate) key: bool,
    /// The beat says that PostgreSQL is dead.
    pub(crate) ended: bool,
    /// The life of the agent that made this term goes on.
    pub(crate) known: bool,
    pub(crate) by: By,
    pub(crate) nodes: [Node; NODES],
    pub(crate) under_way: Vec<Message>,
    pub(crate) crashes: u8,
}

/// The model.
#[derive(Debug)]
pub struct Belief {
    pub(crate) size: Size,
    pub(crate) mutant: Option<Mutant>,
}

impl Belief {
    /// The model of this size, with at most one law dropped.
    #[must_use]
    pub fn new(size: Size, mutant: Option<Mutant>) -> Self {
        Self { size, mutant }
    }

    pub(crate) fn drops(&self, law: Mutant) -> bool {
        self.mutant == Some(law)
    }

    fn margin(&self) -> u8 {
        u8::from(!self.drops(Mutant::NoMargin))
    }

    /// At this age of its proof a PostgreSQL has been killed, by a slow clock too.
    pub(crate) fn belief(&self) -> u8 {
        self.size.ttl + DRIFT - self.margin()
    }

    /// After this span a member's patience may be over, by a fast clock.
    pub(crate) fn patience(&self) -> u8 {
        self.size.ttl + self.margin() - DRIFT
    }
}

impl Model for Belief {
    type State = State;

    fn initial(&self) -> State {
        let member = Node {
            proof: OLD,
            reign: 0,
            died: false,
            seen: 1,
            behind: false,
            silence: 0,
            attempt: None,
            hold: (0, OLD),
            holds: [OLD; NODES],
        };
        let mut nodes = [member; NODES];
        nodes[0] = Node { proof: 0, reign: 1, ..member };
        State {
            term: 1,
            leader: 0,
            key: true,
            ended: false,
            known: true,
            by: By::Founding,
            nodes,
            under_way: Vec::new(),
            crashes: 0,
        }
    }

    fn steps(&self, state: &State, next: &mut Vec<(Label, State)>) {
        steps::Steps { model: self, state, next }.all();
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let alive = state.nodes.iter().filter(|node| node.proof != OLD).count();
        (alive > 1).then_some("never two nodes that acknowledge")
    }

    fn sights(&self) -> &'static [&'static str] {
        &[
            "a takeover by silence",
            "a takeover after a release",
            "a return",
            "a leader that only its members' holds keep",
            "a key expired under a living leader",
            "an agent that died before its PostgreSQL",
        ][..]
    }

    fn seen(&self, state: &State) -> u32 {
        let living = |n: &Node| n.proof != OLD;
        let leader = &state.nodes[usize::from(state.leader)];
        let leads = leader.reign == state.term && living(leader);
        let by = |by| u32::from(state.by == by && leads);
        let members = (0..self.size.nodes).filter(|n| *n != usize::from(state.leader));
        let (mut held, mut silent) = (0, 0);
        for m in members {
            held = held.max(leader.holds[m]);
            silent = silent.max(state.nodes[m].silence);
        }
        let only_holds = leads && held == leader.proof && silent >= self.patience();
        by(By::Silence)
            | by(By::Released) << 1
            | by(By::Return) << 2
            | u32::from(only_holds) << 3
            | u32::from(!state.key && leads) << 4
            | u32::from(state.nodes.iter().any(|n| living(n) && n.reign == 0)) << 5
    }
}

#[cfg(test)]
mod tests {
    use pgherd_core::Duration;

    /// What the ticks stand for: with clocks that differ by 1 %, the leader's belief (core's
    /// `belief_until`) is over before anybody's patience (core's `silent` and `on_hold`).
    #[test]
    fn belief_ends_before_patience_for_every_ttl() {
        for ttl in (1..=3_600).map(Duration::secs) {
            let belief = ttl - (ttl.percent(1) + Duration::millis(100));
            let patience = ttl.percent(101);
            assert!(belief.percent(101) < patience, "{ttl}");
        }
    }
}
