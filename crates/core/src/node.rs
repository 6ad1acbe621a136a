//! One node: feed it inputs, drain its actions. See the crate's description for the order of calls.

use std::collections::VecDeque;

use crate::input::{Action, Durable, Input};
use crate::policy::Policy;
use crate::reason::{Decision, Reason, Situation};
use crate::{Duration, Incarnation, NodeName, Time};

/// What a node is told at its birth and keeps for its life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// May never lead.
    pub nofailover: bool,
    /// What a new cluster's `config` key gets when this node founds it.
    pub founding_policy: Policy,
    /// This node may make the first data directory.
    pub may_found: bool,
    /// A random number, for the order of candidates that are equal and for jitter.
    pub seed: u64,
    /// Laws that this node breaks on purpose: only ever set by the simulator, to prove that it
    /// notices.
    pub mutant: Option<crate::mutant::Mutant>,
}

/// The name of the deadline that [`Node::poll_deadline`] returns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// The next beat and lease renewal.
    Beat,
    /// The next sign of life to the peers.
    PeerBeat,
    /// The end of this node's belief.
    BeliefEnd,
    /// Somebody's silence becomes long enough to act.
    Silence,
    /// An operation or a request takes too long.
    Patience,
}

/// The state of one node. [`Self::handle`] is the only thing that changes it; the rest reads or
/// drains.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    incarnation: Incarnation,
    durable: Durable,
    actions: VecDeque<Action>,
    decision: Decision,
}

impl Node {
    /// A node as it begins: knows its configuration and what it wrote to disk in earlier lives.
    #[must_use]
    pub fn new(config: NodeConfig, incarnation: Incarnation, durable: Durable, now: Time) -> Self {
        let decision = Decision {
            at: now,
            term: None,
            situation: Situation::Starting,
            reason: Reason::WaitingForStore,
        };
        Self { config, incarnation, durable, actions: VecDeque::new(), decision }
    }

    /// Takes one input at an instant that never goes back.
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest, and why.
    #[must_use]
    pub fn poll_deadline(&self) -> (Time, Timer) {
        (self.decision.at + Duration::secs(1), Timer::PeerBeat)
    }

    /// What it decided last.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
}
