//! Terms and timelines only grow, in the store and in what a node has seen.

use pgherd_core::Durable;
use pgherd_core::cluster::ClusterView;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "term_and_timeline_monotonic",
    sentence: "the store's term, a leader's timeline and the greatest term a node has seen only grow",
};

pub(crate) fn check(world: &mut World, before: &ClusterView, after: &ClusterView) {
    if after.current_term() < before.current_term() {
        let (old, new) = (before.current_term(), after.current_term());
        world.broken(RULE, format!("the term went from {old:?} to {new:?}"));
    }
    let timeline = |v: &ClusterView| v.current_beat().and_then(|b| b.value.timeline);
    if before.current_term() == after.current_term()
        && let (Some(old), Some(new)) = (timeline(before), timeline(after))
        && new < old
    {
        world.broken(RULE, format!("within a term the timeline went from {old} to {new}"));
    }
}

pub(crate) fn check_durable(world: &mut World, node: Ix, record: &Durable) {
    let agent = &world.nodes[node].agent;
    let last = agent.writing.back().map_or(&agent.durable, |(_, record)| record);
    if record.term_seen < last.term_seen {
        let (old, new) = (last.term_seen, record.term_seen);
        world.broken(RULE, format!("n{} went back from term {old:?} to {new:?}", node + 1));
    }
}
