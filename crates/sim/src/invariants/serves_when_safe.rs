//! Clients are let in when the voters have everything that recovery found.

use pgherd_core::cluster::{Key, Op, Txn, Value};

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "serves_when_safe",
    sentence: "a beat says serving only when at most 'quorum' of the voters lack something that the primary's recovery found",
};

pub(crate) fn check(world: &mut World, node: Ix, txn: &Txn) {
    let serving = txn.then.iter().any(|op| match op {
        Op::Put(Key::Beat, Value::Beat(beat), _) => beat.serving,
        Op::Put(..) | Op::Delete(_) => false,
    });
    if !serving {
        return;
    }
    let pg = &world.nodes[node].pg;
    let writable = pg.writable();
    let Some(reign) = world.ledger.reigns.get_mut(pg.reign).filter(|_| writable) else { return };
    let recovered = reign.recovered;
    let first = !std::mem::replace(&mut reign.serving, true);
    if !first || !world.synchronous() {
        return;
    }
    let Some(sync) = world.store.view().sync.as_ref() else { return };
    if !sync.value.names_voters() {
        return; // nobody else can be elected
    }
    let quorum = sync.value.quorum;
    let lacking = super::pledges_meet_acks::lacking(world, node, recovered);
    if lacking > quorum {
        let found = format!("n{} serves, {lacking} voters lack {}", node + 1, recovered.end);
        world.broken(RULE, found);
    }
}
