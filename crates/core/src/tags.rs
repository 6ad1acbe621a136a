//! A member's tags, as far as decisions read them (contract 3.9). Leaves the words, and the tags that
//! only clients and people read, to `config` and the shell.

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// What a member is fit for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tags {
    /// Among equals the higher leads; 0: never (`nofailover`).
    pub failover_priority: u32,
    /// The higher is listed first; 0: no commit waits for it (`nosync`).
    pub sync_priority: u32,
    /// Others are copied from it rather than from the leader.
    pub clonefrom: bool,
    /// Whose WAL it streams while that member streams itself; otherwise the leader's.
    pub replicatefrom: Option<NodeName>,
    /// It streams from nobody: its WAL comes from the archive.
    pub nostream: bool,
}

impl Default for Tags {
    fn default() -> Self {
        Self {
            failover_priority: 1,
            sync_priority: 1,
            clonefrom: false,
            replicatefrom: None,
            nostream: false,
        }
    }
}

impl Tags {
    /// It may never lead: it was told so, or what it has of WAL is whatever the archive has.
    #[must_use]
    pub fn nofailover(&self) -> bool {
        self.failover_priority == 0 || self.nostream
    }

    /// No commit may wait for it: it streams WAL from nobody, or was told so.
    #[must_use]
    pub fn nosync(&self) -> bool {
        self.sync_priority == 0 || self.nostream
    }
}
