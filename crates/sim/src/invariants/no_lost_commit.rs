//! What was acknowledged after waiting for standbys is in the WAL of every later leader that
//! acknowledges. An operator who accepts loss is taken at his word.

use pgherd_core::cluster::{Accession, ClusterView};

use super::Rule;
use crate::event::Ix;
use crate::wal::Wal;
use crate::world::World;

const RULE: Rule = Rule {
    name: "no_lost_commit",
    sentence: "a commit acknowledged after waiting for standbys is in the WAL of every later leader",
};

/// The first acknowledgement of a reign shows what it has and lacks.
pub(crate) fn check_ack(world: &mut World, node: Ix, commit: Wal) {
    let reign = world.nodes[node].pg.reign;
    if world.ledger.outdated(reign).is_some() {
        return; // a late word of a leader of yesterday: `no_overlap` judges it
    }
    if world.ledger.reigns.get(reign).is_some_and(|r| !r.acked) {
        check(world, node, commit);
    }
}

pub(crate) fn check(world: &mut World, node: Ix, has: Wal) {
    let lost = world.ledger.frontiers.iter().find_map(|(branch, frontier)| {
        let part = Wal { branch: *branch, end: frontier.waited };
        (frontier.waited.0 > 0 && !world.branches.contains(has, part)).then_some(part)
    });
    if let Some(part) = lost {
        let found = format!(
            "n{} leads with WAL up to {} of timeline {}, without {} of timeline {}",
            node + 1,
            has.end,
            world.branches.timeline(has.branch),
            part.end,
            world.branches.timeline(part.branch)
        );
        world.broken(RULE, found);
    }
}

/// An operator named a leader and accepted loss: what that one lacks is forgiven.
pub(crate) fn forgive(world: &mut World, after: &ClusterView) {
    if after.term.as_ref().is_none_or(|t| t.value.by != Accession::Operator) {
        return;
    }
    let has = world.leader().and_then(|leader| world.nodes[leader].pg.wal());
    let branches = &world.branches;
    if let Some(has) = has {
        world.ledger.frontiers.retain(|branch, f| {
            let end = f.waited.max(f.seen);
            branches.contains(has, Wal { branch: *branch, end })
        });
    }
}
