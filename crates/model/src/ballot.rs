//! Synchronous modes: who may be elected, and that nothing acknowledged is lost by it. Clocks are
//! left to [`crate::belief`]: here everything may take any time, and a hold ends only after the
//! leader stopped counting it.
//!
//! [`rules`] says what may happen next and [`apply`] what comes of it, for states of any size: the
//! exploration here goes through all states of small ones, and the simulator's trace check holds each
//! step of core's real code against the same rules. The steps of the list are core's own
//! (`quorum::{next, safe, caught_up}`); every other rule restates one of core's, and names it.

use std::collections::BTreeMap;

use crate::explore::{Label, Model};
use crate::mutant::Mutant;

mod apply;
mod lists;
pub mod rules;
mod steps;
pub mod wals;

pub use lists::{List, Next, Sync};
pub use rules::{Action, Laws, Rule};
use wals::{Short, Wals};

/// The most nodes that fit into an exploration.
pub(crate) const NODES: usize = 4;

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
    /// Deaths of an agent alone.
    pub agents: u8,
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

/// A write of `sync` on its way; stale once the term or `sync` changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Publish {
    /// What it writes.
    pub sync: Sync,
    /// It compares what is no more.
    pub stale: bool,
}

/// A takeover on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Take<T> {
    /// The claim's revision; `None`: a return.
    pub ballot: Option<T>,
    /// The term after which it comes.
    pub over: T,
    /// Term or `sync` changed.
    pub stale: bool,
    /// The agent that sent it still lives.
    pub known: bool,
    /// And waits for its answer.
    pub waits: bool,
    /// The term whose WAL the candidate has.
    pub lineage: T,
    /// The voters of its term that it publishes itself.
    pub first: Option<Sync>,
}

/// A candidate with its claim in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Candidacy<T, E> {
    /// The claim's revision.
    pub ballot: T,
    /// Who pledged, itself left out.
    pub pledged: u8,
    /// The furthest position of these.
    pub furthest: (T, E),
}

/// A promise to a candidate, on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Promise<T> {
    /// The claim's revision.
    pub ballot: T,
    /// Against which term.
    pub against: T,
    /// It was answered, or counted by the candidate itself: nothing is received from now on.
    pub given: bool,
}

/// A leader, as it knows itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reign<T, E, const N: usize> {
    /// Its term.
    pub term: T,
    /// PostgreSQL's list.
    pub names: List,
    /// Backends and walsenders may still act by it.
    pub before: Option<List>,
    /// The list in force counts as settled, and the end of WAL then.
    pub settled: bool,
    /// The end of WAL then.
    pub end: E,
    /// What each node was seen to have flushed under this term: what acknowledges.
    pub flushed: [E; N],
    /// What of it was in the data directory that it has now.
    pub has: [E; N],
    /// What a directory has to have to be admitted again: no less than the one before could acknowledge.
    pub needs: [E; N],
    /// Whose hold counts.
    pub holds: u8,
}

/// One node: its disk, then its processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node<T, E, const N: usize> {
    /// The latest promise to a candidate.
    pub promise: Option<Promise<T>>,
    /// The term that it holds, or none.
    pub hold: T,
    /// The newest term that it knows.
    pub seen: T,
    /// It receives from no leader of an earlier term: what it pledged has helped, or may help, this one.
    pub from: T,
    /// The term whose leader it receives from, or none.
    pub follows: T,
    /// It wants to lead.
    pub candidacy: Option<Candidacy<T, E>>,
    /// It leads, or believes that it does.
    pub reign: Option<Reign<T, E, N>>,
    /// Its latest takeover.
    pub take: Option<Take<T>>,
    /// A write of `sync` that waits for its answer.
    pub publish: Option<Publish>,
    /// A write of `sync` whose outcome nobody learned.
    pub uncertain: Option<Publish>,
}

/// The store, the nodes, their WAL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<W: Wals, const N: usize> {
    /// The last term.
    pub term: W::Number,
    /// Whose it is.
    pub leader: u8,
    /// The last term of the leader's lineage.
    pub lineage: W::Number,
    /// `sync`.
    pub sync: Sync,
    /// The revision of the latest claim or withdrawal.
    pub claim: W::Number,
    /// Whose claim it is, when it stands.
    pub candidate: Option<u8>,
    /// All nodes.
    pub nodes: [Node<W::Number, W::End, N>; N],
    /// All WAL.
    pub wals: W,
    /// Holds counted for a leader while pledges made another.
    pub both: bool,
}

/// What has been used of a [`Size`], and what was seen on the way (part of the state, so few).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) written: u8,
    pub(crate) crashes: u8,
    pub(crate) agents: u8,
    pub(crate) lists: u8,
    pub(crate) held: u8,
    pub(crate) wipes: u8,
    pub(crate) failover: bool,
    pub(crate) carried: bool,
}

/// A state of the exploration.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Explored {
    pub(crate) state: State<Short, NODES>,
    pub(crate) spent: Spent,
}

/// The model.
#[derive(Debug)]
pub struct Ballot {
    pub(crate) size: Size,
    pub(crate) laws: Laws,
}

impl Ballot {
    /// The model of this size, with at most one law dropped.
    #[must_use]
    pub fn new(size: Size, mutant: Option<Mutant>) -> Self {
        let steps: BTreeMap<_, _> = lists::table(size.nodes, size.count);
        Self { size, laws: Laws::looked_up(size.count, mutant, steps) }
    }
}

impl Model for Ballot {
    type State = Explored;

    fn initial(&self) -> Explored {
        let others = (1_u8 << self.size.nodes) - 2;
        let count = self.size.count as u8;
        let quorum = others.count_ones() as u8 - count;
        let mut state = State::new(Short::new());
        (state.term, state.sync) = (1, Sync { voters: others, quorum, admitted: others });
        for node in &mut state.nodes {
            (node.seen, node.follows) = (1, 1);
        }
        state.nodes[0].follows = 0;
        let names = List::Any(count, others);
        let reign = Reign {
            names,
            end: 1,
            flushed: [1; NODES],
            has: [1; NODES],
            needs: [1; NODES],
            ..Reign::new(1)
        };
        state.nodes[0].reign = Some(reign);
        Explored { state, spent: Spent::default() }
    }

    fn steps(&self, state: &Explored, next: &mut Vec<(Label, Explored)>) {
        steps::Steps { model: self, now: state, state: &state.state, next }.all();
    }

    fn broken(&self, state: &Explored) -> Option<&'static str> {
        state.state.broken()
    }

    fn sights(&self) -> &'static [&'static str] {
        &[
            "an acknowledged commit",
            "a failover by pledges",
            "a commit acknowledged by a later leader",
            "a smaller list of voters",
            "two that think they lead",
            "a leader held by its members",
            "a leader whose agent starts again under it",
            "a takeover that publishes voters",
        ]
    }

    fn seen(&self, explored: &Explored) -> u32 {
        let (state, spent) = (&explored.state, &explored.spent);
        let leaders = state.nodes.iter().filter(|n| n.reign.is_some()).count();
        let all = self.initial().state.sync.voters.count_ones();
        let held = |n: usize| {
            let reign = state.nodes[n].reign.as_ref();
            reign.is_some_and(|r| r.holds != 0 && state.held_enough(n, r.holds, 0))
        };
        let wals = &state.wals;
        u32::from(wals.acked != 0)
            | u32::from(spent.failover) << 1
            | u32::from(wals.acked_late(usize::from(state.leader))) << 2
            | u32::from(state.sync.voters.count_ones() < all) << 3
            | u32::from(leaders > 1) << 4
            | u32::from((0..NODES).any(held)) << 5
            | u32::from(spent.carried) << 6
            | u32::from(state.nodes.iter().any(|n| n.take.is_some_and(|t| t.first.is_some()))) << 7
    }
}

impl<T: Copy + Default, E: Copy + Default, const N: usize> Reign<T, E, N> {
    /// A leader that begins: with a list that nobody satisfies.
    #[must_use]
    pub fn new(term: T) -> Self {
        Self {
            term,
            names: List::Nobody,
            before: None,
            settled: true,
            end: E::default(),
            flushed: [E::default(); N],
            has: [E::default(); N],
            needs: [E::default(); N],
            holds: 0,
        }
    }
}

impl<W: Wals, const N: usize> State<W, N> {
    /// Before the first leader.
    #[must_use]
    pub fn new(wals: W) -> Self {
        let none = W::Number::default();
        let node = Node {
            promise: None,
            hold: none,
            seen: none,
            from: none,
            follows: none,
            candidacy: None,
            reign: None,
            take: None,
            publish: None,
            uncertain: None,
        };
        Self {
            term: none,
            leader: 0,
            lineage: none,
            sync: Sync::default(),
            claim: none,
            candidate: None,
            nodes: [node; N],
            wals,
            both: false,
        }
    }

    /// Core's `Position`: the term whose WAL it is, then how much.
    #[must_use]
    pub fn position(&self, node: usize) -> (W::Number, W::End) {
        (self.wals.latest(node), self.wals.end(node))
    }

    /// The law that this state breaks.
    #[must_use]
    pub fn broken(&self) -> Option<&'static str> {
        let leader = usize::from(self.leader);
        let reigns = self.nodes[leader].reign.as_ref().is_some_and(|r| r.term == self.term);
        if self.both {
            Some("holds and pledges never both count")
        } else if reigns && self.wals.lost(leader) {
            Some("no acknowledged commit is missing on a later leader")
        } else {
            None
        }
    }

    /// Core's `held_since`: enough of these members hold the term of `me`, by the list that stands and
    /// those that may.
    #[must_use]
    pub fn held_enough(&self, me: usize, holds: u8, fewer: u32) -> bool {
        let uncertain = [self.nodes[me].publish, self.nodes[me].uncertain].into_iter().flatten();
        let mut lists = uncertain.filter(|p| !p.stale).map(|p| p.sync).chain([self.sync]);
        let enough = |sync: Sync| {
            let needed = sync.voters.count_ones().saturating_sub(u32::from(sync.quorum) + fewer);
            // Where nobody votes, nobody is elected.
            sync.voters == 0 || ((holds | 1 << me) & sync.voters).count_ones() >= needed.max(1)
        };
        lists.all(enough)
    }
}
