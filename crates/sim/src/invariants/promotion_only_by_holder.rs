//! Nobody becomes primary without a term that the store gave to it and that it still believes.

use pgherd_core::Term;
use pgherd_core::postgres::PgOp;

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "promotion_only_by_holder",
    sentence: "a node starts or promotes a primary only under a term that the store gave to it, with its guard armed",
};

pub(crate) fn check(world: &mut World, node: Ix, op: &PgOp, term: Option<Term>) {
    if !matches!(op, PgOp::Promote { .. } | PgOp::StartPrimary { .. }) {
        return;
    }
    let paused = world.store.view().config.as_ref().is_some_and(|c| c.value.pause);
    let leader = term.and_then(|t| world.ledger.leaders.get(&t)).copied();
    let now = world.clock(node);
    let belief = world.belief_ends(node);
    let guard = &world.nodes[node].guard;
    let why = if leader != Some(node) {
        format!("the store never gave term {:?} to it", term.map(|t| t.0))
    } else if belief.is_none_or(|deadline| deadline < now) && !paused {
        "its belief has ended".to_owned()
    } else if guard.armed.is_none_or(|(armed, _)| Some(armed) != term)
        && guard.fired < term
        && !paused
    {
        "its guard is not armed for that term".to_owned()
    } else {
        return;
    };
    world.broken(RULE, format!("n{}: {why}", node + 1));
}
