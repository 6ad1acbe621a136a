//! pg_control, read directly: PostgreSQL 13 to 16 (version 1300), 17 (1700) and 18 (1800).
//! Leaves what the states mean to the core.
//!
//! Offsets are those of `ControlFileData` (src/include/catalog/pg_control.h) on 64-bit little-endian
//! machines; the file says itself whether that is what it holds (alignment, float format, CRC).

use std::path::{Path, PathBuf};

use pgherd_core::postgres::{ControlFacts, ControlState};
use pgherd_core::{Instance, Lsn, SystemId, Timeline};

/// Why pg_control can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It can't be read.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A version that this program doesn't know.
    #[error("{}: version {found}, expected 1300, 1700 or 1800 (PostgreSQL 13 to 18)", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// Its checksum or a constant in it is wrong.
    #[error("{}: damaged ({what}); restore the directory or clone it again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        what: &'static str,
    },
}

/// What of pg_control is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The database cluster.
    pub system_id: SystemId,
    /// State as of the last write.
    pub state: ControlState,
    /// Begin of the latest checkpoint's record.
    pub checkpoint: Lsn,
    /// Where recovery from it begins to read.
    pub redo: Lsn,
    /// The latest checkpoint's timeline.
    pub timeline: Timeline,
    /// How far a standby's WAL must be replayed; 0/0 on a primary.
    pub min_recovery_end: Lsn,
    /// The timeline of that position; 0 on a primary.
    pub min_recovery_timeline: Timeline,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u32,
    /// Data checksums are on.
    pub data_checksums: bool,
    /// `wal_log_hints` was on.
    pub wal_log_hints: bool,
    /// What a standby must not have less of: parameter and value on the primary.
    pub least: [(&'static str, u32); 5],
}

/// Reads and checks a data directory's pg_control.
///
/// # Errors
/// [`ControlError`] with the file.
pub fn read_control(data_dir: &Path) -> Result<ControlFile, ControlError> {
    let path = data_dir.join("global/pg_control");
    let mut tries = 0;
    loop {
        let bytes = std::fs::read(&path)
            .map_err(|source| ControlError::Unreadable { path: path.clone(), source })?;
        let result = parse(&path, &bytes);
        tries += 1;
        // PostgreSQL overwrites the file in place: a torn read is possible, three in a row aren't.
        if result.is_ok() || tries == 3 {
            return result;
        }
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<ControlFile, ControlError> {
    let damaged = |what| ControlError::Damaged { path: path.to_owned(), what };
    let u32_at = |at: usize| -> Result<u32, ControlError> {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes).ok_or_else(|| damaged("too short"))
    };
    let u64_at = |at: usize| -> Result<u64, ControlError> {
        let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
        word.map(u64::from_le_bytes).ok_or_else(|| damaged("too short"))
    };
    let crc_at = match u32_at(8)? {
        1300 | 1700 => 288,
        // One more byte before the nonce: default_char_signedness.
        1800 => 292,
        found => return Err(ControlError::Version { path: path.to_owned(), found }),
    };
    if u32_at(204)? != 8 || u64_at(208)? != 1_234_567.0_f64.to_bits() {
        return Err(damaged("not written on a machine like this one"));
    }
    if crc32c(&bytes[..crc_at]) != u32_at(crc_at)? {
        return Err(damaged("checksum"));
    }
    let state = match u32_at(16)? {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        _ => return Err(damaged("unknown state")),
    };
    Ok(ControlFile {
        system_id: SystemId(u64_at(0)?),
        state,
        checkpoint: Lsn(u64_at(32)?),
        redo: Lsn(u64_at(40)?),
        timeline: Timeline(u32_at(48)?),
        min_recovery_end: Lsn(u64_at(136)?),
        min_recovery_timeline: Timeline(u32_at(144)?),
        wal_segment_size: u32_at(228)?,
        data_checksums: u32_at(252)? != 0,
        wal_log_hints: bytes[176] != 0,
        least: [
            ("max_connections", u32_at(180)?),
            ("max_worker_processes", u32_at(184)?),
            ("max_wal_senders", u32_at(188)?),
            ("max_prepared_transactions", u32_at(192)?),
            ("max_locks_per_transaction", u32_at(196)?),
        ],
    })
}

impl ControlFile {
    /// As the core wants it.
    #[must_use]
    pub fn facts(&self, instance: Instance) -> ControlFacts {
        ControlFacts {
            system_id: self.system_id,
            instance,
            state: self.state,
            timeline: self.timeline,
            checkpoint: self.checkpoint,
            min_recovery_end: self.min_recovery_end,
        }
    }
}

/// CRC-32C (Castagnoli), bit by bit: three hundred bytes need no table.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32c_check_value() {
        // The check value that every catalogue of CRCs gives.
        assert_eq!(super::crc32c(b"123456789"), 0xE306_9283);
    }
}
