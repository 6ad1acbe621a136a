//! Asynchronous failover loses at most `maximum_lag_on_failover` of what was published.

use pgherd_core::cluster::{Accession, ClusterView};

use super::Rule;
use crate::world::World;

const RULE: Rule = Rule {
    name: "async_loss_is_bounded",
    sentence: "in asynchronous mode a new leader lacks at most maximum_lag_on_failover of the last published position",
};

pub(crate) fn check(world: &mut World, before: &ClusterView, after: &ClusterView) {
    let Some(record) = after.term.as_ref() else { return };
    if world.synchronous() || record.value.by != Accession::Silence {
        return;
    }
    let (Some(beat), Some(leader)) = (before.beat.as_ref(), world.index(&record.value.leader))
    else {
        return;
    };
    let has = world.nodes[leader].pg.dir.as_ref().map_or(pgherd_core::Lsn::ZERO, |d| d.wal.end);
    let lag = has.lag_behind(beat.value.lsn);
    let most = world.options.policy.maximum_lag_on_failover;
    if lag > most {
        let found = format!("n{} lacks {lag} bytes, allowed are {most}", leader + 1);
        world.broken(RULE, found);
    }
}
