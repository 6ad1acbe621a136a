//! The state of one virtual PostgreSQL: its directory, its processes, its two ends of replication.
//! What changes it: `ops.rs` (asked for), `stream.rs` (replication), `machine.rs` (deaths).

use std::collections::VecDeque;

use pgherd_core::postgres::{BrokenData, ControlState, SyncNames};
use pgherd_core::{Instance, Lsn, SystemId, Term, Timeline};

use crate::clock::Micros;
use crate::event::Ix;
use crate::wal::Wal;

/// The most nodes of a world.
pub(crate) const MAX_NODES: usize = 5;

/// A data directory.
#[derive(Clone, Debug)]
pub(crate) struct Dir {
    pub(crate) system_id: SystemId,
    pub(crate) instance: Instance,
    pub(crate) wal: Wal,
    /// The greatest timeline number that its history files name.
    pub(crate) known: Timeline,
    pub(crate) broken: Option<BrokenData>,
    pub(crate) control: ControlState,
    pub(crate) control_timeline: Timeline,
    pub(crate) checkpoint: Lsn,
    pub(crate) min_recovery_end: Lsn,
}

/// Which processes run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Run {
    Down,
    Starting {
        primary: bool,
    },
    Primary,
    Replica,
    Stopping {
        primary: bool,
    },
    /// The postmaster is dead, its backends are not.
    Zombie {
        primary: bool,
    },
}

/// What of a running PostgreSQL doesn't answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hang {
    No,
    /// Existing sessions go on, new ones don't come in.
    Postmaster,
    /// The same, because the machine is saturated: nothing stands still.
    Starved,
    All,
}

/// `synchronous_standby_names`, as a set of node numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Names {
    pub(crate) count: u32,
    pub(crate) mask: u32,
    /// FIRST instead of ANY.
    pub(crate) first: bool,
    /// A name that nobody has stands in it too.
    pub(crate) placeholder: bool,
}

impl Names {
    /// Whether a commit waits for anybody.
    pub(crate) fn waits(&self) -> bool {
        self.count > 0 && (self.mask != 0 || self.placeholder)
    }
}

/// One walsender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) conn: u32,
    pub(crate) flushed: Lsn,
    pub(crate) replayed: Lsn,
    pub(crate) heard: Micros,
    /// Messages arrive in order: not before this.
    pub(crate) arrives: Micros,
}

/// The WAL receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) conn: u32,
    pub(crate) from: Ix,
    pub(crate) heard: Micros,
}

/// A commit that is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) end: Lsn,
    pub(crate) client: usize,
    pub(crate) write: u64,
}

/// One PostgreSQL.
#[derive(Debug)]
pub(crate) struct Pg {
    pub(crate) dir: Option<Dir>,
    /// The directory was removed under the running processes.
    pub(crate) removed: bool,
    pub(crate) run: Run,
    /// Counts the lives of the processes.
    pub(crate) life: u32,
    pub(crate) hang: Hang,
    /// SIGKILL is on its way to the whole tree.
    pub(crate) dying: bool,
    /// It has arrived everywhere, and the disk keeps some from ending.
    pub(crate) killed: bool,
    pub(crate) probed: Micros,
    pub(crate) upstream: Option<Ix>,
    /// The upstream is a replica, in this life of its directory.
    pub(crate) via: Option<Instance>,
    /// WAL comes from an archive: there is none, so none comes.
    pub(crate) archive: bool,
    pub(crate) receiver: Option<Receiver>,
    pub(crate) received_known: bool,
    pub(crate) replayed: Lsn,
    pub(crate) replay_at: Micros,
    pub(crate) replay_delay: Micros,
    pub(crate) names: Names,
    pub(crate) next_names: Option<Names>,
    /// The list in force, in words.
    pub(crate) list: SyncNames,
    pub(crate) senders: [Option<Sender>; MAX_NODES],
    pub(crate) waiting: VecDeque<Waiting>,
    /// Up to here a reader sees commits.
    pub(crate) visible: Lsn,
    /// Number of the ledger's reign.
    pub(crate) reign: usize,
    pub(crate) term: Option<Term>,
}

impl Pg {
    pub(crate) fn new() -> Self {
        Self {
            dir: None,
            removed: false,
            run: Run::Down,
            life: 0,
            hang: Hang::No,
            dying: false,
            killed: false,
            probed: 0,
            upstream: None,
            via: None,
            archive: false,
            receiver: None,
            received_known: false,
            replayed: Lsn::ZERO,
            replay_at: 0,
            replay_delay: 300,
            names: Names::default(),
            next_names: None,
            list: SyncNames::default(),
            senders: [None; MAX_NODES],
            waiting: VecDeque::new(),
            visible: Lsn::ZERO,
            reign: 0,
            term: None,
        }
    }

    /// What is on disk, when there is a usable directory.
    pub(crate) fn wal(&self) -> Option<Wal> {
        self.dir.as_ref().filter(|d| d.broken.is_none()).map(|d| d.wal)
    }

    /// Not in recovery, and able to take a commit from an open session.
    pub(crate) fn writable(&self) -> bool {
        let primary = matches!(self.run, Run::Primary | Run::Zombie { primary: true });
        primary && self.hang != Hang::All && !self.killed
    }

    /// Takes new connections.
    pub(crate) fn accepts(&self) -> bool {
        matches!(self.run, Run::Primary | Run::Replica) && self.hang == Hang::No && !self.killed
    }

    /// Brings replay up to the present.
    pub(crate) fn settle(&mut self, now: Micros) {
        if now >= self.replay_at {
            self.replayed = self.dir.as_ref().map_or(self.replayed, |d| d.wal.end);
        }
    }

    /// Whether enough standbys have everything up to `end`, by one value of the list.
    pub(crate) fn satisfied(&self, names: &Names, end: Lsn) -> bool {
        if !names.waits() {
            return true;
        }
        let listed = |node: &usize| names.mask & (1 << node) != 0;
        let mut connected =
            (0..MAX_NODES).filter(listed).filter_map(|node| self.senders[node].as_ref());
        if names.first {
            let chosen: Vec<_> = connected.take(names.count as usize).collect();
            return chosen.len() == names.count as usize && chosen.iter().all(|s| s.flushed >= end);
        }
        let mut missing = names.count;
        missing == 0
            || connected.any(|s| {
                missing -= u32::from(s.flushed >= end);
                missing == 0
            })
    }

    /// Whether a commit that ends at `end` may be acknowledged. While a change of the list is under
    /// way, processes may go by either value.
    pub(crate) fn releases(&self, end: Lsn) -> bool {
        self.satisfied(&self.names, end)
            || self.next_names.as_ref().is_some_and(|next| self.satisfied(next, end))
    }
}
