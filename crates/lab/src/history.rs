//! What the clients did and saw. All clients are on one clock, so that real time orders it exactly.
//! Leaves what to conclude to `check`.

use std::time::Duration;

/// Time since the workload's begin.
pub(crate) type At = Duration;

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// It can't have happened.
    Failed,
    /// The connection broke, or the wait for the replicas was cancelled.
    Unknown,
}

/// An insert of a number that is used once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Insert {
    pub(crate) number: i64,
    pub(crate) ended: At,
    pub(crate) outcome: Outcome,
}

/// How long a directly connected client waits for an acknowledgement to mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Commit {
    /// As the cluster promises it.
    Synchronous,
    /// `synchronous_commit = local`: the client waived the replicas.
    Local,
}

/// A write that a node acknowledged to a client that went past the router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    pub(crate) node: usize,
    pub(crate) commit: Commit,
    /// On which timeline the node wrote.
    pub(crate) timeline: u32,
    pub(crate) begun: At,
    pub(crate) ended: At,
}

/// What a node showed to a client that reads it directly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) node: usize,
    /// When its postmaster started: one number per life.
    pub(crate) life: i64,
    pub(crate) greatest: i64,
    pub(crate) at: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Append { key: i64, element: i64 },
    Read { key: i64, list: Vec<i64> },
}

/// A serializable transaction on lists.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) begun: At,
    pub(crate) ended: At,
    pub(crate) outcome: Outcome,
    pub(crate) ops: Vec<Op>,
}

/// Everything of one workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) inserts: Vec<Insert>,
    /// Reads through the read port that were answered.
    pub(crate) reads: Vec<At>,
    /// Numbers that were read through the write port.
    pub(crate) seen: Vec<i64>,
    pub(crate) direct: Vec<Direct>,
    /// The same through the write port; the node is its address's last number.
    pub(crate) routed: Vec<Direct>,
    pub(crate) shown: Vec<Shown>,
    pub(crate) transactions: Vec<Transaction>,
    /// Sums of the bank's accounts.
    pub(crate) sums: Vec<(At, i64)>,
}

/// What was there in the end, when everything was whole again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Final {
    pub(crate) numbers: Vec<i64>,
    /// What each node has.
    pub(crate) nodes: Vec<Vec<i64>>,
    pub(crate) lists: Vec<(i64, Vec<i64>)>,
    pub(crate) sum: i64,
}

impl History {
    /// When writes through the router were acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<At> {
        let acknowledged = self.inserts.iter().filter(|i| i.outcome == Outcome::Acknowledged);
        acknowledged.map(|insert| insert.ended).collect()
    }
}

/// The longest time within a span in which nothing happened; what was under way at its begin counts
/// whole, and so does what follows the last event until its end.
pub(crate) fn longest_gap(events: &[At], from: At, until: At) -> Duration {
    let before = events.iter().rev().find(|at| **at <= from).copied().unwrap_or(from);
    let within = events.iter().copied().filter(|at| *at > from && *at <= until);
    let mut last = before;
    let mut longest = Duration::ZERO;
    for at in within.chain([until]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_may_be_at_either_end() {
        let at = |list: &[u64]| list.iter().map(|n| At::from_millis(*n)).collect::<Vec<_>>();
        let gap = |events: &[u64]| {
            let (from, until) = (At::from_millis(1000), At::from_millis(2000));
            longest_gap(&at(events), from, until).as_millis()
        };
        assert_eq!(gap(&[990, 1010, 1500, 1900]), 490);
        assert_eq!(gap(&[900, 1700, 1900]), 800);
        assert_eq!(gap(&[1000, 1100]), 900);
        assert_eq!(gap(&[]), 1000);
    }
}
