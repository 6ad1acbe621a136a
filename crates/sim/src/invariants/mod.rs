//! What must hold at every step: one named invariant per file, and the moments at which they look.
//! An invariant reads the whole world; it never changes anything but the verdict.

use pgherd_core::Term;
use pgherd_core::cluster::{ClusterView, Txn};
use pgherd_core::postgres::PgOp;

use crate::event::Ix;
use crate::wal::Wal;
use crate::world::World;

pub(crate) mod async_loss_is_bounded;
pub(crate) mod data_never_wiped;
pub(crate) mod enough_pledges;
pub(crate) mod hand_over_is_complete;
pub(crate) mod hold_kept;
pub(crate) mod no_lost_commit;
pub(crate) mod no_overlap;
pub(crate) mod no_silent_divergence;
pub(crate) mod no_visible_commit_vanishes;
pub(crate) mod one_decision_reason;
pub(crate) mod one_operation;
pub(crate) mod one_writer_per_term;
pub(crate) mod pledges_meet_acks;
pub(crate) mod promise_kept;
pub(crate) mod promotion_only_by_holder;
pub(crate) mod release_after_death;
pub(crate) mod serves_when_safe;
pub(crate) mod silence_is_long_enough;
pub(crate) mod sync_covers_list;
pub(crate) mod term_and_timeline_monotonic;
pub(crate) mod vouches_within_bound;
pub(crate) mod writer_holds_term;

/// An invariant's name and sentence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) sentence: &'static str,
}

/// A transaction of `node` was applied.
pub(crate) fn after_transaction(
    world: &mut World,
    node: Ix,
    txn: &Txn,
    before: &ClusterView,
    after: &ClusterView,
) {
    term_and_timeline_monotonic::check(world, before, after);
    release_after_death::check(world, node, txn);
    hand_over_is_complete::check(world, node, txn);
    serves_when_safe::check(world, node, txn);
    if before.current_term() != after.current_term() {
        enough_pledges::check(world, before, after);
        hold_kept::check(world, node, "takes over");
        silence_is_long_enough::check(world, before, after);
        async_loss_is_bounded::check(world, before, after);
        no_lost_commit::forgive(world, after);
    }
    if before.modified(&pgherd_core::cluster::Key::Sync)
        != after.modified(&pgherd_core::cluster::Key::Sync)
    {
        pledges_meet_acks::check(world);
        if let Some(leader) = world.leader() {
            sync_covers_list::check(world, leader);
        }
    }
}

/// An agent orders an operation.
pub(crate) fn before_operation(world: &mut World, node: Ix, op: &PgOp, term: Option<Term>) {
    if world.is_patroni(node) {
        return; // it has no guard, and its own rules
    }
    promotion_only_by_holder::check(world, node, op, term);
    data_never_wiped::check(world, node, op);
}

/// A PostgreSQL became primary.
pub(crate) fn at_reign(world: &mut World, node: Ix) {
    writer_holds_term::check_reign(world, node);
}

/// A commit is about to be acknowledged.
pub(crate) fn at_ack(world: &mut World, node: Ix, commit: Wal, waited: bool) {
    no_overlap::check(world, node, commit, waited);
    one_writer_per_term::check(world, node);
    no_lost_commit::check_ack(world, node, commit);
    sync_covers_list::check(world, node);
    world.check_belief(node);
    world.ledger.acked_under(world.nodes[node].pg.reign);
    if waited {
        pledges_meet_acks::check_commit(world, node, commit);
    }
}
