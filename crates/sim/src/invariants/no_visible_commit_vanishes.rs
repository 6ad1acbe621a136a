//! What a reader saw on the write route while standbys were named, every later reader there sees.

use super::Rule;
use crate::event::Ix;
use crate::wal::Wal;
use crate::world::World;

const RULE: Rule = Rule {
    name: "no_visible_commit_vanishes",
    sentence: "what a reader saw on the write route, every later reader there sees",
};

pub(crate) fn check(world: &mut World, node: Ix, seen: Wal) {
    // A session that the router has not closed yet may read from a leader of yesterday.
    let reign = world.nodes[node].pg.reign;
    if world.ledger.outdated(reign).is_some() {
        return;
    }
    let vanished = world.ledger.frontiers.iter().find_map(|(branch, frontier)| {
        let part = Wal { branch: *branch, end: frontier.seen };
        (frontier.seen.0 > 0 && !world.branches.contains(seen, part)).then_some(part)
    });
    if let Some(part) = vanished {
        let found = format!(
            "a reader at n{} sees WAL up to {}, no longer {} of timeline {}",
            node + 1,
            seen.end,
            part.end,
            world.branches.timeline(part.branch)
        );
        world.broken(RULE, found);
    }
}
