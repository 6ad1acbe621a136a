//! One process per job: a lock file that holds the pid of whoever has it.
//! The kernel lets go of it when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How often a lock is looked at while waiting.
const LOOK: Duration = Duration::from_millis(10);

/// A lock that is held until the value is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Somebody else has it, or it can't be had at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("{} is locked by process {pid}", .path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who, as far as the file says.
        pid: String,
    },
    /// The file can't be opened or locked.
    #[error("{} can't be locked: {source}", .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed)?;
                return Err(LockError::Held { path: path.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// Who has it; `None` when nobody has. Makes no file and takes nothing.
    pub(crate) fn holder(path: &Path) -> Option<String> {
        let mut file = File::open(path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).ok()?;
                Some(pid.trim().to_owned())
            }
            Ok(()) | Err(_) => None,
        }
    }

    /// Waits until nobody has it, for a while.
    pub(crate) fn wait_free(path: &Path, patience: Duration) {
        let until = Instant::now() + patience;
        while Instant::now() < until && Self::holder(path).is_some() {
            std::thread::sleep(LOOK);
        }
    }

    /// Takes the lock, waiting a while for a predecessor that is about to end.
    pub(crate) fn wait(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let until = Instant::now() + patience;
        loop {
            match Self::take(path) {
                Err(LockError::Held { .. }) if Instant::now() < until => {
                    std::thread::sleep(LOOK);
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_learns_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        match Lock::take(&path).unwrap_err() {
            LockError::Held { pid, .. } => assert_eq!(pid, std::process::id().to_string()),
            LockError::Io { source, .. } => panic!("{source}"),
        }
        assert_eq!(Lock::holder(&path), Some(std::process::id().to_string()));
        drop(first);
        assert_eq!(Lock::holder(&path), None);
        Lock::take(&path).unwrap();
    }
}
