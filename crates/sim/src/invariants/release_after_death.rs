//! The key is let go only when PostgreSQL can't acknowledge any more.

use pgherd_core::cluster::{Key, Op, Txn, Value};

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "release_after_death",
    sentence: "a node lets go of the leader key only when its PostgreSQL can take no commit",
};

pub(crate) fn check(world: &mut World, node: Ix, txn: &Txn) {
    let lets_go = txn.then.iter().any(|op| match op {
        Op::Delete(key) => *key == Key::Leader,
        Op::Put(Key::Beat, Value::Beat(beat), _) => beat.ended.is_some(),
        Op::Put(..) => false,
    });
    let paused = world.store.view().config.as_ref().is_some_and(|c| c.value.pause);
    let pg = &world.nodes[node].pg;
    if lets_go && pg.writable() && !paused {
        world.broken(RULE, format!("n{} let go while PostgreSQL is {:?}", node + 1, pg.run));
    }
}
