//! One agent per node: a lock on its directory that ends with the process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct NodeLock {
    _file: File,
}

/// Why this agent may not run here.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent runs on this directory.
    #[error("another agent runs on {}; stop it first", .0.display())]
    Taken(PathBuf),
    /// The directory can't be used.
    #[error("{} can't be locked", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Takes the node, or says who can't.
pub(crate) fn take(run_dir: &Path) -> Result<NodeLock, LockError> {
    let path = run_dir.join("agent.lock");
    let io = |source| LockError::Io { path: path.clone(), source };
    // Close-on-exec (the standard library's default) matters: a child must not inherit the lock.
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(NodeLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Taken(run_dir.to_owned())),
        Err(errno) => Err(io(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    #[test]
    fn a_node_has_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        assert!(matches!(take(dir.path()), Err(LockError::Taken(_))));
        drop(first);
        take(dir.path()).unwrap();
    }
}
