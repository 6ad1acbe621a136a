//! Who promised a leader to hold its term has no part in another one while the leader counts on it.

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "hold_kept",
    sentence: "a member that holds a term has it on disk, and neither pledges nor takes over while that term's leader may still count on it",
};

/// A promise to hold leaves the node.
pub(crate) fn check_given(world: &mut World, node: Ix, term: pgherd_core::Term) {
    let durable = &world.nodes[node].agent.durable;
    if durable.hold.as_ref().is_none_or(|hold| hold.term != term) {
        world.broken(RULE, format!("n{} holds term {term} without having it on disk", node + 1));
    }
}

/// A node pledges to a candidate, or took over.
pub(crate) fn check(world: &mut World, node: Ix, what: &str) {
    for leader in 0..world.nodes.len() {
        let machine = &world.nodes[leader];
        if leader == node || !machine.pg.writable() || machine.held_clock {
            continue;
        }
        let belief = &world.ledger.beliefs[leader];
        // A newer term in the store ends a hold.
        if world.nodes[node].agent.durable.term_seen > belief.term {
            continue;
        }
        let Some(at) = belief.holds.get(&node) else { continue };
        let counts = *at + belief.ttl.percent(99);
        if !belief.ended && *at > machine.held_until && world.clock(leader) < counts {
            let left = counts.since(world.clock(leader));
            let found =
                format!("n{} {what}, and n{} counts on it for {left}", node + 1, leader + 1);
            return world.broken(RULE, found);
        }
    }
}
