//! Tries the disks: writes and fsyncs a small file where PostgreSQL has to, again and again, on threads
//! that may hang without harm. Nobody waits for them: what is known is read from memory, and a write
//! that has not come back says since when. Leaves what follows to the core.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use pgherd_core::disk::{DiskFacts, Trouble, Volume};
use pgherd_core::{Duration, Time};
use pgherd_guard::boottime_micros;
use rustix::io::Errno;

use crate::durable::beside;

/// As much as a page of WAL; overwritten in place, like WAL: no journal has to be waited for.
const BYTES: [u8; 8192] = [0; 8192];
/// Its name where it can't lie beside the data: base backups leave such names out.
const INSIDE: &str = "pgsql_tmp.pgherd-probe";

/// The writes that try a node's disks: one for the data directory, one for `pg_wal` where that is on
/// another file system. Tablespaces aren't tried: no commit needs them.
#[derive(Debug)]
pub struct DiskProbe {
    data: Prober,
    wal: Prober,
}

/// One file system, its thread, and what is known of it.
#[derive(Debug)]
struct Prober {
    ask: SyncSender<()>,
    known: Arc<Mutex<Known>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    volume: Volume,
    /// There is such a file system.
    exists: bool,
    /// When the last write was asked for.
    asked: Time,
}

impl DiskProbe {
    /// Starts the threads; nothing is written before [`Self::try_again`] says so.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(data_dir: &Path) -> io::Result<Self> {
        let (data, wal) = (data_dir.to_owned(), data_dir.to_owned());
        Ok(Self {
            data: Prober::start("probe-data", move || Some(beside_data(&data)))?,
            wal: Prober::start("probe-wal", move || beside_wal(&wal))?,
        })
    }

    /// Has each file system written to that is idle and was not tried within `interval`. Never waits.
    pub fn try_again(&self, interval: Duration) {
        self.data.try_again(interval);
        self.wal.try_again(interval);
    }

    /// What is known now. Never waits.
    #[must_use]
    pub fn look(&self) -> DiskFacts {
        let wal = self.wal.known();
        DiskFacts { data: self.data.known().volume, wal: wal.exists.then_some(wal.volume) }
    }
}

impl Prober {
    /// `place` says where to write, `None`: nowhere. It runs on the thread, for it may hang too.
    fn start(name: &str, place: impl Fn() -> Option<PathBuf> + Send + 'static) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let known = Arc::new(Mutex::new(Known::default()));
        let shared = Arc::clone(&known);
        // Never joined: a thread that hangs in a dead disk ends with the process.
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&asked, &shared, &place))?;
        Ok(Self { ask, known })
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_again(&self, interval: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time(boottime_micros());
        if known.volume.pending.is_some() || now.since(known.asked) < interval {
            return;
        }
        known.asked = now;
        known.volume.pending = Some(now);
        // It is idle, so there is room; without the thread nothing will ever be known.
        let _ = self.ask.try_send(());
    }
}

/// Writes each time that it is asked, until nobody can ask any more.
fn run(asked: &Receiver<()>, shared: &Mutex<Known>, place: &dyn Fn() -> Option<PathBuf>) {
    while asked.recv().is_ok() {
        let place = place();
        let tried = place.as_deref().map(|file| (write(file), free(file)));
        let now = Time(boottime_micros());
        let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = &mut known.volume;
        let begun = volume.pending.take();
        known.exists = place.is_some();
        let volume = &mut known.volume;
        match tried {
            Some((Ok(()), free)) => {
                volume.good = begun;
                volume.took = begun.map(|begun| now.since(begun));
                volume.trouble = None;
                volume.free = free;
            }
            Some((Err(error), free)) => {
                volume.trouble = trouble(&error);
                volume.free = free;
                if volume.trouble.is_none() {
                    tracing::debug!(%error, place = ?place, "the disk can't be tried");
                }
            }
            None => *volume = Volume::default(),
        }
    }
}

fn write(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(file)?;
    file.write_all_at(&BYTES, 0)?;
    file.sync_data()
}

/// What PostgreSQL's user may still take.
fn free(file: &Path) -> Option<u64> {
    let seen = rustix::fs::statvfs(file.parent()?).ok()?;
    Some(seen.f_bavail.saturating_mul(seen.f_frsize))
}

/// What an error says of the disk; `None` when it is about something else: no permission, no such
/// directory.
fn trouble(error: &io::Error) -> Option<Trouble> {
    let errno = Errno::from_io_error(error)?;
    match errno {
        Errno::NOSPC | Errno::DQUOT => Some(Trouble::Full),
        Errno::ROFS => Some(Trouble::ReadOnly),
        Errno::IO
        | Errno::NXIO
        | Errno::NODEV
        | Errno::REMOTEIO
        | Errno::BADMSG
        | Errno::UCLEAN
        | Errno::STALE => Some(Trouble::Failing),
        _ => None,
    }
}

/// Beside the data directory, where nothing of PostgreSQL's sees it; inside only where it is a mount
/// point of its own.
fn beside_data(data_dir: &Path) -> PathBuf {
    let parent = data_dir.parent().and_then(device);
    match device(data_dir) {
        own @ Some(_) if own != parent => data_dir.join(INSIDE),
        Some(_) | None => beside(data_dir, ".probe"),
    }
}

/// In `pg_wal`, where that leads to another file system.
fn beside_wal(data_dir: &Path) -> Option<PathBuf> {
    let wal = std::fs::canonicalize(data_dir.join("pg_wal")).ok()?;
    (device(&wal)? != device(data_dir)?).then(|| wal.join(INSIDE))
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|seen| seen.dev())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use std::time::Instant;

    use super::*;

    /// Until the probe has something to say, within a bound.
    fn until(prober: &Prober, what: impl Fn(&Known) -> bool) -> Known {
        let begin = Instant::now();
        loop {
            let known = prober.known();
            if what(&known) {
                return known;
            }
            assert!(begin.elapsed().as_secs() < 10, "{known:?}");
            thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    #[test]
    fn a_disk_that_works_says_how_long_it_took_and_has_room() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        let probe = DiskProbe::start(&data).unwrap();
        assert_eq!(probe.look(), DiskFacts::default(), "nothing is written unasked");
        probe.try_again(Duration::ZERO);
        let known = until(&probe.data, |known| known.volume.good.is_some());
        assert!(known.volume.free.unwrap() > 0 && known.volume.took.is_some());
        assert_eq!(known.volume.trouble, None);
        until(&probe.wal, |known| known.volume.pending.is_none());
        assert_eq!(probe.look().wal, None, "pg_wal is on the same file system");
        let asked = probe.data.known().asked;
        probe.try_again(Duration::secs(60));
        assert_eq!(probe.data.known().asked, asked, "not before the interval is over");
        assert_eq!(
            std::fs::read_dir(&data).unwrap().count(),
            1,
            "the data directory is left alone"
        );
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let prober = Prober::start("probe", || Some("/dev/full".into())).unwrap();
        prober.try_again(Duration::ZERO);
        let known = until(&prober, |known| known.volume.trouble.is_some());
        assert_eq!(known.volume.trouble, Some(Trouble::Full));
        assert_eq!(known.volume.good, None);
    }

    #[test]
    fn what_says_nothing_of_the_disk_is_no_trouble() {
        let prober = Prober::start("probe", || Some("/nowhere/at/all".into())).unwrap();
        prober.try_again(Duration::ZERO);
        let known = until(&prober, |known| known.volume.pending.is_none());
        assert_eq!(known.volume, Volume::default());
    }

    #[test]
    fn a_write_that_hangs_says_since_when_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let place = pipe.clone();
        // Opening a pipe for writing hangs until somebody reads it.
        let prober = Prober::start("probe", move || Some(place.clone())).unwrap();
        prober.try_again(Duration::ZERO);
        let since = prober.known().volume.pending.unwrap();
        for _ in 0..3 {
            prober.try_again(Duration::ZERO);
            assert_eq!(prober.known().volume.pending, Some(since), "one at a time");
        }
        let reader = std::fs::File::open(&pipe).unwrap();
        until(&prober, |known| known.volume.pending.is_none());
        drop(reader);
    }
}
