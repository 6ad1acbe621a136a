//! PostgreSQL compares timelines by number. Two promotions can make the same number; whoever
//! streams across them corrupts a replica without a word.

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "no_silent_divergence",
    sentence: "a replica streams only from a node whose WAL contains its own",
};

pub(crate) fn check(world: &mut World, node: Ix, up: Ix) {
    let (Some(own), Some(theirs)) = (world.nodes[node].pg.wal(), world.nodes[up].pg.wal()) else {
        return;
    };
    // Patroni goes by the numbers alone, and what it promotes has nothing else to be told by.
    let patronis = world.is_patroni(node) || world.is_patroni(up);
    if !world.branches.contains(theirs, own) && !patronis {
        let found = format!(
            "n{} at {} streams from n{} at {}: both say timeline {}, but it is another history",
            node + 1,
            own.end,
            up + 1,
            theirs.end,
            world.branches.timeline(own.branch)
        );
        world.broken(RULE, found);
    }
}
