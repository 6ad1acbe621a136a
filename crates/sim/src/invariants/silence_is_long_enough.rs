//! A takeover by silence waits for the old leader's belief to end on the old leader's own clock.

use pgherd_core::cluster::{Accession, ClusterView};

use super::Rule;
use crate::world::World;

const RULE: Rule = Rule {
    name: "silence_is_long_enough",
    sentence: "nobody takes over by silence, or by an operator's word, before the old leader's belief has ended",
};

pub(crate) fn check(world: &mut World, before: &ClusterView, after: &ClusterView) {
    let Some(record) = after.term.as_ref() else { return };
    let by_silence = matches!(record.value.by, Accession::Silence | Accession::Operator);
    let Some(old) = before.current_term() else { return };
    let Some(leader) = world.ledger.leaders.get(&old).copied() else { return };
    let machine = &world.nodes[leader];
    let belief = &world.ledger.beliefs[leader];
    let same = world.index(&record.value.leader) == Some(leader);
    if !by_silence || same || belief.ended || machine.held_clock || !machine.pg.writable() {
        return;
    }
    let now = world.clock(leader);
    let ends = world.belief_ends(leader);
    if belief.term == Some(old) && ends.is_some_and(|deadline| now < deadline) {
        let left = ends.map(|d| d.since(now)).unwrap_or_default();
        let found = format!("n{} may still believe for {left} in term {old}", leader + 1);
        world.broken(RULE, found);
    }
}
