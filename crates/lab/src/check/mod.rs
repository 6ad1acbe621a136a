//! What a history says about the promises. Each check is a function of the history alone, and its
//! tests plant what it must find. Leaves which findings fail a scenario to [`Findings::violations`].

mod bank;
mod lists;
mod overlap;
mod replicas;
mod sets;

use serde::Serialize;

use crate::history::{Final, History};
use crate::scenario::{Cluster, Mode};

/// How many examples of one kind are worth printing.
const EXAMPLES: usize = 5;

/// What was found, each with examples.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Acknowledged inserts and appends that are not there in the end.
    pub(crate) lost: Found,
    /// Rows that nobody wrote, or whose writing had failed.
    pub(crate) unexpected: Found,
    /// Read through the write port, and gone in the end.
    pub(crate) vanished: Found,
    /// A replica that in the end has other rows than the leader.
    pub(crate) diverged: Found,
    /// Acknowledged by two nodes at once, as the cluster promises commits.
    pub(crate) overlap: Found,
    /// The same, where one of them was told not to wait for replicas.
    pub(crate) overlap_waived: Found,
    /// Acknowledged by two nodes at once through the router, to whomever.
    pub(crate) overlap_routed: Found,
    pub(crate) backwards: Found,
    /// Histories of lists that no serial order explains.
    pub(crate) anomalies: Found,
    pub(crate) bank: Found,
    /// Not a breach: unknown outcomes that turned out to have happened.
    pub(crate) recovered: usize,
}

/// So many, and the first few in words.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) count: usize,
    pub(crate) examples: Vec<String>,
}

impl Found {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

impl Findings {
    pub(crate) fn of(history: &History, last: &Final) -> Self {
        let mut findings = Self::default();
        sets::check(history, last, &mut findings);
        overlap::check(&history.direct, &mut findings);
        overlap::check_routed(&history.routed, &mut findings);
        replicas::check(history, &mut findings);
        lists::check(&history.transactions, &last.lists, &mut findings);
        bank::check(&history.sums, last.sum, &mut findings);
        findings
    }

    /// Those that break what such a cluster promises. Asynchronous clusters may lose what they had
    /// acknowledged; nobody may make a mess.
    pub(crate) fn violations(&self, cluster: &Cluster, allow_overlap: bool) -> Vec<String> {
        let loses = cluster.mode == Mode::Async;
        let judged = [
            ("acknowledged and lost", &self.lost, !loses),
            ("unexpected", &self.unexpected, true),
            ("read through the write port and gone", &self.vanished, !loses),
            ("not the leader's rows", &self.diverged, true),
            ("two primaries", &self.overlap, !allow_overlap),
            // Who waives the replicas has waived this too, unless all commits are like that.
            ("two primaries, local commits", &self.overlap_waived, loses && !allow_overlap),
            ("two primaries through the router", &self.overlap_routed, true),
            ("a node went backwards", &self.backwards, !loses),
            // A history of which an end is cut off contradicts itself without anybody's mistake.
            ("not serializable", &self.anomalies, !loses),
            ("the bank's sum", &self.bank, true),
        ];
        let broken = judged.into_iter().filter(|(_, found, judged)| *judged && found.count > 0);
        broken
            .map(|(what, found, _)| {
                format!("{what}: {}: {}", found.count, found.examples.join("; "))
            })
            .collect()
    }
}
