//! Two reigns never acknowledge in turns. In asynchronous mode the moment after a thaw, before the
//! guard has killed, is allowed and counted; also where an operator forced the newer reign, and the
//! older one waited for nobody. In synchronous modes a late word about a commit that the newer leader
//! has is no harm.

use super::Rule;
use crate::event::Ix;
use crate::wal::Wal;
use crate::world::World;

const RULE: Rule = Rule {
    name: "no_overlap",
    sentence: "once a newer reign has acknowledged a commit, no older one acknowledges any that the newer lacks",
};

/// A node can do this much harm after a thaw before its guard has killed.
const THAW: u64 = 150_000;

pub(crate) fn check(world: &mut World, node: Ix, commit: Wal, waited: bool) {
    let reign = world.nodes[node].pg.reign;
    let Some(newest) = world.ledger.outdated(reign).cloned() else { return };
    let machine = &world.nodes[node];
    let thawed = machine.thawed_at > 0 && world.now() - machine.thawed_at < THAW;
    let excused = thawed || machine.held_clock || world.believes_in_pause(node);
    let forced = world.forced_out(node);
    if !waited && (!world.synchronous() || forced) && excused {
        world.stats.sometimes.thaw_ack += 1;
        return;
    }
    let theirs = world.nodes[newest.node].pg.dir.as_ref().map(|d| d.wal);
    if waited && theirs.is_some_and(|wal| world.branches.contains(wal, commit)) {
        return;
    }
    let found = format!(
        "n{} acknowledges under term {:?} although n{} has under term {:?}",
        node + 1,
        world.ledger.reigns.get(reign).and_then(|r| r.term).map(|t| t.0),
        newest.node + 1,
        newest.term.map(|t| t.0)
    );
    world.broken(RULE, found);
}
