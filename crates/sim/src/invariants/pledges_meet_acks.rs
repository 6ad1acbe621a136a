//! The voters who lack an acknowledged commit are too few to elect.

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
    let lacking = sync.value.voters.iter().filter(|(name, instance)| {
        let Some(ix) = world.index(name).filter(|ix| *ix != leader) else { return false };
        let Some(dir) = world.nodes[ix].pg.dir.as_ref() else { return false };
        let counts = instance.is_none_or(|i| i == dir.instance) && !world.nodes[ix].pg.removed;
        counts && dir.broken.is_none() && !world.branches.contains(dir.wal, commit)
    });
    let lacking = lacking.count() as u32;
    if lacking > sync.value.quorum {
        let quorum = sync.value.quorum;
        let found =
            format!("{lacking} voters lack {}, and {} suffice to elect", commit.end, quorum + 1);
        world.broken(RULE, found);
    }
}
