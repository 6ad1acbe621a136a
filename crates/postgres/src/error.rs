//! What can go wrong before there is an operation to fail: opening a server, writing its files.
//! Failures of operations are values of the core ([`pgherd_core::postgres::PgOpFailure`]).

use std::io;
use std::path::{Path, PathBuf};

use pgherd_core::postgres::{PgFailureKind, PgOpFailure};

/// Why something about the local PostgreSQL can't be done.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// A file or directory.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was tried: "reading", "writing", …
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another agent works on this data directory.
    #[error(
        "another agent holds {}: two agents must never share a data directory; stop the other one",
        .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The guard.
    #[error(transparent)]
    Guard(#[from] pgherd_guard::GuardError),
    /// Leftover processes.
    #[error(transparent)]
    Sweep(#[from] pgherd_guard::SweepError),
    /// pg_control.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// A query or connection.
    #[error("{what}: {words}")]
    Sql {
        /// What was asked.
        what: &'static str,
        /// SQLSTATE and message, or the connection's error.
        words: String,
        /// The five characters, when the server answered.
        sqlstate: Option<String>,
    },
    /// A kill came in between.
    #[error("interrupted by a kill")]
    Cancelled,
    /// A failure that has its class already.
    #[error("{}", .0.detail)]
    Failed(PgOpFailure),
}

impl PgError {
    /// For `map_err` on file operations.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// A failure of a class.
    pub(crate) fn failed(kind: PgFailureKind, detail: impl Into<String>) -> Self {
        Self::Failed(PgOpFailure { kind, detail: detail.into() })
    }

    /// The failure as the core knows it.
    pub(crate) fn into_failure(self) -> PgOpFailure {
        let kind = match &self {
            Self::Failed(failure) => failure.kind,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                PgFailureKind::DiskFull
            }
            // 53100: disk_full (PostgreSQL docs, appendix A).
            Self::Sql { sqlstate: Some(state), .. } if state == "53100" => PgFailureKind::DiskFull,
            Self::Sql { .. } => PgFailureKind::QueryFailed,
            Self::Sweep(_) => PgFailureKind::TimedOut,
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::Guard(_)
            | Self::Control(_)
            | Self::Cancelled => PgFailureKind::ToolFailed,
        };
        PgOpFailure { kind, detail: self.to_string() }
    }
}
