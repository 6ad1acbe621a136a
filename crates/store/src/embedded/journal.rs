//! The embedded store's file: a header, a snapshot, then one record per batch of writes, each synced
//! before anybody hears of it. Leaves the records' meaning to `record` and `state`.
//!
//! ```text
//! file    magic[8] version:u32 crc32(magic, version):u32 record*         all numbers little endian
//! record  length:u32 crc32(length):u32 crc32(payload):u32 payload[length]
//! ```
//!
//! A batch is one record and one sync, so only the last record can be torn: whatever has something
//! valid after it was durable once, and damage there is refused, never skipped. The length has a
//! checksum of its own, or a flipped bit in it would make the rest of the file look like a torn tail.
//! A file is replaced as a whole (written aside, synced, renamed, directory synced): at each start,
//! and when it has grown. A failed write or sync is final for this process: nobody knows what the
//! disk has then.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use prost::Message as _;

use super::record::{Batch, Entry, FORMAT_VERSION, Record, Snapshot};

const MAGIC: &[u8; 8] = b"PGHERDKV";
const HEADER: usize = 16;
const FRAME: usize = 12;
const FILE: &str = "journal";
const ASIDE: &str = "journal.new";
const LOCK: &str = "lock";
/// A file that is larger than this, and than four times its snapshot, is replaced.
const ROTATE_AT: u64 = 16 << 20;

/// Why a data directory can't be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has it.
    #[error(
        "{} is in use by another pgherd store; stop that one, or give this one a directory of its own",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The file doesn't begin as a journal does.
    #[error(
        "{} is not a pgherd store: expected the header PGHERDKV, found {found}; restore it from a backup, \
         or move the directory aside to begin with an empty store",
        path.display()
    )]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// Another version's format.
    #[error(
        "{} has format {found}, this pgherd reads format {FORMAT_VERSION}; use the version that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Damage that a crash can't have made.
    #[error(
        "{} is damaged at byte {offset}: {what}; restore it from a backup, or move the directory aside \
         to begin with an empty store (agents will refuse it until their cluster is initialised anew)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The fresh file could not be written.
    #[error(transparent)]
    Write(#[from] JournalError),
}

/// The file could not be written: what the disk has now is unknown, so the store must stop.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not {doing} {}; the store stops, because what the disk has now is unknown: mend the disk or \
     free space, then start it again",
    path.display()
)]
pub struct JournalError {
    path: PathBuf,
    doing: &'static str,
    #[source]
    source: io::Error,
}

impl JournalError {
    /// The system's words.
    pub(crate) fn cause(&self) -> &io::Error {
        &self.source
    }
}

/// What a directory holds: nothing, or a snapshot and the batches after it.
pub(crate) type Recovered = Option<(Snapshot, Vec<Batch>)>;

/// The right to use a directory; another process, or another server in this one, gets none.
#[derive(Debug)]
pub(crate) struct Lock {
    dir: PathBuf,
    _file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, OpenError> {
        let io = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, doing, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io(dir, "create the directory"))?;
        let path = dir.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io(&path, "open"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io(&path, "lock")(source)),
        }
    }

    /// Reads the journal. Changes nothing.
    pub(crate) fn read(&self) -> Result<Recovered, OpenError> {
        let path = self.dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => Reader { path: &path, bytes: &bytes }.read().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::Io { path, doing: "read", source }),
        }
    }
}

/// The open file, at its end.
#[derive(Debug)]
pub(crate) struct Journal {
    lock: Lock,
    file: File,
    length: u64,
    rotate_at: u64,
    /// Tests make the disk slow with it.
    #[cfg(test)]
    pub(crate) before_sync: Option<std::sync::Arc<std::sync::Mutex<()>>>,
}

impl Journal {
    /// Replaces whatever the directory holds by a file with this snapshot.
    pub(crate) fn create(lock: Lock, snapshot: Snapshot) -> Result<Self, JournalError> {
        let (file, length) = replace(&lock.dir, snapshot)?;
        let rotate_at = ROTATE_AT.max(4 * length);
        Ok(Self {
            lock,
            file,
            length,
            rotate_at,
            #[cfg(test)]
            before_sync: None,
        })
    }

    /// Makes a batch durable.
    pub(crate) fn append(&mut self, batch: Batch) -> Result<(), JournalError> {
        let bytes = frame(&Record { entry: Some(Entry::Batch(batch)) });
        let failed = |doing| {
            let path = self.lock.dir.join(FILE);
            move |source| JournalError { path, doing, source }
        };
        self.file.write_all(&bytes).map_err(failed("write to"))?;
        #[cfg(test)]
        if let Some(gate) = &self.before_sync {
            drop(gate.lock());
        }
        self.file.sync_data().map_err(failed("sync"))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Tests make every write fail with it.
    #[cfg(test)]
    pub(crate) fn break_file(&mut self) {
        // /dev/full answers every write with "no space left on device".
        if let Ok(full) = OpenOptions::new().write(true).open("/dev/full") {
            self.file = full;
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn is_due_for_rotation(&self) -> bool {
        self.length > self.rotate_at
    }

    /// Goes on with a new file that begins with this snapshot.
    pub(crate) fn rotate(&mut self, snapshot: Snapshot) -> Result<(), JournalError> {
        (self.file, self.length) = replace(&self.lock.dir, snapshot)?;
        self.rotate_at = ROTATE_AT.max(4 * self.length);
        Ok(())
    }
}

fn replace(dir: &Path, snapshot: Snapshot) -> Result<(File, u64), JournalError> {
    let (aside, path) = (dir.join(ASIDE), dir.join(FILE));
    let failed = |path: &Path, doing| {
        let path = path.to_owned();
        move |source| JournalError { path, doing, source }
    };
    let mut bytes = header(FORMAT_VERSION);
    bytes.extend(frame(&Record { entry: Some(Entry::Snapshot(snapshot)) }));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(failed(&aside, "create"))?;
    file.write_all(&bytes).map_err(failed(&aside, "write"))?;
    file.sync_all().map_err(failed(&aside, "sync"))?;
    fs::rename(&aside, &path).map_err(failed(&path, "replace"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir, "sync"))?;
    Ok((file, bytes.len() as u64))
}

fn header(version: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn frame(record: &Record) -> Vec<u8> {
    let payload = record.encode_to_vec();
    // It fits: a request has at most 2 MiB, a batch at most 64 of them, and the state is bounded far
    // below 4 GiB.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(FRAME + payload.len());
    bytes.extend(length);
    bytes.extend(crc32fast::hash(&length).to_le_bytes());
    bytes.extend(crc32fast::hash(&payload).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// A record that was looked for.
enum Found<'a> {
    Payload(&'a [u8]),
    End,
    /// Not a whole valid record.
    Bad {
        what: &'static str,
        /// Where it ends, if its length can be believed.
        end: Option<usize>,
    },
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn read(&self) -> Result<(Snapshot, Vec<Batch>), OpenError> {
        self.header()?;
        let mut at = HEADER;
        let mut snapshot = None;
        let mut batches = Vec::new();
        loop {
            let payload = match self.record(at) {
                Found::Payload(payload) => payload,
                Found::End => break,
                Found::Bad { what, end } => {
                    // The snapshot was synced before the file had its name: it can't be torn.
                    if snapshot.is_none() || self.something_follows(at, end) {
                        return Err(self.damaged(at, what));
                    }
                    tracing::warn!(
                        file = %self.path.display(),
                        offset = at,
                        bytes = self.bytes.len() - at,
                        what,
                        "cut off the last record: it was never finished, so nobody was told of it"
                    );
                    break;
                }
            };
            let record = Record::decode(payload)
                .map_err(|error| self.damaged(at, &format!("not a record: {error}")))?;
            match record.entry {
                Some(Entry::Snapshot(first)) if snapshot.is_none() => snapshot = Some(first),
                Some(Entry::Batch(batch)) if snapshot.is_some() => batches.push(batch),
                Some(Entry::Snapshot(_)) => return Err(self.damaged(at, "a second snapshot")),
                Some(Entry::Batch(_)) => return Err(self.damaged(at, "no snapshot first")),
                None => return Err(self.damaged(at, "a record of an unknown kind")),
            }
            at += FRAME + payload.len();
        }
        let snapshot = snapshot.ok_or_else(|| self.damaged(HEADER, "no snapshot"))?;
        Ok((snapshot, batches))
    }

    fn header(&self) -> Result<(), OpenError> {
        let path = self.path.to_owned();
        let Some(head) = self.bytes.get(..HEADER) else {
            let found = format!("{} bytes", self.bytes.len());
            return Err(OpenError::NotAJournal { path, found });
        };
        if !head.starts_with(MAGIC) {
            let found = format!("'{}'", head[..MAGIC.len()].escape_ascii());
            return Err(OpenError::NotAJournal { path, found });
        }
        if number(head, 12) != Some(crc32fast::hash(&head[..12])) {
            return Err(self.damaged(0, "the header's checksum is wrong"));
        }
        match number(head, 8) {
            Some(FORMAT_VERSION) => Ok(()),
            found => Err(OpenError::Version { path, found: found.unwrap_or(0) }),
        }
    }

    fn record(&self, at: usize) -> Found<'_> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Found::End;
        }
        let Some((length, sum)) = frame_at(rest) else {
            return Found::Bad { what: "no valid length", end: None };
        };
        let end = Some(at + FRAME + length);
        match rest.get(FRAME..FRAME + length) {
            None => Found::Bad { what: "the record is longer than the file", end },
            Some(payload) if crc32fast::hash(payload) == sum => Found::Payload(payload),
            Some(_) => Found::Bad { what: "the record's checksum is wrong", end },
        }
    }

    /// Whether the bad record at `at` is followed by anything: then it was durable once.
    fn something_follows(&self, at: usize, end: Option<usize>) -> bool {
        match end {
            Some(end) => end < self.bytes.len(),
            // Its length is lost, so look for any valid record beyond.
            None => (at + 1..self.bytes.len())
                .any(|next| matches!(self.record(next), Found::Payload(_))),
        }
    }

    fn damaged(&self, offset: usize, what: &str) -> OpenError {
        let path = self.path.to_owned();
        OpenError::Damaged { path, offset: offset as u64, what: what.to_owned() }
    }
}

/// A record's length and its payload's checksum, when the length's own checksum is right.
fn frame_at(bytes: &[u8]) -> Option<(usize, u32)> {
    let length = bytes.get(..4)?;
    if number(bytes, 4)? != crc32fast::hash(length) {
        return None;
    }
    let sum = number(bytes, 8)?;
    Some((usize::try_from(number(bytes, 0)?).ok()?, sum))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(four))
}
