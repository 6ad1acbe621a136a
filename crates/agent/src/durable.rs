//! What a node must remember across its own death: one small file, replaced whole.
//! A promise is answered only after it is here, so every step waits for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgherd_core::Durable;

const NAME: &str = "node.json";
/// Room comes in such pieces; the record is padded, so that a longer one finds its room too.
const BLOCK: usize = 4096;

/// Why the file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The disk says no.
    #[error("{what} {} failed", .path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else wrote it.
    #[error(
        "{} can't be understood; if it is lost, remove it and wait for the cluster's ttl before starting",
        .path.display()
    )]
    Format {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What was written last; the default when nothing was.
pub(crate) fn load(run_dir: &Path) -> Result<Durable, DurableError> {
    let path = run_dir.join(NAME);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Durable::default()),
        Err(source) => return Err(DurableError::Io { what: "reading", path, source }),
    };
    serde_json::from_slice(&text).map_err(|source| DurableError::Format { path, source })
}

/// Replaces the file; when this returns, a power cut can't take it back.
pub(crate) fn save(run_dir: &Path, record: &Durable) -> Result<(), DurableError> {
    let path = run_dir.join(NAME);
    let text = serde_json::to_vec(record)
        .map_err(|source| DurableError::Format { path: path.clone(), source })?;
    replace(run_dir, &path, &text).map_err(|source| DurableError::Io {
        what: "writing",
        path,
        source,
    })
}

/// The new text goes over the one before the last, whose room it has already: also on a full disk a
/// node can promise. The two files then change their names, at once.
fn replace(run_dir: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(false).mode(0o600).open(&new)?;
    let blocks = text.len().div_ceil(BLOCK) * BLOCK;
    let mut padded = text.to_vec();
    padded.resize(blocks, b' ');
    file.write_all(&padded)?;
    file.set_len(blocks as u64)?;
    file.sync_all()?;
    let exchanged = rustix::fs::renameat_with(
        rustix::fs::CWD,
        &new,
        rustix::fs::CWD,
        path,
        rustix::fs::RenameFlags::EXCHANGE,
    );
    // The first time there is nothing to exchange; some file systems can't.
    if exchanged.is_err() {
        fs::rename(&new, path)?;
    }
    File::open(run_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_core::{NodeName, Promise, Revision, Term};

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Durable::default());
        let candidate = NodeName::new("pg-1").unwrap();
        let promise = Promise { ballot: Revision(7), candidate, against: Some(Term(3)) };
        let record =
            Durable { promise: Some(promise), wal_term: Some(Term(3)), ..Durable::default() };
        save(dir.path(), &Durable::default()).unwrap();
        save(dir.path(), &record).unwrap();
        assert_eq!(load(dir.path()).unwrap(), record);
        save(dir.path(), &Durable::default()).unwrap();
        save(dir.path(), &record).unwrap();
        assert_eq!(load(dir.path()).unwrap(), record);
        // The last two, which change places.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let sizes = [NAME, "node.new"].map(|name| fs::metadata(dir.path().join(name)).unwrap());
        assert!(sizes.iter().all(|seen| seen.len() == BLOCK as u64), "it needs no new room");
        fs::write(dir.path().join(NAME), "{").unwrap();
        assert!(matches!(load(dir.path()), Err(DurableError::Format { .. })));
    }
}
