//! A logical slot as files, of PostgreSQL 13 to 16: `pg_replslot/NAME/state`, and the snapshots in
//! `pg_logical/snapshots` that its decoding begins with. What a leader has is checked as PostgreSQL checks
//! it (it refuses to start with a bad one), and put below another data directory. Blocks. Leaves which
//! slots, and when, to `carry`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pgherd_core::Lsn;
use pgherd_core::postgres::PgFailureKind;

use crate::PgError;
use crate::control::{crc32c, read_control};
use crate::durable::write_durable;

/// `SLOT_MAGIC` (slot.c).
const MAGIC: u32 = 0x0105_1CA1;
/// What the checksum covers begins behind it: magic and checksum have four bytes each.
const CHECKED_FROM: usize = 8;
/// Where `slotdata` begins: behind magic, checksum, version and length.
const DATA: usize = 16;
/// Offsets in `ReplicationSlotPersistentData` (slot.h), alike in 13 to 16.
const NAME_BYTES: usize = 64;
const DATABASE: usize = DATA + 64;
const PERSISTENCY: usize = DATA + 68;
const RESTART: usize = DATA + 80;
const CONFIRMED: usize = DATA + 96;
/// What a slot's directory is called while it is made; PostgreSQL removes such ones when it starts.
const UNFINISHED: &str = ".tmp";

/// A slot's file, checked, and its snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlotFile {
    pub(crate) name: String,
    /// The oldest WAL that its decoding reads.
    pub(crate) restart: Lsn,
    /// What its consumer has confirmed.
    pub(crate) confirmed: Lsn,
    bytes: Vec<u8>,
    snapshots: Vec<Snapshot>,
}

/// What was visible at one place of the WAL. Where transactions ran at the place at which decoding begins,
/// it would take up only behind their ends without this, and leave out what was committed before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot {
    pub(crate) at: Lsn,
    pub(crate) bytes: Vec<u8>,
}

impl Snapshot {
    /// The place that a file's name says (snapbuild.c).
    pub(crate) fn place(name: &str) -> Option<Lsn> {
        let (high, low) = name.strip_suffix(".snap")?.split_once('-')?;
        let part = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
        Some(Lsn(part(high)? << 32 | part(low)?))
    }

    /// Its file below a data directory, with a name that [`Self::place`] reads.
    pub(crate) fn path(at: Lsn) -> String {
        format!("pg_logical/snapshots/{:X}-{:X}.snap", at.0 >> 32, at.0 & 0xFFFF_FFFF)
    }
}

impl SlotFile {
    /// `None`: it isn't what PostgreSQL would take for that logical slot.
    pub(crate) fn new(name: &str, bytes: Vec<u8>) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let length = usize::try_from(u32_at(12)?).ok()?;
        let named = bytes.get(DATA..DATA + NAME_BYTES)?.split(|byte| *byte == 0).next()?;
        let (restart, confirmed) = (Lsn(u64_at(RESTART)?), Lsn(u64_at(CONFIRMED)?));
        let sound = is_slot_name(name)
            && u32_at(0)? == MAGIC
            && bytes.len() == DATA + length
            && u32_at(4)? == crc32c(&bytes[CHECKED_FROM..])
            && named == name.as_bytes()
            && u32_at(DATABASE)? != 0
            // RS_PERSISTENT
            && u32_at(PERSISTENCY)? == 0
            && restart > Lsn::ZERO
            && restart <= confirmed;
        sound.then(|| Self {
            name: name.to_owned(),
            restart,
            confirmed,
            bytes,
            snapshots: Vec::new(),
        })
    }

    /// Which snapshots its decoding may begin with.
    pub(crate) fn begins_with(&self, at: Lsn) -> bool {
        self.restart <= at && at <= self.confirmed
    }

    pub(crate) fn with(self, snapshots: Vec<Snapshot>) -> Self {
        Self { snapshots, ..self }
    }

    /// Makes the slot's directory, whole or not at all. Only while no PostgreSQL runs there.
    pub(crate) fn put(&self, data_dir: &Path) -> Result<(), PgError> {
        for snapshot in &self.snapshots {
            let path = data_dir.join(Snapshot::path(snapshot.at));
            // PostgreSQL writes the same for the same place, and removes what no slot needs.
            if !path.exists() {
                write_durable(&path, &snapshot.bytes)?;
            }
        }
        let slots = data_dir.join("pg_replslot");
        let (new, done) = (slots.join(self.name.clone() + UNFINISHED), slots.join(&self.name));
        remove_dir(&new)?;
        DirBuilder::new().mode(0o700).create(&new).map_err(PgError::io("making", &new))?;
        let path = new.join("state");
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let write = |mut file: File| file.write_all(&self.bytes).and_then(|()| file.sync_all());
        file.and_then(write).map_err(PgError::io("writing", &path))?;
        sync_dir(&new)?;
        fs::rename(&new, &done).map_err(PgError::io("renaming to", &done))?;
        sync_dir(&slots)
    }
}

/// Takes back what was put. Only while no PostgreSQL runs there.
pub(crate) fn take_back(data_dir: &Path, name: &str) -> Result<(), PgError> {
    let slots = data_dir.join("pg_replslot");
    let (slot, gone) = (slots.join(name), slots.join(name.to_owned() + UNFINISHED));
    remove_dir(&gone)?;
    fs::rename(&slot, &gone).map_err(PgError::io("renaming to", &gone))?;
    sync_dir(&slots)?;
    remove_dir(&gone)
}

/// The slots that a start from this directory finds.
pub(crate) fn there(data_dir: &Path) -> Result<Vec<String>, PgError> {
    let dir = data_dir.join("pg_replslot");
    let entries = fs::read_dir(&dir).map_err(PgError::io("reading", &dir))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| !name.ends_with(UNFINISHED)).collect())
}

/// The directory has all WAL from there on, as far as it has any: PostgreSQL removes the oldest first.
pub(crate) fn has_wal_from(data_dir: &Path, from: Lsn) -> Result<bool, PgError> {
    let size = u64::from(read_control(data_dir)?.wal_segment_size);
    if size == 0 {
        let words = "pg_control: WAL segments of no size";
        return Err(PgError::failed(PgFailureKind::ToolFailed, words));
    }
    let dir = data_dir.join("pg_wal");
    let entries = fs::read_dir(&dir).map_err(PgError::io("reading", &dir))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let oldest = names.filter_map(|name| segment(&name, size)).min();
    Ok(oldest.is_some_and(|oldest| oldest <= from.0 / size))
}

/// The number of the segment that a file of pg_wal is; `None` for everything else there.
fn segment(name: &str, size: u64) -> Option<u64> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let high = u64::from_str_radix(&name[8..16], 16).ok()?;
    let low = u64::from_str_radix(&name[16..], 16).ok()?;
    Some(high * ((1 << 32) / size) + low)
}

/// Whether a slot may be called so (slot.c); anything else might be another path.
pub(crate) fn is_slot_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..NAME_BYTES).contains(&name.len()) && name.bytes().all(legal)
}

fn remove_dir(dir: &PathBuf) -> Result<(), PgError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PgError::io("removing", dir)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), PgError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(PgError::io("syncing", dir))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    /// As PostgreSQL 15 writes it: 200 bytes.
    fn file(name: &str) -> Vec<u8> {
        let mut bytes = vec![0; 200];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(0, &MAGIC.to_le_bytes());
        put(8, &3_u32.to_le_bytes());
        put(12, &184_u32.to_le_bytes());
        put(DATA, name.as_bytes());
        put(DATABASE, &5_u32.to_le_bytes());
        put(RESTART, &0x0100_0028_u64.to_le_bytes());
        put(CONFIRMED, &0x0100_0060_u64.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let sum = crc32c(&bytes[CHECKED_FROM..]).to_le_bytes();
        bytes[4..8].copy_from_slice(&sum);
    }

    #[test]
    fn only_what_postgresql_would_take() {
        let sound = SlotFile::new("feed", file("feed")).unwrap();
        assert_eq!((sound.restart, sound.confirmed), (Lsn(0x0100_0028), Lsn(0x0100_0060)));
        assert_eq!(SlotFile::new("other", file("feed")), None);
        assert_eq!(SlotFile::new("../feed", file("../feed")), None);
        assert_eq!(SlotFile::new("feed", file("feed")[..199].to_vec()), None);
        assert_eq!(SlotFile::new("feed", Vec::new()), None);
        let mut damaged = file("feed");
        damaged[RESTART] ^= 1;
        assert_eq!(SlotFile::new("feed", damaged), None);
        for (at, value) in [(DATABASE, 0), (PERSISTENCY, 1), (CONFIRMED, 0)] {
            let mut other = file("feed");
            other[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            seal(&mut other);
            assert_eq!(SlotFile::new("feed", other), None, "{at}");
        }
    }

    #[test]
    fn snapshots_have_places() {
        let path = Snapshot::path(Lsn(0x1_0300_0028));
        assert_eq!(path, "pg_logical/snapshots/1-3000028.snap");
        assert_eq!(Snapshot::place("1-3000028.snap"), Some(Lsn(0x1_0300_0028)));
        for other in ["1-3000028.snap.44.tmp", "x-1.snap", "1.snap"] {
            assert_eq!(Snapshot::place(other), None);
        }
    }

    #[test]
    fn segments_have_numbers() {
        let size = 16 << 20;
        assert_eq!(segment("000000010000000000000003", size), Some(3));
        assert_eq!(segment("000000020000000100000003", size), Some(259));
        for other in ["00000002.history", "000000010000000000000003.partial", "archive_status"] {
            assert_eq!(segment(other, size), None);
        }
    }

    #[test]
    fn it_is_put_whole_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pg_replslot/left.tmp")).unwrap();
        fs::create_dir_all(dir.path().join("pg_logical/snapshots")).unwrap();
        let snapshot = Snapshot { at: Lsn(0x0100_0028), bytes: b"seen".to_vec() };
        let slot = SlotFile::new("feed", file("feed")).unwrap().with(vec![snapshot]);
        slot.put(dir.path()).unwrap();
        assert_eq!(there(dir.path()).unwrap(), ["feed"]);
        assert_eq!(fs::read(dir.path().join("pg_replslot/feed/state")).unwrap(), file("feed"));
        let seen = fs::read(dir.path().join("pg_logical/snapshots/0-1000028.snap"));
        assert_eq!(seen.unwrap(), b"seen");
        assert!(slot.put(dir.path()).is_err(), "a slot that is there stays");
        take_back(dir.path(), "feed").unwrap();
        assert!(there(dir.path()).unwrap().is_empty());
    }
}
