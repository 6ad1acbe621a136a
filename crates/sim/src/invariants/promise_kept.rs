//! Who pledged receives WAL from nobody but the candidate while the ballot can still win; and what
//! was pledged is on disk.

use pgherd_core::Revision;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "promise_kept",
    sentence: "a voter that pledged has it on disk, and until that ballot can no longer win it receives from nobody but the candidate",
};

/// A pledge leaves the node.
pub(crate) fn check_given(world: &mut World, node: Ix, ballot: Revision) {
    let machine = &world.nodes[node];
    let on_disk = machine.agent.durable.promise.as_ref().is_some_and(|p| p.ballot == ballot);
    let receiving = machine.pg.receiver.is_some();
    if !on_disk {
        world.broken(RULE, format!("n{} pledges {ballot} without having it on disk", node + 1));
    } else if receiving && live(world, ballot) {
        world.broken(RULE, format!("n{} pledges {ballot} and still receives WAL", node + 1));
    }
}

fn live(world: &World, ballot: Revision) -> bool {
    let view = world.store.view();
    view.claim.as_ref().is_some_and(|c| c.modified == ballot && !c.value.withdrawn)
        && world.ledger.leaders.keys().next_back().is_none_or(|t| t.0 < ballot.0)
}

/// A replica received WAL.
pub(crate) fn check_received(world: &mut World, node: Ix, from: Ix) {
    let pledges = world.ledger.pledges.iter().next_back();
    let Some((ballot, voters)) = pledges.map(|(ballot, mask)| (*ballot, *mask)) else { return };
    if !live(world, ballot) {
        return;
    }
    let pledged = |of: Ix| voters & (1 << of) != 0;
    let candidate = world.store.view().claim.as_ref().map(|c| c.value.candidate.clone());
    let Some(candidate) = candidate.and_then(|name| world.index(&name)) else { return };
    if candidate == node {
        // Its own promise counts from when it counts itself; until then it may get what it lacks.
        world.stats.sometimes.fetched += u64::from(pledged(from));
    } else if pledged(node) && candidate != from {
        let found = format!(
            "n{} receives WAL from n{} although it pledged {ballot} to n{}",
            node + 1,
            from + 1,
            candidate + 1
        );
        world.broken(RULE, found);
    }
}
