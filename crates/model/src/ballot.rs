//! Synchronous modes: who may be elected, and that nothing acknowledged is lost by it. Clocks are
//! left to [`crate::belief`]: here everything may take any time, and a hold ends only after the
//! leader stopped counting it.
//!
//! Restates core's `plan/{election,voter,list,hold}.rs`, and the transactions of `requests.rs`; the
//! steps of the list are core's own (`quorum::{next, safe, caught_up}`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use pgherd_core::NodeName;
use pgherd_core::postgres::SyncNames;
use pgherd_core::quorum::{self, Published, Step};

use crate::explore::{Label, Model};
use crate::mutant::Mutant;

mod steps;

/// The most nodes that fit.
pub(crate) const NODES: usize = 4;
const WAL: usize = 6;
/// A WAL record that begins a term, with the term's number.
const BEGINS: u8 = 0x80;

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes; the first leads.
    pub nodes: usize,
    /// The highest term.
    pub terms: u8,
    /// Commits, of all terms together.
    pub commits: u8,
    /// Claims and withdrawals.
    pub claims: u8,
    /// Crashes of a whole node (PostgreSQL and agent).
    pub crashes: u8,
    /// Changes of PostgreSQL's list.
    pub lists: u8,
    /// Members that hold the term.
    pub holds: u8,
    /// Data directories lost and copied anew.
    pub wipes: u8,
    /// `synchronous_node_count`.
    pub count: u32,
    /// `synchronous_mode_strict`.
    pub strict: bool,
}

/// PostgreSQL's list: how many of which nodes (bits), or nobody who exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum List {
    Nobody,
    Any(u8, u8),
}

/// `sync`: the voters (bits), `quorum`, and whose data directory is still the one that was admitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) struct Sync {
    pub(crate) voters: u8,
    pub(crate) quorum: u8,
    pub(crate) admitted: u8,
}

/// A write of `sync` on its way; stale once the term or `sync` changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Publish {
    pub(crate) sync: Sync,
    pub(crate) stale: bool,
}

/// A takeover on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Take {
    /// The claim's revision, or 0: a return.
    pub(crate) ballot: u8,
    pub(crate) over: u8,
    /// Term or `sync` changed.
    pub(crate) stale: bool,
    /// The agent that sent it still lives.
    pub(crate) known: bool,
    /// The term whose WAL the candidate has.
    pub(crate) lineage: u8,
}

/// A candidate with its claim in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Candidacy {
    pub(crate) ballot: u8,
    /// Who pledged, itself left out.
    pub(crate) pledged: u8,
    /// One of them has more.
    pub(crate) behind: bool,
}

/// A leader, as it knows itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Reign {
    pub(crate) term: u8,
    pub(crate) names: List,
    /// Backends and walsenders may still act by it.
    pub(crate) before: Option<List>,
    /// The list in force counts as settled, and the end of WAL then.
    pub(crate) settled: bool,
    pub(crate) end: u8,
    /// What each node was seen to have flushed under this term.
    pub(crate) flushed: [u8; NODES],
    pub(crate) publish: Option<Publish>,
    /// A write of `sync` whose outcome nobody learned.
    pub(crate) uncertain: Option<Publish>,
    /// Whose hold counts.
    pub(crate) holds: u8,
}

/// One node: its disk, then its processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    pub(crate) wal: [u8; WAL],
    pub(crate) len: u8,
    pub(crate) wal_term: u8,
    /// The ballot and the term against which it was promised.
    pub(crate) promise: Option<(u8, u8)>,
    /// The term that it holds, or 0.
    pub(crate) hold: u8,
    /// The newest term that it knows.
    pub(crate) seen: u8,
    /// The term whose leader it receives from, or 0.
    pub(crate) follows: u8,
    pub(crate) candidacy: Option<Candidacy>,
    pub(crate) reign: Option<Reign>,
    pub(crate) take: Option<Take>,
}

/// The store, the nodes, what was acknowledged and what may still happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub(crate) term: u8,
    pub(crate) leader: u8,
    /// The last term of the leader's lineage.
    pub(crate) lineage: u8,
    pub(crate) sync: Sync,
    pub(crate) claim: u8,
    pub(crate) candidate: Option<u8>,
    pub(crate) nodes: [Node; NODES],
    /// Bit i: commit i was acknowledged.
    pub(crate) acked: u8,
    pub(crate) written: u8,
    pub(crate) crashes: u8,
    pub(crate) lists: u8,
    pub(crate) held: u8,
    pub(crate) wipes: u8,
    /// Holds counted for a leader while pledges made another.
    pub(crate) both: bool,
    /// What was seen on the way here (part of the state, so few).
    pub(crate) failover: bool,
}

/// The model.
#[derive(Debug)]
pub struct Ballot {
    pub(crate) size: Size,
    pub(crate) mutant: Option<Mutant>,
    steps: BTreeMap<(Sync, List, u8), Next>,
}

/// [`Step`] in bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Steady,
    Names(List),
    Publish(u8, u8),
}

impl Ballot {
    /// The model of this size, with at most one law dropped.
    #[must_use]
    pub fn new(size: Size, mutant: Option<Mutant>) -> Self {
        Self { size, mutant, steps: table(size) }
    }

    pub(crate) fn drops(&self, law: Mutant) -> bool {
        self.mutant == Some(law)
    }

    /// Core's `quorum::next`, looked up.
    pub(crate) fn next(&self, sync: Sync, names: List, wanted: u8) -> Next {
        let key = (Sync { admitted: 0, ..sync }, names, wanted);
        self.steps.get(&key).copied().unwrap_or(Next::Steady)
    }
}

fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{}", node + 1)).unwrap_or_else(|_| unreachable!("a valid name"))
}

fn names(bits: u8) -> BTreeSet<NodeName> {
    (0..NODES).filter(|n| bits >> n & 1 == 1).map(name).collect()
}

fn bits<'a>(names: impl IntoIterator<Item = &'a NodeName>) -> u8 {
    let bit = |n: &NodeName| (0..NODES).find(|i| name(*i) == *n).map_or(0, |i| 1 << i);
    names.into_iter().map(bit).sum()
}

/// `sync` as core has it.
pub(crate) fn published(voters: u8, quorum: u8) -> Published {
    Published { voters: names(voters), quorum: u32::from(quorum) }
}

/// What core does next in every state of list, key and wish.
fn table(size: Size) -> BTreeMap<(Sync, List, u8), Next> {
    let every = 1_u8 << size.nodes;
    let lists = (0..every).flat_map(|m| (0..=m.count_ones() as u8).map(move |k| List::Any(k, m)));
    let lists: Vec<List> = lists.chain([List::Nobody]).collect();
    let mut table = BTreeMap::new();
    for (voters, wanted) in (0..every).flat_map(|v| (0..every).map(move |w| (v, w))) {
        for quorum in 0..=voters.count_ones() as u8 {
            for list in &lists {
                let sync = Sync { voters, quorum, admitted: 0 };
                let standing = match *list {
                    List::Nobody => SyncNames::nobody(),
                    List::Any(k, m) => {
                        SyncNames { count: u32::from(k), names: names(m).into_iter().collect() }
                    }
                };
                let now = published(voters, quorum);
                if !quorum::safe(&now, &standing) {
                    continue;
                }
                let next = match quorum::next(&now, &standing, &names(wanted), size.count) {
                    Step::Steady => Next::Steady,
                    Step::SetNames(n) if n.is_nobody() => Next::Names(List::Nobody),
                    Step::SetNames(n) => Next::Names(List::Any(n.count as u8, bits(&n.names))),
                    Step::Publish(p) => Next::Publish(bits(&p.voters), p.quorum as u8),
                };
                table.insert((sync, *list, wanted), next);
            }
        }
    }
    table
}

impl Model for Ballot {
    type State = State;

    fn initial(&self) -> State {
        let others = (1_u8 << self.size.nodes) - 2;
        let count = self.size.count as u8;
        let quorum = others.count_ones() as u8 - count;
        let mut wal = [0; WAL];
        wal[0] = BEGINS | 1;
        let node = Node {
            wal,
            len: 1,
            wal_term: 1,
            promise: None,
            hold: 0,
            seen: 1,
            follows: 1,
            candidacy: None,
            reign: None,
            take: None,
        };
        let mut nodes = [node; NODES];
        nodes[0].follows = 0;
        nodes[0].reign = Some(Reign {
            settled: true,
            end: 1,
            flushed: [1; NODES],
            ..Reign::new(1, List::Any(count, others))
        });
        State {
            term: 1,
            leader: 0,
            lineage: 0,
            sync: Sync { voters: others, quorum, admitted: others },
            claim: 0,
            candidate: None,
            nodes,
            acked: 0,
            written: 0,
            crashes: 0,
            lists: 0,
            held: 0,
            wipes: 0,
            both: false,
            failover: false,
        }
    }

    fn steps(&self, state: &State, next: &mut Vec<(Label, State)>) {
        steps::Steps { model: self, state, next }.all();
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let leader = &state.nodes[usize::from(state.leader)];
        let has = |commit: u8| leader.wal[..usize::from(leader.len)].contains(&(commit + 1));
        let reigns = leader.reign.is_some_and(|r| r.term == state.term);
        let lost = (0..state.written).any(|c| state.acked >> c & 1 == 1 && !has(c));
        if state.both {
            Some("holds and pledges never both count")
        } else if reigns && lost {
            Some("no acknowledged commit is missing on a later leader")
        } else {
            None
        }
    }

    fn sights(&self) -> &'static [&'static str] {
        &[
            "an acknowledged commit",
            "a failover by pledges",
            "a commit acknowledged by a later leader",
            "a smaller list of voters",
            "two that think they lead",
            "a leader held by its members",
        ]
    }

    fn seen(&self, state: &State) -> u32 {
        let leaders = state.nodes.iter().filter(|n| n.reign.is_some()).count();
        let all = self.initial().sync.voters.count_ones();
        let held = |(i, n): (usize, &Node)| {
            n.reign.is_some_and(|r| r.holds != 0 && state.held_enough(&r, i, 0))
        };
        let leader = &state.nodes[usize::from(state.leader)];
        let after = leader.wal[..usize::from(leader.len)].iter().skip_while(|r| **r != BEGINS | 2);
        let late = after.filter(|r| **r < BEGINS).any(|r| state.acked >> (r - 1) & 1 == 1);
        u32::from(state.acked != 0)
            | u32::from(state.failover) << 1
            | u32::from(late) << 2
            | u32::from(state.sync.voters.count_ones() < all) << 3
            | u32::from(leaders > 1) << 4
            | u32::from(state.nodes.iter().enumerate().any(held)) << 5
    }
}

impl Reign {
    pub(crate) fn new(term: u8, names: List) -> Self {
        Self {
            term,
            names,
            before: None,
            settled: true,
            end: 0,
            flushed: [0; NODES],
            publish: None,
            uncertain: None,
            holds: 0,
        }
    }
}

impl Node {
    /// Core's `Position`: the term whose WAL it is, then how much.
    pub(crate) fn position(&self) -> (u8, u8) {
        (self.wal_term, self.len)
    }
}

impl State {
    /// Core's `held_since`: enough members hold, by the list that stands and those that may.
    pub(crate) fn held_enough(&self, reign: &Reign, me: usize, fewer: u32) -> bool {
        let uncertain = [reign.publish, reign.uncertain].into_iter().flatten();
        let mut lists = uncertain.filter(|p| !p.stale).map(|p| p.sync).chain([self.sync]);
        let enough = |sync: Sync| {
            let needed = sync.voters.count_ones().saturating_sub(u32::from(sync.quorum) + fewer);
            ((reign.holds | 1 << me) & sync.voters).count_ones() >= needed.max(1)
        };
        lists.all(enough)
    }
}
