//! Write-ahead logs that share their prefixes. A *branch* is a stretch of WAL that one reign wrote;
//! it begins on another branch. A node's WAL is a branch and how much of it the node has.
//! Two branches may carry the same timeline number: PostgreSQL can't tell them apart, we can.

use pgherd_core::postgres::TimelineEnd;
use pgherd_core::{Lsn, Timeline};

/// Numbers the branches of one world.
pub(crate) type BranchId = u32;

/// What a node has on disk: everything up to `end` on `branch` and its ancestors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wal {
    pub(crate) branch: BranchId,
    pub(crate) end: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Branch {
    timeline: Timeline,
    parent: Option<Wal>,
    /// How much has been written by anybody.
    end: Lsn,
}

/// All WAL that was ever written.
#[derive(Default, Debug)]
pub(crate) struct Branches(Vec<Branch>);

/// Where PostgreSQL's first record of a new cluster stands.
const FIRST: Lsn = Lsn(0x0100_0000);

impl Branches {
    /// WAL of a new cluster.
    pub(crate) fn found(&mut self) -> Wal {
        self.0.push(Branch { timeline: Timeline(1), parent: None, end: FIRST });
        Wal { branch: (self.0.len() - 1) as BranchId, end: FIRST }
    }

    /// A promotion: a new timeline that begins where `from` ends.
    pub(crate) fn fork(&mut self, from: Wal, timeline: Timeline) -> Wal {
        self.0.push(Branch { timeline, parent: Some(from), end: from.end });
        Wal { branch: (self.0.len() - 1) as BranchId, end: from.end }
    }

    /// Writes `bytes` at the end of `wal`. Where somebody else has written there already, the
    /// result is another branch with the same number.
    pub(crate) fn append(&mut self, wal: &mut Wal, bytes: u64) {
        if self.end(wal.branch) != wal.end {
            *wal = self.fork(*wal, self.timeline(wal.branch));
        }
        wal.end = Lsn(wal.end.0 + bytes);
        self.0[wal.branch as usize].end = wal.end;
    }

    pub(crate) fn timeline(&self, branch: BranchId) -> Timeline {
        self.0[branch as usize].timeline
    }

    /// Where a branch begins; `None`: there is none of this number.
    pub(crate) fn parent(&self, branch: usize) -> Option<Option<Wal>> {
        self.0.get(branch).map(|branch| branch.parent)
    }

    fn end(&self, branch: BranchId) -> Lsn {
        self.0[branch as usize].end
    }

    /// Whether `wal` has everything that `part` has.
    pub(crate) fn contains(&self, wal: Wal, part: Wal) -> bool {
        let mut at = Some(wal);
        while let Some(here) = at {
            if here.branch == part.branch {
                return part.end <= here.end;
            }
            at = self.0[here.branch as usize].parent.map(|p| Wal { branch: p.branch, end: p.end });
        }
        false
    }

    /// Where two histories part: the last position that both have.
    pub(crate) fn common(&self, a: Wal, b: Wal) -> Option<Wal> {
        let mut at = Some(a);
        while let Some(here) = at {
            let mut other = Some(b);
            while let Some(there) = other {
                if here.branch == there.branch {
                    return Some(Wal { branch: here.branch, end: here.end.min(there.end) });
                }
                other = self.0[there.branch as usize].parent;
            }
            at = self.0[here.branch as usize].parent;
        }
        None
    }

    /// The part of `wal` up to `end`.
    pub(crate) fn upto(&self, wal: Wal, end: Lsn) -> Wal {
        let mut here = Wal { branch: wal.branch, end: wal.end.min(end) };
        while let Some(parent) = self.0[here.branch as usize].parent {
            if here.end > parent.end {
                break;
            }
            here.branch = parent.branch;
        }
        here
    }

    /// Where the history of `wal` leaves a timeline number, by numbers alone as PostgreSQL sees it:
    /// `None` when the number isn't in it, `Lsn::MAX` for the last one.
    pub(crate) fn leaves(&self, wal: Wal, timeline: Timeline) -> Option<Lsn> {
        let mut here = wal.branch;
        let mut left = Lsn(u64::MAX);
        loop {
            let branch = &self.0[here as usize];
            if branch.timeline == timeline {
                return Some(left);
            }
            let parent = branch.parent?;
            left = parent.end;
            here = parent.branch;
        }
    }

    /// Whether a replica with `own` WAL can stream from `upstream`, by PostgreSQL's rules.
    pub(crate) fn can_stream(&self, own: Wal, upstream: Wal) -> bool {
        self.leaves(upstream, self.timeline(own.branch))
            .is_some_and(|left| own.end <= left && own.end <= upstream.end)
    }

    /// The history file of a branch: which timelines ended where, oldest first.
    pub(crate) fn history(&self, branch: BranchId) -> Vec<TimelineEnd> {
        let mut lines = Vec::new();
        let mut here = branch;
        while let Some(parent) = self.0[here as usize].parent {
            let timeline = self.timeline(parent.branch);
            if timeline != self.timeline(here) {
                lines.push(TimelineEnd { timeline, end: parent.end });
            }
            here = parent.branch;
        }
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::{Branches, Wal};
    use pgherd_core::Timeline;

    #[test]
    fn a_promotion_shares_the_prefix() {
        let mut all = Branches::default();
        let mut old = all.found();
        all.append(&mut old, 100);
        let replica = old;
        all.append(&mut old, 50);
        let mut new = all.fork(replica, Timeline(2));
        all.append(&mut new, 10);
        assert!(all.contains(new, replica) && !all.contains(new, old));
        assert!(!all.can_stream(old, new), "it went past the branch");
        assert!(all.can_stream(replica, new));
        assert_eq!(all.common(old, new), Some(replica));
        assert_eq!(all.upto(new, replica.end), replica);
    }

    #[test]
    fn two_writers_of_one_timeline_part() {
        let mut all = Branches::default();
        let mut a = all.found();
        let mut b = a;
        all.append(&mut a, 10);
        all.append(&mut b, 20);
        assert_ne!(a.branch, b.branch);
        assert_eq!(all.timeline(a.branch), all.timeline(b.branch));
        assert!(all.can_stream(a, b), "PostgreSQL doesn't see it");
        assert!(!all.contains(b, a), "but we do");
        let _: Wal = a;
    }
}
