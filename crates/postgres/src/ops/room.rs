//! Where a new copy of the data goes, and what becomes of the old: it is moved aside while there is
//! room for both, and removed only when there isn't (law 7). Blocks: call it from a thread that may.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgherd_core::postgres::PgFailureKind;

use crate::durable::{beside, remove_durable, rename_durable, write_durable};
use crate::settings::Settings;
use crate::{PgError, files};

/// What a copy needs beside the databases: WAL that is streamed meanwhile, two segments at least.
const SPARE: u64 = 32 << 20;

/// Makes sure that `needed` bytes fit beside what is there. When they don't, what earlier copies
/// moved aside goes first, then the data directory itself: the new copy was asked for, and only one
/// of the two can be there. Nothing goes when even that would not help.
pub(super) fn make(settings: &Settings, needed: Option<u64>) -> Result<(), PgError> {
    let data = &settings.data_dir;
    let Some(needed) = needed.map(|needed| needed + needed / 10 + SPARE) else { return Ok(()) };
    let free = free_beside(data)?;
    if free >= needed {
        return Ok(());
    }
    let old = older_ones(data);
    let aside: u64 = old.iter().map(|old| size(old)).sum();
    let now = size(data);
    if free + aside + now < needed {
        let (free, needed) = ((free + aside + now) >> 20, needed >> 20);
        let words = format!(
            "a copy needs {needed} MB and {} has {free} MB, the data that it would replace included",
            data.display()
        );
        return Err(PgError::failed(PgFailureKind::DiskFull, words));
    }
    for old in old {
        tracing::warn!("removing {}: the new copy needs its room", old.display());
        remove_tree(&old)?;
    }
    if free + aside < needed && !files::is_empty(data)? {
        tracing::warn!("removing {}: there is no room for two copies", data.display());
        remove_contents(data)?;
    }
    Ok(())
}

/// Old directory aside, copy in its place; a crash in between leaves no data directory, and the next
/// copy begins anew.
pub(super) fn put_in_place(settings: &Settings, copy: &Path) -> Result<(), PgError> {
    let data = &settings.data_dir;
    // Whatever starts it by mistake must not make a primary of it.
    files::write_signal(copy, true)?;
    let aside = move_aside(data)?;
    files::renew_instance(settings)?;
    rename_durable(copy, data)?;
    remove_durable(&settings.building_mark())?;
    finish(settings, aside.as_deref())
}

/// Before a command fills the data directory itself.
pub(super) fn begin_in_place(
    settings: &Settings,
    keep_data: bool,
    needed: Option<u64>,
) -> Result<(), PgError> {
    if !keep_data {
        // What an interrupted command left is nobody's data.
        if settings.building_mark().exists() {
            remove_contents(&settings.data_dir)?;
        }
        make(settings, needed)?;
        move_aside(&settings.data_dir)?;
    }
    files::renew_instance(settings)?;
    let mark = settings.building_mark();
    write_durable(&mark, b"a replica method is at work, or was interrupted\n")?;
    files::make_private(&settings.data_dir)
}

/// After it. What a failed command left is removed, unless the next one may go on with it.
pub(super) fn end_in_place(
    settings: &Settings,
    whole: bool,
    keep_data: bool,
) -> Result<(), PgError> {
    if whole {
        files::write_signal(&settings.data_dir, true)?;
        remove_durable(&settings.data_dir.join("postmaster.pid"))?;
        remove_durable(&settings.building_mark())?;
        let newest = older_ones(&settings.data_dir).into_iter().max();
        return finish(settings, newest.as_deref());
    }
    if keep_data {
        // The mark stays: it isn't whole.
        return Ok(());
    }
    remove_contents(&settings.data_dir)?;
    remove_durable(&settings.building_mark())
}

fn finish(settings: &Settings, keep: Option<&Path>) -> Result<(), PgError> {
    remove_durable(&settings.rewinding_mark())?;
    // The copy has none of the source's slots.
    remove_durable(&settings.slots_file())?;
    for old in older_ones(&settings.data_dir) {
        if keep != Some(&old) {
            tracing::info!("removing {}: one earlier directory is kept", old.display());
            remove_tree(&old)?;
        }
    }
    Ok(())
}

fn move_aside(data: &Path) -> Result<Option<PathBuf>, PgError> {
    if files::is_empty(data)? {
        return Ok(None);
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let place = beside(data, &format!(".old-{seconds}"));
    rename_durable(data, &place)?;
    Ok(Some(place))
}

/// The directories that earlier copies moved aside.
fn older_ones(data_dir: &Path) -> Vec<PathBuf> {
    let prefix = beside(data_dir, ".old-");
    let Some(entries) = data_dir.parent().and_then(|parent| fs::read_dir(parent).ok()) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    let old = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.strip_prefix(&*prefix.to_string_lossy()).is_some_and(digits)
    };
    paths.filter(old).collect()
}

pub(super) fn free_beside(data: &Path) -> Result<u64, PgError> {
    let parent = data.parent().unwrap_or(Path::new("/"));
    let system = rustix::fs::statvfs(parent);
    let system = system.map_err(|error| PgError::io("asking the room on", parent)(error.into()))?;
    Ok(system.f_bavail * system.f_frsize)
}

/// What a tree occupies. What vanishes or can't be read meanwhile counts nothing.
fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = metadata.is_dir().then(|| fs::read_dir(path).ok()).flatten();
    let below: u64 = below.into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum();
    metadata.blocks() * 512 + below
}

/// Empties a directory and leaves it, which may be a mount point.
fn remove_contents(dir: &Path) -> Result<(), PgError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PgError::io("listing", dir)(error)),
    };
    for entry in entries.flatten().filter(|entry| entry.file_name() != "lost+found") {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(PgError::io("removing", &path))?;
    }
    Ok(())
}

pub(super) fn remove_tree(path: &Path) -> Result<(), PgError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PgError::io("removing", path)(error))
        }
        _ => Ok(()),
    }
}
