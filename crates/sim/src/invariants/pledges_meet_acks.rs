//! The voters who lack an acknowledged commit are too few to elect.

use pgherd_core::{Instance, NodeName};

use super::Rule;
use crate::event::Ix;
use crate::wal::Wal;
use crate::world::World;

const RULE: Rule = Rule {
    name: "pledges_meet_acks",
    sentence: "at most 'quorum' of the voters that 'sync' names lack a commit that was acknowledged after waiting",
};

/// `sync` changed.
pub(crate) fn check(world: &mut World) {
    let Some(leader) = world.leader() else { return };
    let Some(branch) = world.nodes[leader].pg.wal().map(|w| w.branch) else { return };
    let Some(frontier) = world.ledger.frontiers.get(&branch).copied() else { return };
    if frontier.waited.0 > 0 {
        check_commit(world, leader, Wal { branch, end: frontier.waited });
    }
}

/// A commit is acknowledged.
pub(crate) fn check_commit(world: &mut World, leader: Ix, commit: Wal) {
    if !world.synchronous() || world.leader() != Some(leader) {
        return;
    }
    let Some(sync) = world.store.view().sync.as_ref() else { return };
    if !sync.value.names_voters() {
        return;
    }
    let quorum = sync.value.quorum;
    let lacking = lacking(world, leader, commit);
    if lacking > quorum {
        let found =
            format!("{lacking} voters lack {}, and {} suffice to elect", commit.end, quorum + 1);
        world.broken(RULE, found);
    }
}

/// How many voters, the leader apart, could pledge and lack this WAL.
pub(super) fn lacking(world: &World, leader: Ix, part: Wal) -> u32 {
    let Some(sync) = world.store.view().sync.as_ref() else { return 0 };
    let lacks = |name: &NodeName, instance: &Option<Instance>| {
        let ix = world.index(name).filter(|ix| *ix != leader)?;
        let dir = world.nodes[ix].pg.dir.as_ref()?;
        let counts = instance.is_none_or(|i| i == dir.instance) && !world.nodes[ix].pg.removed;
        let lacks = counts && dir.broken.is_none() && !world.branches.contains(dir.wal, part);
        lacks.then_some(())
    };
    sync.value.voters.iter().filter_map(|(name, instance)| lacks(name, instance)).count() as u32
}
