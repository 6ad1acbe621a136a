//! A machine's disk: what a stall, no room or a read-only mount does to what runs on it.
//! The probes of the agent are not simulated: what they would find is told at each look.

use pgherd_core::Input;
use pgherd_core::disk::{DiskFacts, Trouble, Volume};
use pgherd_core::postgres::{PgFailureKind, PgOp};

use crate::clock::Micros;
use crate::event::Ix;
use crate::world::{World, note};

/// How a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Disk {
    #[default]
    Well,
    /// No write comes back; whoever writes can't even be killed to the end.
    Stalled {
        since: Micros,
    },
    Full,
    ReadOnly,
}

impl Disk {
    /// Writes come back, one way or the other.
    pub(crate) fn hangs(self) -> bool {
        matches!(self, Self::Stalled { .. })
    }

    /// WAL can be written.
    pub(crate) fn takes_wal(self) -> bool {
        self == Self::Well
    }

    /// A small file can be written: what the agent promises needs no new room.
    pub(crate) fn takes_records(self) -> bool {
        matches!(self, Self::Well | Self::Full)
    }

    /// Why an operation that writes much can't be done.
    pub(crate) fn refuses(self, op: &PgOp) -> Option<PgFailureKind> {
        let writes = match op {
            PgOp::Init
            | PgOp::StartPrimary { .. }
            | PgOp::StartReplica { .. }
            | PgOp::Promote { .. }
            | PgOp::Rewind { .. }
            | PgOp::Clone { .. } => true,
            PgOp::Follow { .. }
            | PgOp::SetNames { .. }
            | PgOp::EnsureSlots { .. }
            | PgOp::Stop
            | PgOp::Kill => false,
        };
        match self {
            Self::Full if writes => Some(PgFailureKind::DiskFull),
            Self::ReadOnly if !matches!(op, PgOp::Stop | PgOp::Kill) => {
                Some(PgFailureKind::ToolFailed)
            }
            Self::Well | Self::Stalled { .. } | Self::Full | Self::ReadOnly => None,
        }
    }
}

impl World {
    pub(crate) fn disk_breaks(&mut self, node: Ix, disk: Disk) {
        if self.is_patroni(node) {
            return; // nobody promised that it notices
        }
        let some = &mut self.stats.sometimes;
        match disk {
            Disk::Well => {}
            Disk::Stalled { .. } => some.disk_stalled += 1,
            Disk::Full => some.disk_full += 1,
            Disk::ReadOnly => some.disk_read_only += 1,
        }
        note!(self, "n{} disk: {disk:?}", node + 1);
        self.nodes[node].disk = disk;
    }

    /// Tells the agent what its probes find; nothing for as long as all is well.
    pub(crate) fn tell_disk(&mut self, node: Ix) {
        let machine = &self.nodes[node];
        if machine.disk == Disk::Well && !machine.told_ill {
            return;
        }
        let mut data = Volume::default();
        match machine.disk {
            Disk::Well => data.good = Some(machine.clock.at(self.queue.now)),
            Disk::Stalled { since } => data.pending = Some(machine.clock.at(since)),
            Disk::Full => data.free = Some(0),
            Disk::ReadOnly => data.trouble = Some(Trouble::ReadOnly),
        }
        self.nodes[node].told_ill = self.nodes[node].disk != Disk::Well;
        self.tell_agent(node, 200, Input::Disk(DiskFacts { data, wal: None }));
    }
}
