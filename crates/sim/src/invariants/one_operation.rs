//! Operations on PostgreSQL don't overlap.

use pgherd_core::postgres::PgOp;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "one_operation",
    sentence: "an agent orders one operation at a time, except Kill",
};

pub(crate) fn broken(world: &mut World, node: Ix, op: &PgOp) {
    let found = format!("n{} orders {op:?} while another runs", node + 1);
    world.broken(RULE, found);
}
