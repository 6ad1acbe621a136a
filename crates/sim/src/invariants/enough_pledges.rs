//! In synchronous modes every unplanned takeover has the pledges it needs.

use pgherd_core::Revision;
use pgherd_core::cluster::{Accession, ClusterView};

use super::Rule;
use crate::world::World;

const RULE: Rule = Rule {
    name: "enough_pledges",
    sentence: "a takeover by pledges has quorum + 1 of the voters that 'sync' named, for that very claim",
};

pub(crate) fn check(world: &mut World, before: &ClusterView, after: &ClusterView) {
    let Some(record) = after.term.as_ref() else { return };
    let voters = before.sync.as_ref().filter(|s| s.value.names_voters());
    match record.value.by {
        Accession::Silence if world.synchronous() => {
            world.broken(RULE, "silence alone elected, in a synchronous mode".to_owned());
        }
        Accession::Pledges => {
            let Some(sync) = voters else {
                return world.broken(RULE, "pledges without voters".to_owned());
            };
            let ballot = before.claim.as_ref().map_or(Revision(0), |c| c.modified);
            let mut mask = world.ledger.pledges.get(&ballot).copied().unwrap_or_default();
            if let Some(candidate) = world.index(&record.value.leader) {
                mask |= 1 << candidate;
            }
            // While nobody holds the key, a Patroni that is no further has agreed; whether it was,
            // `no_lost_commit` judges.
            let patroni = if before.leader.is_none() { world.options.patroni } else { 0 };
            mask |= patroni;
            let count = sync.value.voters.keys().filter_map(|name| world.index(name));
            let have = count.filter(|ix| mask & (1 << ix) != 0).count() as u32;
            let needed = sync.value.quorum + 1;
            if have < needed {
                world.broken(RULE, format!("{have} pledges for {ballot}, {needed} needed"));
            }
        }
        Accession::Silence
        | Accession::Founding
        | Accession::HandOver
        | Accession::Return
        | Accession::Operator => {}
    }
}
