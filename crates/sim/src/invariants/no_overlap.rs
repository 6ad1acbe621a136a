//! Two reigns never acknowledge in turns. In asynchronous mode the moment after a thaw, before the
//! guard has killed, is allowed and counted.

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "no_overlap",
    sentence: "once a newer reign has acknowledged a commit, no older one acknowledges any",
};

/// A node can do this much harm after a thaw before its guard has killed.
const THAW: u64 = 150_000;

pub(crate) fn check(world: &mut World, node: Ix, waited: bool) {
    let reign = world.nodes[node].pg.reign;
    let Some(newest) = world.ledger.newest.filter(|newest| reign < *newest) else { return };
    let machine = &world.nodes[node];
    let thawed = machine.thawed_at > 0 && world.now() - machine.thawed_at < THAW;
    if !waited && !world.synchronous() && (thawed || machine.held_clock) {
        world.stats.sometimes.thaw_ack += 1;
        return;
    }
    let other = &world.ledger.reigns[newest];
    let found = format!(
        "n{} acknowledges under term {:?} although n{} has under term {:?}",
        node + 1,
        world.ledger.reigns[reign].term.map(|t| t.0),
        other.node + 1,
        other.term.map(|t| t.0)
    );
    world.broken(RULE, found);
}
