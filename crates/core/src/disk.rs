//! What a node knows about the file systems that its PostgreSQL needs to commit, and what it may be
//! ill of. Leaves trying them to the shell, and what follows to `plan/ailing.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Duration, Time};

/// One look at what became of the writes that try the disks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskFacts {
    /// The file system of the data directory.
    pub data: Volume,
    /// That of `pg_wal`, where it is another one.
    pub wal: Option<Volume>,
}

/// One file system. Absence is data: a write that has not come back says since when, never "no".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Volume {
    /// A write with fsync is under way since then.
    pub pending: Option<Time>,
    /// When the last one that succeeded was begun.
    pub good: Option<Time>,
    /// How long it took.
    pub took: Option<Duration>,
    /// How the last one that ended has failed.
    pub trouble: Option<Trouble>,
    /// Bytes that PostgreSQL may still take.
    pub free: Option<u64>,
}

/// Why a write failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// No space, or no quota (ENOSPC, EDQUOT).
    Full,
    /// Mounted read-only (EROFS).
    ReadOnly,
    /// The device fails (EIO and its like).
    Failing,
}

/// What a living node is ill of, the worst first: it says so to its peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ailment {
    /// Writes fail.
    DiskFailing,
    /// The file system is read-only.
    DiskReadOnly,
    /// A write has not come back for `disk_timeout`.
    DiskStalled,
    /// Less room than `disk_min_free`.
    DiskFull,
    /// WAL arrives and is not replayed.
    ReplayStalled,
    /// A write takes long, but not for `disk_timeout`.
    DiskSlow,
    /// Less room than twice `disk_min_free`.
    DiskNearlyFull,
}

impl Ailment {
    /// PostgreSQL can't be a primary with this.
    #[must_use]
    pub fn is_mortal(self) -> bool {
        match self {
            Self::DiskFailing | Self::DiskReadOnly | Self::DiskStalled => true,
            Self::DiskFull | Self::ReplayStalled | Self::DiskSlow | Self::DiskNearlyFull => false,
        }
    }

    /// Who has this leads only when nobody else can. The others only keep a node from taking the
    /// place of a leader that is ill itself.
    #[must_use]
    pub fn unfits(self) -> bool {
        match self {
            Self::DiskFailing
            | Self::DiskReadOnly
            | Self::DiskStalled
            | Self::DiskFull
            | Self::ReplayStalled => true,
            Self::DiskSlow | Self::DiskNearlyFull => false,
        }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFailing => "writes to its disk fail",
            Self::DiskReadOnly => "its file system is read-only",
            Self::DiskStalled => "its disk takes no write",
            Self::DiskFull => "its disk is full",
            Self::ReplayStalled => "its replay stands still while WAL arrives",
            Self::DiskSlow => "its disk is slow",
            Self::DiskNearlyFull => "its disk is nearly full",
        })
    }
}
