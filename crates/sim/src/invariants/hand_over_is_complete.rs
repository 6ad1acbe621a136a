//! A hand-over names somebody who has everything.

use pgherd_core::cluster::{Key, Op, ReignEnd, Txn, Value};

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "hand_over_is_complete",
    sentence: "who is handed the key has all WAL of the old leader, whose PostgreSQL is stopped",
};

pub(crate) fn check(world: &mut World, node: Ix, txn: &Txn) {
    let to = txn.then.iter().find_map(|op| match op {
        Op::Put(Key::Beat, Value::Beat(beat), _) => match &beat.ended {
            Some(ReignEnd::HandedOver { to, .. }) => Some(to.clone()),
            Some(ReignEnd::Died | ReignEnd::Stopped { .. }) | None => None,
        },
        Op::Put(..) | Op::Delete(_) => None,
    });
    let Some(to) = to.and_then(|name| world.index(&name)) else { return };
    let Some(mine) = world.nodes[node].pg.wal() else { return };
    let complete =
        world.nodes[to].pg.wal().is_some_and(|theirs| world.branches.contains(theirs, mine));
    if !complete {
        world.broken(RULE, format!("n{} lacks WAL of n{}", to + 1, node + 1));
    }
}
