//! Synchronous waits that ended without the replicas: somebody cancelled or terminated a backend that
//! waited, and its commit is visible though not replicated. Leaves looking at PostgreSQL to the shell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Lsn;
use crate::node::Node;
use crate::postgres::{PrimaryFacts, SyncNames, WaitingBackend};

/// What a primary's waits were like when they were seen last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Waits {
    names: SyncNames,
    /// What enough listed nodes have on disk.
    covered: Lsn,
    #[serde(with = "pairs")]
    seen: BTreeMap<WaitingBackend, Wait>,
    /// They waited before the last look and did not wait then.
    left: Vec<Wait>,
    uncovered: Option<Lsn>,
    cancelled: u64,
}

/// One wait.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Wait {
    /// Its commit doesn't lie beyond: WAL was on disk up to here when the wait was first seen.
    end: Lsn,
    /// What was covered when it was seen last.
    covered: Lsn,
}

/// In a record keys are texts, and these aren't.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{Wait, WaitingBackend};

    pub(super) fn serialize<S: Serializer>(
        seen: &BTreeMap<WaitingBackend, Wait>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        seen.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<WaitingBackend, Wait>, D::Error> {
        Ok(Vec::<(WaitingBackend, Wait)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Waits {
    /// Compares with the last look. A wait that ended while what is covered stood still, before and for one
    /// look after, did not end by an acknowledgement.
    pub(crate) fn look(&mut self, primary: &PrimaryFacts) {
        if primary.names != self.names {
            // Another list lets waits end by itself.
            *self =
                Self { cancelled: self.cancelled, names: primary.names.clone(), ..Self::default() };
        }
        self.covered = self.covered.max(covered(primary));
        for wait in std::mem::take(&mut self.left) {
            if wait.covered == self.covered {
                self.cancelled += 1;
                self.uncovered = self.uncovered.max(Some(wait.end));
            }
        }
        let waits = |backend: &WaitingBackend| primary.waiting.contains(backend);
        let gone = self.seen.iter().filter(|(backend, _)| !waits(backend));
        self.left = gone.map(|(_, wait)| *wait).filter(|wait| wait.end > self.covered).collect();
        self.seen.retain(|backend, _| waits(backend));
        for backend in &primary.waiting {
            let new = Wait { end: primary.flushed, covered: self.covered };
            self.seen.entry(backend.clone()).or_insert(new).covered = self.covered;
        }
        self.uncovered = self.uncovered.filter(|end| *end > self.covered);
    }

    /// PostgreSQL is a replica: its own commits are over. How many were cancelled stays.
    pub(crate) fn forget(&mut self) {
        if !self.seen.is_empty() || self.uncovered.is_some() || !self.left.is_empty() {
            *self = Self { cancelled: self.cancelled, ..Self::default() };
        }
    }

    /// The end of WAL up to which there are commits whose wait was cancelled, and which too few have.
    pub(crate) fn uncovered(&self) -> Option<Lsn> {
        self.uncovered
    }

    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled
    }
}

impl Node {
    /// The leader before has shown commits up to here that nobody else may have, and this WAL ends
    /// before.
    pub(crate) fn goes_without(&self) -> Option<Lsn> {
        let said = self.view.current_beat()?.value.unreplicated?;
        let reaches = self.position().is_some_and(|position| position.lsn >= said);
        (!reaches).then_some(said)
    }
}

/// What as many listed nodes as commits wait for have on disk.
fn covered(primary: &PrimaryFacts) -> Lsn {
    let names = &primary.names;
    let listed = primary.senders.iter().filter(|s| s.streaming && names.names.contains(&s.node));
    let mut flushed: Vec<Lsn> = listed.map(|sender| sender.flushed).collect();
    flushed.sort_unstable_by(|a, b| b.cmp(a));
    let needed = (names.count as usize).max(1);
    flushed.get(needed - 1).copied().unwrap_or(Lsn::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeName;
    use crate::postgres::SenderFacts;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a test's name is a name")
    }

    /// A primary at `flushed` whose replica has `replica`; the backends of `pids` wait.
    fn primary(flushed: u64, replica: u64, pids: &[u32]) -> PrimaryFacts {
        let sender = |flushed| SenderFacts {
            node: name("n2"),
            streaming: true,
            flushed: Lsn(flushed),
            replayed: Lsn(flushed),
        };
        PrimaryFacts {
            flushed: Lsn(flushed),
            names: SyncNames { count: 1, names: vec![name("n2")] },
            senders: vec![sender(replica)],
            history: Vec::new(),
            checkpointed: true,
            waiting: pids.iter().map(|pid| WaitingBackend { pid: *pid, began: 7 }).collect(),
        }
    }

    fn looks(all: &[PrimaryFacts]) -> Waits {
        let mut waits = Waits::default();
        all.iter().for_each(|facts| waits.look(facts));
        waits
    }

    #[test]
    fn a_wait_that_ends_while_nothing_is_acknowledged_was_cancelled() {
        let mut waits = looks(&[primary(100, 50, &[1]), primary(120, 50, &[])]);
        assert_eq!((waits.cancelled(), waits.uncovered()), (0, None), "one more look");
        waits.look(&primary(120, 50, &[]));
        assert_eq!((waits.cancelled(), waits.uncovered()), (1, Some(Lsn(100))));
        waits.look(&primary(130, 130, &[]));
        assert_eq!((waits.cancelled(), waits.uncovered()), (1, None), "the replica has it now");
    }

    #[test]
    fn an_acknowledged_wait_is_none() {
        let waits =
            looks(&[primary(100, 50, &[1]), primary(120, 100, &[]), primary(120, 100, &[])]);
        assert_eq!((waits.cancelled(), waits.uncovered()), (0, None));
        // The replica's answer is seen one look later than the end of the wait.
        let waits = looks(&[primary(100, 50, &[1]), primary(120, 50, &[]), primary(120, 100, &[])]);
        assert_eq!((waits.cancelled(), waits.uncovered()), (0, None));
    }

    #[test]
    fn another_list_ends_waits_by_itself() {
        let mut empty = primary(120, 50, &[]);
        empty.names = SyncNames::default();
        let waits = looks(&[primary(100, 50, &[1]), empty.clone(), empty]);
        assert_eq!((waits.cancelled(), waits.uncovered()), (0, None));
    }

    #[test]
    fn the_next_wait_of_a_backend_is_another() {
        let mut again = primary(200, 50, &[1]);
        again.waiting = vec![WaitingBackend { pid: 1, began: 8 }];
        let waits = looks(&[primary(100, 50, &[1]), again.clone(), again]);
        assert_eq!((waits.cancelled(), waits.uncovered()), (1, Some(Lsn(100))));
    }
}
