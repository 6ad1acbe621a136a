//! The WAL of a simulated run, as the model's rules ask for it: branches, and where terms begin in them.

use std::collections::BTreeMap;

use pgherd_model::ballot::wals::Wals;

use crate::pg::MAX_NODES;
use crate::wal::Wal;

/// Where a term's WAL begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Begin {
    /// Nobody said it yet: in the WAL of whoever leads it, after what is there.
    With(usize),
    /// On this branch, at this position.
    At(u32, u64),
}

/// All WAL of a run.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Histories {
    /// Per branch, where it leaves which.
    parents: Vec<Option<(u32, u64)>>,
    has: [Option<(u32, u64)>; MAX_NODES],
    begins: BTreeMap<u64, Begin>,
    /// Per branch, up to where clients were told.
    acked: BTreeMap<u32, u64>,
}

impl Histories {
    /// Learns of a branch.
    pub(super) fn branch(&mut self, branch: u32, parent: Option<Wal>) {
        let at = branch as usize;
        if self.parents.len() <= at {
            self.parents.resize(at + 1, None);
        }
        self.parents[at] = parent.map(|p| (p.branch, p.end.0));
    }

    /// What a node has, after a copy.
    pub(super) fn copied(&mut self, node: usize, wal: Wal) {
        self.has[node] = Some((wal.branch, wal.end.0));
    }

    /// The leader said where its term begins.
    pub(super) fn begins_at(&mut self, term: u64, leader: usize, at: u64) {
        if let (Some((branch, _)), Some(begin)) = (self.has[leader], self.begins.get_mut(&term)) {
            *begin = Begin::At(branch, at);
        }
    }

    /// Nothing was written under this term.
    pub(super) fn never_began(&mut self, node: usize, term: u64) {
        if self.begins.get(&term) == Some(&Begin::With(node)) {
            self.begins.remove(&term);
        }
    }

    /// The term that a node leads, of which it said nothing yet.
    pub(super) fn unsaid(&self, node: usize) -> Option<u64> {
        let mine = self.begins.iter().rev().find(|(_, b)| **b == Begin::With(node));
        mine.map(|(term, _)| *term)
    }

    /// An operator accepts that what this node lacks is lost.
    pub(super) fn forgive(&mut self, node: usize) {
        let kept = self.acked.iter().map(|(b, e)| (*b, *e));
        self.acked = kept.filter(|part| self.contains(self.has[node], *part)).collect();
    }

    fn contains(&self, has: Option<(u32, u64)>, part: (u32, u64)) -> bool {
        let mut at = has;
        while let Some((branch, end)) = at {
            if branch == part.0 {
                return part.1 <= end;
            }
            at = self.parents.get(branch as usize).copied().flatten();
        }
        false
    }
}

impl Wals for Histories {
    type Number = u64;
    type End = u64;
    type Record = Wal;
    type Commit = Wal;

    fn end(&self, node: usize) -> u64 {
        self.has[node].map_or(0, |(_, end)| end)
    }

    fn latest(&self, node: usize) -> u64 {
        let has = self.has[node];
        let begun = |begin: &Begin| match *begin {
            Begin::With(leader) => leader == node && has.is_some(),
            Begin::At(branch, at) => self.contains(has, (branch, at)),
        };
        let mut terms = self.begins.iter().rev();
        terms.find(|(_, begin)| begun(begin)).map_or(0, |(term, _)| *term)
    }

    fn continues(&self, leader: usize, member: usize) -> bool {
        self.has[member].is_none_or(|part| self.contains(self.has[leader], part))
    }

    /// The leader may be gone by the time at which it arrives, and its WAL with it.
    fn fits(&self, member: usize, _: usize, record: Wal) -> bool {
        let record = Some((record.branch, record.end.0));
        self.has[member].is_none_or(|part| self.contains(record, part))
    }

    fn commit_end(&self, node: usize, commit: Wal) -> Option<u64> {
        let part = (commit.branch, commit.end.0);
        self.contains(self.has[node], part).then_some(commit.end.0)
    }

    fn lost(&self, node: usize) -> bool {
        self.acked.iter().any(|(branch, end)| !self.contains(self.has[node], (*branch, *end)))
    }

    fn append(&mut self, node: usize, record: Wal) {
        self.copied(node, record);
    }

    fn begin(&mut self, node: usize, term: u64) {
        self.begins.insert(term, Begin::With(node));
    }

    fn carry(&mut self, node: usize, _: u64, term: u64) {
        self.begin(node, term);
    }

    fn rewind(&mut self, _: usize, _: usize) {
        unreachable!("a repaired directory is a copy");
    }

    fn clear(&mut self, node: usize) {
        self.has[node] = None;
    }

    fn acknowledge(&mut self, _: usize, commit: Wal) {
        let end = self.acked.entry(commit.branch).or_default();
        *end = (*end).max(commit.end.0);
    }
}
