//! What a leader's agent tells a router of its term holds, but for a bound that is written down.

use pgherd_core::cluster::Accession;
use pgherd_core::vouch::VOUCH_PERCENT;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "vouches_within_bound",
    sentence: "nobody vouches for a term that was deposed by silence, and for one that pledges ended no longer than for half the ttl",
};

/// Clocks' rates, over half the longest ttl.
const SLACK: u64 = 150_000;

/// After each input of an agent.
pub(crate) fn check(world: &mut World, node: Ix) {
    let machine = &world.nodes[node];
    let Some(core) = machine.agent.node.as_ref() else { return };
    let Some((term, until)) = core.vouches() else { return };
    let next = world.ledger.deposed.range(term..).next();
    let Some((by, at)) = next.filter(|(of, _)| **of == term).map(|(_, how)| *how) else { return };
    let newest = world.store.view().term.as_ref().and_then(|it| world.index(&it.value.leader));
    if newest == Some(node) || machine.held_clock {
        return;
    }
    let left = until.since(world.clock(node)).0;
    let ttl = world.ledger.beliefs[node].ttl;
    let bound = match by {
        Accession::Pledges => ttl.percent(VOUCH_PERCENT).0 + SLACK,
        Accession::Founding
        | Accession::HandOver
        | Accession::Silence
        | Accession::Return
        | Accession::Operator => 0,
    };
    let ends = world.queue.now + left;
    if left > 0 && ends > at + bound {
        let late = (ends - at) / 1_000;
        let found = format!("n{} vouches for term {term} until {late} ms after its end", node + 1);
        world.broken(RULE, found);
    }
}
