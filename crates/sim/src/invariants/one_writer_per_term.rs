//! Each term has one writer.

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "one_writer_per_term",
    sentence: "only the node that the store names for a term acknowledges under it",
};

pub(crate) fn check(world: &mut World, node: Ix) {
    let Some(reign) = world.ledger.reigns.get(world.nodes[node].pg.reign) else { return };
    let Some(term) = reign.term else { return };
    let leader = world.ledger.leaders.get(&term).copied();
    if leader != Some(node) {
        let found = format!("n{} acknowledges under term {term} of {leader:?}", node + 1);
        world.broken(RULE, found);
    }
}
