//! Clients are let in when the voters have everything that recovery found.

use pgherd_core::cluster::{Key, Op, Txn, Value};

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "serves_when_safe",
    sentence: "a beat says serving only for a primary whose listed standbys have the end of its recovery",
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
    let names = pg.names;
    let writable = pg.writable();
    let Some(reign) = world.ledger.reigns.get_mut(pg.reign).filter(|_| writable) else { return };
    let start = reign.start;
    let first = !std::mem::replace(&mut reign.serving, true);
    if !first || !names.waits() || names.placeholder {
        return;
    }
    let has = (0..world.nodes.len()).filter(|ix| {
        names.mask & (1 << ix) != 0
            && world.nodes[*ix]
                .pg
                .dir
                .as_ref()
                .is_some_and(|d| world.branches.contains(d.wal, start))
    });
    let have = has.count() as u32;
    if have < names.count {
        let found =
            format!("n{} serves though {have} of {} have {}", node + 1, names.count, start.end);
        world.broken(RULE, found);
    }
}
