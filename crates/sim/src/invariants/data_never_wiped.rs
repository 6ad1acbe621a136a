//! No directory is overwritten that leads, or that may be the only copy of something.

use pgherd_core::cluster::Initialize;
use pgherd_core::postgres::PgOp;

use super::Rule;
use crate::event::Ix;
use crate::pg::Run;
use crate::wal::Wal;
use crate::world::World;

const RULE: Rule = Rule {
    name: "data_never_wiped",
    sentence: "a directory is overwritten only below a living leader that is another node, and never when it is the only copy of an acknowledged commit; initdb happens once",
};

pub(crate) fn check(world: &mut World, node: Ix, op: &PgOp) {
    let source = match op {
        PgOp::Init => return check_init(world, node),
        PgOp::Clone { source } => source.node(),
        PgOp::Rewind { source } => Some(source),
        PgOp::StartPrimary { .. }
        | PgOp::StartReplica { .. }
        | PgOp::Follow { .. }
        | PgOp::Promote { .. }
        | PgOp::Stop
        | PgOp::Kill
        | PgOp::SetNames { .. }
        | PgOp::EnsureSlots { .. } => return,
    };
    if world.leader() == Some(node) && world.nodes[node].pg.dir.is_some() {
        return world.broken(RULE, format!("n{} leads and orders {op:?}", node + 1));
    }
    let from = source.and_then(|source| world.index(source));
    if from.is_some_and(|from| from == node) {
        return world.broken(RULE, format!("n{} orders {op:?} of itself", node + 1));
    }
    let Some(mine) = world.nodes[node].pg.wal() else { return };
    let only = world.ledger.frontiers.iter().any(|(branch, frontier)| {
        let part = Wal { branch: *branch, end: frontier.waited };
        let has = |ix: &Ix| {
            world.nodes[*ix].pg.dir.as_ref().is_some_and(|d| world.branches.contains(d.wal, part))
        };
        frontier.waited.0 > 0
            && world.branches.contains(mine, part)
            && !(0..world.nodes.len()).filter(|ix| *ix != node).any(|ix| has(&ix))
    });
    if only {
        world.broken(RULE, format!("n{} has the only copy and orders {op:?}", node + 1));
    }
}

fn check_init(world: &mut World, node: Ix) {
    let reserved = world
        .store
        .view()
        .initialize
        .as_ref()
        .is_some_and(|i| i.value == Initialize::Bootstrapping);
    let elsewhere =
        (0..world.nodes.len()).any(|ix| ix != node && world.nodes[ix].pg.run != Run::Down);
    if !reserved || elsewhere || world.nodes[node].pg.wal().is_some() {
        world.broken(RULE, format!("n{} orders initdb", node + 1));
    }
}
