//! The cluster-wide settings of the `config` key that decisions read (contract 3.4).
//! Leaves per-node settings to `NodeConfig`, and everything only PostgreSQL cares about to the shell.

use serde::{Deserialize, Serialize};

use crate::Duration;

/// Cluster-wide settings, with the defaults of a cluster made by pgherd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// How long silence must last before a term can be deposed; also the lease's time to live.
    pub ttl: Duration,
    /// Who is on an older timeline than the last leader doesn't lead.
    pub check_timeline: bool,
    /// Asynchronous mode: a candidate further behind than this many bytes stays out.
    pub maximum_lag_on_failover: u64,
    /// No commit waits for a replica that is further behind the furthest than this many bytes.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// Who must have a commit before it is acknowledged.
    pub synchronous_mode: SynchronousMode,
    /// Never acknowledge without a standby.
    pub synchronous_mode_strict: bool,
    /// How many standbys must have a commit.
    pub synchronous_node_count: u32,
    /// How long a crashed primary may take to start again in place while others could lead; 0: it
    /// isn't tried then.
    pub primary_start_timeout: Duration,
    /// Synchronous mode: how long an orderly stop of the primary may take before it is killed.
    pub primary_stop_timeout: Option<Duration>,
    /// Without the store, the leader goes on while the members confirm it.
    pub failsafe_mode: bool,
    /// Who can't write to its disk for this long is not fit to lead; zero: disks are not looked at.
    pub disk_timeout: Duration,
    /// Less room than so many bytes, and a disk counts as full.
    pub disk_min_free: u64,
    /// Maintenance: nothing is promoted, demoted, started or stopped.
    pub pause: bool,
    /// The cluster follows another one, and has no primary (`standby_cluster`, contract 4.14).
    #[serde(default)]
    pub standby: bool,
}

/// What may be done by itself to data that diverged from the leader's (contract 4.10). A node's own
/// settings come before the cluster's, so it is no part of [`Policy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repair {
    /// `use_pg_rewind`: what both have is kept, the rest comes from the leader.
    pub rewind: bool,
    /// `remove_data_directory_on_rewind_failure`: when that fails, a new copy.
    pub copy_after_failure: bool,
    /// `remove_data_directory_on_diverged_timelines`: where pg_rewind may not or can't, a new copy.
    pub copy_diverged: bool,
}

impl Default for Repair {
    fn default() -> Self {
        Self { rewind: true, copy_after_failure: true, copy_diverged: true }
    }
}

impl Repair {
    /// What diverged may be replaced, once pg_rewind has had its chance.
    pub(crate) fn copies(self) -> bool {
        self.copy_diverged || (self.rewind && self.copy_after_failure)
    }
}

/// `synchronous_mode` (contract 3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousMode {
    /// `off`: asynchronous.
    Off,
    /// `on`: the first so many nodes.
    Priority,
    /// `quorum`: any so many nodes.
    Quorum,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::secs(5),
            maximum_lag_on_failover: 1 << 20,
            maximum_lag_on_syncnode: None,
            check_timeline: false,
            synchronous_mode: SynchronousMode::Quorum,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            primary_start_timeout: Duration::secs(300),
            primary_stop_timeout: None,
            failsafe_mode: true,
            disk_timeout: Self::DISK_TIMEOUT,
            disk_min_free: Self::DISK_MIN_FREE,
            pause: false,
            standby: false,
        }
    }
}

impl Policy {
    /// An fsync on a busy disk takes tenths of a second, on a very busy one a few seconds.
    pub const DISK_TIMEOUT: Duration = Duration::secs(10);
    /// PostgreSQL dies when it can't make its next WAL segment of 16 MB: there is room for two.
    pub const DISK_MIN_FREE: u64 = 32 << 20;

    /// Whether commits wait for standbys: there are none in a cluster that follows another one.
    #[must_use]
    pub fn synchronous(&self) -> bool {
        self.synchronous_mode != SynchronousMode::Off && !self.standby
    }

    /// Time between two beats, and between two renewals of the lease.
    #[must_use]
    pub fn beat_interval(&self) -> Duration {
        Duration(self.ttl.0 / 5)
    }

    /// What the leader subtracts from the ttl: 1 % for the rates of clocks, 100 ms for the fence
    /// (a whole process tree was measured to die in 10 to 40 ms).
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.ttl.percent(1) + Duration::millis(100)
    }
}
