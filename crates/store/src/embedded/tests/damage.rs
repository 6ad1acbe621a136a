//! A journal that was torn or damaged: what a crash can leave is cut off, anything else is refused.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::embedded::journal::{Journal, Lock, OpenError};
use crate::embedded::record::{Batch, Change, Effects, Snapshot};
use crate::pb::KeyValue;

const HEADER: usize = 16;

fn batch(revision: i64) -> Batch {
    let kv = KeyValue {
        key: format!("key-{revision}").into(),
        value: "some value".into(),
        mod_revision: revision,
        ..KeyValue::default()
    };
    let effects = Effects { revision, changes: vec![Change::put(kv)], ..Effects::default() };
    Batch { effects: vec![effects], reserved: 0 }
}

/// A directory with three batches, and where its records begin, the end included.
fn journal() -> (TempDir, Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let lock = Lock::take(dir.path()).unwrap();
    assert!(lock.read().unwrap().is_none());
    let snapshot = Snapshot { cluster_id: 1, revision: 1, reserved: 100, ..Snapshot::default() };
    let mut journal = Journal::create(lock, snapshot).unwrap();
    let mut ends = vec![HEADER, usize::try_from(journal.length()).unwrap()];
    for revision in 2..5 {
        journal.append(batch(revision)).unwrap();
        ends.push(usize::try_from(journal.length()).unwrap());
    }
    drop(journal);
    let bytes = fs::read(dir.path().join("journal")).unwrap();
    assert_eq!(bytes.len(), *ends.last().unwrap());
    (dir, bytes, ends)
}

/// How many batches are read from these bytes.
fn read(dir: &Path, bytes: &[u8]) -> Result<usize, OpenError> {
    fs::write(dir.join("journal"), bytes).unwrap();
    let read = Lock::take(dir).unwrap().read();
    let after = fs::read(dir.join("journal")).unwrap();
    assert_eq!(after, bytes, "reading changed the file");
    Ok(read?.unwrap().1.len())
}

#[test]
fn what_was_written_is_read() {
    let (dir, bytes, _) = journal();
    assert_eq!(read(dir.path(), &bytes).unwrap(), 3);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off() {
    let (dir, bytes, ends) = journal();
    let last = ends[ends.len() - 2];
    for cut in last..bytes.len() {
        assert_eq!(read(dir.path(), &bytes[..cut]).unwrap(), 2, "cut at {cut}");
        // The file has its size but not all its blocks.
        for filler in [0_u8, 0xff] {
            let mut torn = bytes.clone();
            torn[cut..].fill(filler);
            if torn == bytes {
                continue;
            }
            assert_eq!(read(dir.path(), &torn).unwrap(), 2, "filled with {filler} from {cut}");
            let mut torn = bytes.clone();
            torn[last..=cut].fill(filler);
            assert_eq!(read(dir.path(), &torn).unwrap(), 2, "filled with {filler} up to {cut}");
        }
    }
}

#[test]
fn any_flipped_bit_before_the_last_record_is_refused_with_its_place() {
    let (dir, bytes, ends) = journal();
    let last = ends[ends.len() - 2];
    for at in HEADER..last {
        let record = *ends.iter().rev().find(|begin| **begin <= at).unwrap();
        for bit in [0x01, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= bit;
            match read(dir.path(), &damaged) {
                Err(OpenError::Damaged { offset, path, .. }) => {
                    assert_eq!(offset, record as u64, "bit {bit:#x} of byte {at}");
                    assert!(path.ends_with("journal"));
                }
                other => panic!("bit {bit:#x} of byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_record_loses_only_that() {
    let (dir, bytes, ends) = journal();
    for at in ends[ends.len() - 2]..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert_eq!(read(dir.path(), &damaged).unwrap(), 2, "byte {at}");
    }
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let (dir, bytes, ends) = journal();
    for short in 0..HEADER {
        let refused = read(dir.path(), &bytes[..short]);
        assert!(matches!(refused, Err(OpenError::NotAJournal { .. })), "{refused:?}");
    }
    // A file gets its name only when it is whole, so a lone header is no crash either.
    for short in HEADER..ends[1] {
        let refused = read(dir.path(), &bytes[..short]);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{short}: {refused:?}");
    }
    let mut other = bytes;
    other[..8].copy_from_slice(b"SQLite f");
    let refused = read(dir.path(), &other).unwrap_err().to_string();
    assert!(refused.contains("SQLite f"), "{refused}");
}

#[test]
fn another_version_is_refused() {
    let (dir, mut bytes, _) = journal();
    bytes[8] = 2;
    let refused = read(dir.path(), &bytes);
    assert!(matches!(refused, Err(OpenError::Damaged { offset: 0, .. })), "{refused:?}");
    let sum = crc32fast::hash(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&sum);
    let refused = read(dir.path(), &bytes);
    assert!(matches!(refused, Err(OpenError::Version { found: 2, .. })), "{refused:?}");
}

#[test]
fn a_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let lock = Lock::take(dir.path()).unwrap();
    assert!(matches!(Lock::take(dir.path()), Err(OpenError::InUse { .. })));
    drop(lock);
    Lock::take(dir.path()).unwrap();
}
