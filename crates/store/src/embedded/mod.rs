//! The store for one machine: etcd's API over one file, so that one client and `etcdctl` work with
//! both, and outgrowing it means changing an address. It survives the death of its process and of
//! the machine's power, not the loss of its disk. Leaves more than one member to etcd.
//!
//! ```text
//! serve    sockets, connections, shutdown       state    the rules, pure
//! service  gRPC dispatch; kv, lease, watch      history  the past since the last compaction
//! writer   the one owner of writes              journal  the file
//! ```
//!
//! At each start it skips to a fresh block of revisions, so that none is used twice even if the last
//! record was lost; every lease gets its full ttl; and the past is forgotten, so that watches that
//! were open before read anew.

mod check;
mod history;
mod journal;
mod lease;
mod listen;
mod record;
mod refusal;
mod serve;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::path::Path;
use std::sync::Arc;

pub use journal::{JournalError, OpenError};
pub use listen::{Listen, ListenError};
pub use record::{Change, Effects, LeaseRow};
pub use refusal::Refusal;
pub use serve::ServeError;
#[cfg(test)]
pub(crate) use service::VERSION;
pub use state::{Done, Lease, MAX_BYTES, MAX_TTL_SECS, MIN_TTL_SECS, State, Write};
pub use writer::Identity;

use journal::{Journal, Lock};
use record::{Batch, Snapshot};
use writer::{RESERVE, Shared, Writer, now, snapshot};

/// An open data directory, ready to serve. Dropping it waits for the sync that may be running and
/// frees the directory.
#[derive(Debug)]
pub struct Server {
    writer: Writer,
    shared: Arc<Shared>,
}

impl Server {
    /// Opens a data directory, or makes one.
    ///
    /// # Errors
    /// [`OpenError`] says which file, where in it, and what to do.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        let lock = Lock::take(dir.as_ref())?;
        let (state, identity) = match lock.read()? {
            None => (State::at_revision(1), new_identity(dir.as_ref())?),
            Some((snapshot, batches)) => replay(snapshot, batches),
        };
        let reserved = state.revision() + RESERVE;
        let journal = Journal::create(lock, snapshot(&state, identity, reserved))?;
        let shared = Arc::new(Shared::new(identity, state.clone(), journal.length()));
        let writer = Writer::start(journal, state, reserved, shared.clone()).map_err(|source| {
            OpenError::Io { path: dir.as_ref().to_owned(), doing: "start a thread for", source }
        })?;
        Ok(Self { writer, shared })
    }

    /// Who this store is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The revision of the last durable write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        crate::convert::from_wire(self.shared.visible().state.revision())
    }
}

fn new_identity(dir: &Path) -> Result<Identity, OpenError> {
    let random = || {
        // 0 means "not known" on the wire.
        getrandom::u64().map(|id| id.max(1)).map_err(|error| OpenError::Io {
            path: dir.to_owned(),
            doing: "draw an id for",
            source: std::io::Error::other(error),
        })
    };
    Ok(Identity { cluster_id: random()?, member_id: random()?, starts: 1 })
}

/// The state that the file holds, moved to a block of revisions that was never used.
fn replay(snapshot: Snapshot, batches: Vec<Batch>) -> (State, Identity) {
    let now = now();
    let identity = Identity {
        cluster_id: snapshot.cluster_id,
        member_id: snapshot.member_id,
        starts: snapshot.starts + 1,
    };
    let mut reserved = snapshot.reserved;
    let mut state = State::restore(now, snapshot.revision, snapshot.kvs, &snapshot.leases);
    for batch in batches {
        reserved = reserved.max(batch.reserved);
        for effects in &batch.effects {
            state.apply(now, effects);
        }
    }
    // One more than the next one, so that a watch which goes on after the last revision of the old
    // block is told that it must read anew.
    let fresh = state.revision().max(reserved) + 2;
    state.skip_to(fresh);
    (state, identity)
}
