//! What the ballot's rules ask of WAL, and the smallest WAL that can answer: a few records per node.
//! The simulator's trace check answers the same questions with whole histories.

use std::fmt::Debug;
use std::hash::Hash;

use super::NODES;

/// The WAL of all nodes, and which commits were acknowledged.
pub trait Wals: Clone + Eq + Hash + Debug {
    /// Numbers terms and ballots; the default is none.
    type Number: Copy + Ord + Hash + Debug + Default;
    /// How much WAL a node has; the default is nothing.
    type End: Copy + Ord + Hash + Debug + Default;
    /// Something that is written, or comes from a leader.
    type Record: Copy + Debug;
    /// A commit in the WAL of a leader.
    type Commit: Copy + Debug;

    /// How much a node has.
    fn end(&self, node: usize) -> Self::End;
    /// The latest term whose beginning lies within a node's WAL.
    fn latest(&self, node: usize) -> Self::Number;
    /// Everything that the member has is a beginning of what the leader has.
    fn continues(&self, leader: usize, member: usize) -> bool;
    /// This is WAL of the leader, and goes on where the member's ends.
    fn fits(&self, member: usize, leader: usize, record: Self::Record) -> bool;
    /// Where a commit ends; `None` when the node doesn't have it.
    fn commit_end(&self, node: usize, commit: Self::Commit) -> Option<Self::End>;
    /// An acknowledged commit is missing on this node.
    fn lost(&self, node: usize) -> bool;

    /// A node appends this to its WAL.
    fn append(&mut self, node: usize, record: Self::Record);
    /// A term begins in a node's WAL.
    fn begin(&mut self, node: usize, term: Self::Number);
    /// A term begins where the term before it, of the same PostgreSQL, did.
    fn carry(&mut self, node: usize, before: Self::Number, term: Self::Number);
    /// The member loses what the leader hasn't.
    fn rewind(&mut self, member: usize, leader: usize);
    /// Nothing is left.
    fn clear(&mut self, node: usize);
    /// A client was told.
    fn acknowledge(&mut self, node: usize, commit: Self::Commit);
}

/// How much fits.
const ROOM: usize = 6;
/// A record that begins a term, with the term's number.
const BEGINS: u8 = 0x80;

/// A few records for each node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Short {
    records: [[u8; ROOM]; NODES],
    ends: [u8; NODES],
    terms: [u8; NODES],
    /// Bit i: commit i was acknowledged.
    pub(super) acked: u8,
}

impl Short {
    /// All have the beginning of term 1.
    pub(super) fn new() -> Self {
        let mut wal = [0; ROOM];
        wal[0] = BEGINS | 1;
        Self { records: [wal; NODES], ends: [1; NODES], terms: [1; NODES], acked: 0 }
    }

    pub(super) fn of(&self, node: usize) -> &[u8] {
        &self.records[node][..usize::from(self.ends[node])]
    }

    /// The commits in a node's WAL of which nobody was told.
    pub(super) fn unacknowledged(&self, node: usize) -> impl Iterator<Item = u8> + '_ {
        let known = |r: &u8| *r >= BEGINS || self.acked >> (r - 1) & 1 == 1;
        self.of(node).iter().copied().filter(move |r| !known(r))
    }

    /// A commit after the beginning of term 2 was acknowledged.
    pub(super) fn acked_late(&self, node: usize) -> bool {
        let mut after = self.of(node).iter().skip_while(|r| **r != BEGINS | 2);
        after.any(|r| *r < BEGINS && self.acked >> (r - 1) & 1 == 1)
    }

    /// What the member gets next of the leader's WAL.
    pub(super) fn next_of(&self, member: usize, leader: usize) -> Option<u8> {
        self.of(leader).get(usize::from(self.ends[member])).copied()
    }

    fn cut(&mut self, node: usize, end: u8) {
        self.records[node][usize::from(end)..].fill(0);
        self.ends[node] = end;
        let terms = self.of(node).iter().filter(|r| **r >= BEGINS);
        self.terms[node] = terms.map(|r| r & !BEGINS).max().unwrap_or_default();
    }
}

impl Wals for Short {
    type Number = u8;
    type End = u8;
    type Record = u8;
    type Commit = u8;

    fn end(&self, node: usize) -> u8 {
        self.ends[node]
    }

    fn latest(&self, node: usize) -> u8 {
        self.terms[node]
    }

    fn continues(&self, leader: usize, member: usize) -> bool {
        self.of(leader).starts_with(self.of(member))
    }

    fn fits(&self, member: usize, leader: usize, record: u8) -> bool {
        self.next_of(member, leader) == Some(record)
    }

    fn commit_end(&self, node: usize, commit: u8) -> Option<u8> {
        self.of(node).iter().position(|r| *r == commit).map(|at| at as u8 + 1)
    }

    fn lost(&self, node: usize) -> bool {
        let acked = |commit: &u8| self.acked >> (commit - 1) & 1 == 1;
        (1..=7).filter(acked).any(|commit| !self.of(node).contains(&commit))
    }

    fn append(&mut self, node: usize, record: u8) {
        self.records[node][usize::from(self.ends[node])] = record;
        self.ends[node] += 1;
        if record >= BEGINS {
            self.terms[node] = record & !BEGINS;
        }
    }

    fn begin(&mut self, node: usize, term: u8) {
        self.append(node, BEGINS | term);
    }

    fn carry(&mut self, node: usize, _: u8, term: u8) {
        self.append(node, BEGINS | term);
    }

    fn rewind(&mut self, member: usize, leader: usize) {
        let both = self.of(member).iter().zip(self.of(leader));
        let shared = both.take_while(|(a, b)| a == b).count();
        self.cut(member, shared as u8);
    }

    fn clear(&mut self, node: usize) {
        self.cut(node, 0);
    }

    fn acknowledge(&mut self, _: usize, commit: u8) {
        self.acked |= 1 << (commit - 1);
    }
}
