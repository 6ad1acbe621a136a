//! Small files that must survive a crash: whole or not at all, and on disk before anybody relies on
//! them. Leaves what they mean to their owners. Blocks: call it from a thread that may.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::PgError;

/// Replaces a file (mode 0600): temporary file, fsync, rename, fsync of the directory.
///
/// # Errors
/// [`PgError::Io`]; the old content is still there then.
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), PgError> {
    let new = beside(path, ".tmp");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new).map_err(PgError::io("creating", &new))?;
    file.write_all(bytes).map_err(PgError::io("writing", &new))?;
    file.sync_all().map_err(PgError::io("syncing", &new))?;
    rename_durable(&new, path)
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// [`PgError::Io`] for everything but absence.
pub fn read_durable(path: &Path) -> Result<Option<Vec<u8>>, PgError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PgError::io("reading", path)(error)),
    }
}

/// Removes a file, durably. It may be absent already.
///
/// # Errors
/// [`PgError::Io`].
pub fn remove_durable(path: &Path) -> Result<(), PgError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PgError::io("removing", path)(error)),
    }
}

/// Renames a file or directory, durably.
pub(crate) fn rename_durable(from: &Path, to: &Path) -> Result<(), PgError> {
    fs::rename(from, to).map_err(PgError::io("renaming to", to))?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> Result<(), PgError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(PgError::io("syncing", parent))
}

/// `path` with something added to its last part: `/x/data` and `.lock` make `/x/data.lock`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
