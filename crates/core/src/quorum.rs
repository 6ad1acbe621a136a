//! The arithmetic of synchronous lists: how `synchronous_standby_names` and the published voters
//! change, one safe step at a time. Pure numbers and sets; leaves when a step is confirmed to the
//! leader's plan.
//!
//! A commit is acknowledged when the leader and `count` of `names` have it. A candidate needs
//! `quorum` + 1 pledges of `voters`. Every such pledge set meets every acknowledging set as long as
//! `|voters ∪ names| <= quorum + count` (contract 4.9): of the union, `count` acknowledged and more
//! than `|union| - count` pledged.

use std::collections::BTreeSet;

use crate::NodeName;
use crate::postgres::SyncNames;

/// The published side: who votes, and one fewer than the pledges that a candidate needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// The voters.
    pub voters: BTreeSet<NodeName>,
    /// A candidate needs one more pledge than this.
    pub quorum: u32,
}

/// The next step from what is to what is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing is to be done.
    Steady,
    /// Change PostgreSQL's list.
    SetNames(SyncNames),
    /// Publish, once enough voters have everything acknowledged under earlier lists
    /// ([`caught_up`]).
    Publish(Published),
}

/// Whether every attainable set of pledges meets every set that could have acknowledged.
/// Nobody published promises nothing, and is safe; a list that nobody satisfies acknowledges
/// nothing, and is safe.
#[must_use]
pub fn safe(published: &Published, names: &SyncNames) -> bool {
    if published.voters.is_empty() || names.is_nobody() {
        return true;
    }
    let union = union(&published.voters, &names.names).len();
    union <= published.quorum as usize + names.count as usize
}

/// Whether enough of `voters` have a position, so that any `quorum` + 1 of them include one that
/// has it.
#[must_use]
pub fn caught_up(published: &Published, has_it: impl Fn(&NodeName) -> bool) -> bool {
    let have = published.voters.iter().filter(|v| has_it(v)).count();
    have + published.quorum as usize >= published.voters.len()
}

/// The next step towards a list of `count` of `wanted`, from a state that is [`safe`]. Each step
/// leads to a safe state; repeated, they arrive. `count` 0 or nobody wanted means no list at all.
#[must_use]
pub fn next(
    published: &Published,
    names: &SyncNames,
    wanted: &BTreeSet<NodeName>,
    count: u32,
) -> Step {
    let count = count.min(wanted.len() as u32);
    let target_names = SyncNames { count, names: wanted.iter().cloned().collect() };
    let target = Published { voters: wanted.clone(), quorum: wanted.len() as u32 - count };
    if wanted.is_empty() {
        return towards_nothing(published, names);
    }
    let names_done = *names == target_names;
    if names_done && *published == target {
        return Step::Steady;
    }
    if names_done {
        return Step::Publish(target);
    }
    if safe(published, &target_names) {
        return Step::SetNames(target_names);
    }
    if safe(&target, names) && *published != target {
        return Step::Publish(target);
    }
    // Neither side can move alone: first let candidates need more.
    let voters = union(&published.voters, &wanted.iter().cloned().collect::<Vec<_>>());
    let everyone = union(&voters, &names.names).len();
    let quorum = everyone.saturating_sub(names.count as usize).min(voters.len() - 1) as u32;
    let wider = Published { voters, quorum };
    if *published == wider {
        return shrink_first(published, names, wanted);
    }
    Step::Publish(wider)
}

/// The voters are as wide as they get: narrow PostgreSQL's list to what stays of it, at the count
/// in force, so that the rest can follow.
fn shrink_first(published: &Published, names: &SyncNames, wanted: &BTreeSet<NodeName>) -> Step {
    let wider = union(&wanted.clone(), &names.names);
    let raised = SyncNames { count: names.count.max(1), names: wider.into_iter().collect() };
    let kept: Vec<_> = names.names.iter().filter(|n| wanted.contains(*n)).cloned().collect();
    let kept = SyncNames { count: names.count.min(kept.len() as u32), names: kept };
    for step in [raised, kept] {
        if step != *names && step.count > 0 && safe(published, &step) {
            return Step::SetNames(step);
        }
    }
    // Nothing is acknowledged while the two sides change places.
    Step::SetNames(SyncNames::nobody())
}

fn towards_nothing(published: &Published, names: &SyncNames) -> Step {
    if !published.voters.is_empty() || published.quorum != 0 {
        Step::Publish(Published::default())
    } else if *names != SyncNames::default() {
        Step::SetNames(SyncNames::default())
    } else {
        Step::Steady
    }
}

fn union(set: &BTreeSet<NodeName>, list: &[NodeName]) -> BTreeSet<NodeName> {
    set.iter().chain(list).cloned().collect()
}

#[cfg(test)]
mod tests;
