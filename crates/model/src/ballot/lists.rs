//! PostgreSQL's list and `sync` in bits, and core's steps from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use pgherd_core::NodeName;
use pgherd_core::postgres::SyncNames;
use pgherd_core::quorum::{self, Published, Step};

/// PostgreSQL's list: how many of which nodes (bits), or nobody who exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum List {
    /// Nobody satisfies it.
    Nobody,
    /// So many of these.
    Any(u8, u8),
}

/// `sync`: the voters (bits), `quorum`, and whose data directory is still the one that was admitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Sync {
    /// Who votes.
    pub voters: u8,
    /// One fewer than the pledges that a candidate needs.
    pub quorum: u8,
    /// Whose pledge would count.
    pub admitted: u8,
}

/// [`Step`] in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing is to be done.
    Steady,
    /// Change PostgreSQL's list.
    Names(List),
    /// Publish these voters with this quorum.
    Publish(u8, u8),
}

/// Where core's steps were looked up before.
pub(super) type Table = BTreeMap<(u8, u8, List, u8), Next>;

/// Bits of a mask.
const ROOM: usize = 8;

pub(super) fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{}", node + 1)).unwrap_or_else(|_| unreachable!("a valid name"))
}

fn names(bits: u8) -> BTreeSet<NodeName> {
    (0..ROOM).filter(|n| bits >> n & 1 == 1).map(name).collect()
}

fn bits<'a>(names: impl IntoIterator<Item = &'a NodeName>) -> u8 {
    let bit = |n: &NodeName| (0..ROOM).find(|i| name(*i) == *n).map_or(0, |i| 1 << i);
    names.into_iter().map(bit).sum()
}

/// `sync` as core has it.
pub(super) fn published(voters: u8, quorum: u8) -> Published {
    Published { voters: names(voters), quorum: u32::from(quorum) }
}

fn standing(list: List) -> SyncNames {
    match list {
        List::Nobody => SyncNames::nobody(),
        List::Any(k, m) => SyncNames { count: u32::from(k), names: names(m).into_iter().collect() },
    }
}

/// Core's `quorum::next`.
pub(super) fn next(voters: u8, quorum: u8, list: List, wanted: u8, count: u32) -> Next {
    let now = published(voters, quorum);
    match quorum::next(&now, &standing(list), &names(wanted), count) {
        Step::Steady => Next::Steady,
        Step::SetNames(n) if n.is_nobody() => Next::Names(List::Nobody),
        Step::SetNames(n) => Next::Names(List::Any(n.count as u8, bits(&n.names))),
        Step::Publish(p) => Next::Publish(bits(&p.voters), p.quorum as u8),
    }
}

/// What core does next in every safe state of list, key and wish.
pub(super) fn table(nodes: usize, count: u32) -> Table {
    let every = 1_u8 << nodes;
    let lists = (0..every).flat_map(|m| (0..=m.count_ones() as u8).map(move |k| List::Any(k, m)));
    let lists: Vec<List> = lists.chain([List::Nobody]).collect();
    let mut table = BTreeMap::new();
    for (voters, wanted) in (0..every).flat_map(|v| (0..every).map(move |w| (v, w))) {
        for quorum in 0..=voters.count_ones() as u8 {
            for list in &lists {
                if quorum::safe(&published(voters, quorum), &standing(*list)) {
                    let step = next(voters, quorum, *list, wanted, count);
                    table.insert((voters, quorum, *list, wanted), step);
                }
            }
        }
    }
    table
}
