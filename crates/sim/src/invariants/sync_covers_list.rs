//! Whoever can be elected meets whoever can acknowledge: `sync` in the store and the list in
//! PostgreSQL fit at every moment, also in the middle of a change.

use super::Rule;
use crate::event::Ix;
use crate::pg::Names;
use crate::world::World;

const RULE: Rule = Rule {
    name: "sync_covers_list",
    sentence: "while 'sync' names voters, any quorum + 1 of them include one of any set that could acknowledge: |voters and names| <= quorum + count",
};

pub(crate) fn check(world: &mut World, node: Ix) {
    let machine = &world.nodes[node];
    let view = world.store.view();
    let rules = world.synchronous()
        && machine.pg.writable()
        && machine.pg.term.is_some()
        && machine.pg.term == view.current_term();
    if !rules {
        return;
    }
    let Some(sync) = view.sync.as_ref().filter(|s| s.value.names_voters()) else { return };
    let mut voters = 0_u32;
    for name in sync.value.voters.keys() {
        if let Some(ix) = world.index(name).filter(|ix| *ix != node) {
            voters |= 1 << ix;
        }
    }
    let quorum = sync.value.quorum;
    if voters.count_ones() < quorum + 1 {
        return; // without this node nobody can gather enough
    }
    let bad = |names: &Names| {
        let nobody = names.waits() && names.mask.count_ones() < names.count;
        let all = (voters | names.mask).count_ones();
        !nobody && (!names.waits() || all > quorum + names.count)
    };
    let pg = &machine.pg;
    let names = [Some(pg.names), pg.next_names];
    if let Some(names) = names.into_iter().flatten().find(|n| bad(n)) {
        let found = format!(
            "n{}: 'sync' names {voters:05b} with quorum {quorum}, the list {} of {:05b}",
            node + 1,
            names.count,
            names.mask
        );
        world.broken(RULE, found);
    }
}
