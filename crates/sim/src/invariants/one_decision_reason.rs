//! A decision is told when it changes and not otherwise, and it has words.

use pgherd_core::Decision;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "one_decision_reason",
    sentence: "a decision has exactly one reason, with words, and is told only when it changes",
};

pub(crate) fn check(world: &mut World, node: Ix, decision: &Decision) {
    let same = world.ledger.last_decision[node].as_ref().is_some_and(|last| {
        (last.term, last.situation, &last.reason)
            == (decision.term, decision.situation, &decision.reason)
    });
    let current = world.nodes[node].agent.node.as_ref().map(|n| n.decision());
    if decision.reason.to_string().is_empty() {
        world.broken(RULE, format!("n{}: {:?} has no words", node + 1, decision.reason));
    } else if same && current.is_some() {
        world.broken(RULE, format!("n{} tells {:?} twice", node + 1, decision.reason));
    }
    world.ledger.last_decision[node] = Some(decision.clone());
}
