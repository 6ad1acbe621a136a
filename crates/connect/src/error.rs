//! Why a connection can't be made, or made secure. Never with a secret.

use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A word has another value than libpq knows.
    #[error("{word}: expected {wanted}, found '{found}'")]
    Word {
        /// Which.
        word: &'static str,
        /// What it may be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A file can't be read.
    #[error("{word}: {} can't be read: {source}", .path.display())]
    File {
        /// Whose file.
        word: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{word}: {} holds no {wanted} in PEM form", .path.display())]
    Empty {
        /// Whose file.
        word: &'static str,
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A private key is encrypted, and can't be decrypted.
    #[error("sslkey: the key in {} can't be decrypted: {why}", .path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong, without the password.
        why: String,
    },
    /// Certificates are to be verified, and nothing says against what.
    #[error(
        "sslmode={mode} needs the authorities that sign servers' certificates: set sslrootcert to \
         their file, or to 'system' for those that the system trusts"
    )]
    NoAuthorities {
        /// The mode.
        mode: &'static str,
    },
    /// The parts don't fit together.
    #[error("TLS can't be set up with these files: {0}")]
    Unfit(String),
    /// The server, the way to it, or its certificate.
    #[error("{}", chain(.0))]
    Server(#[from] tokio_postgres::Error),
}

impl Error {
    /// The client's own error, where it came to asking a server.
    #[must_use]
    pub fn of_server(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Server(error) => Some(error),
            Self::Word { .. }
            | Self::File { .. }
            | Self::Empty { .. }
            | Self::Key { .. }
            | Self::NoAuthorities { .. }
            | Self::Unfit(_) => None,
        }
    }
}

/// An error of the client's library says the half of it; its source the rest.
fn chain(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) if error.as_db_error().is_none() => format!("{error}: {source}"),
        Some(_) | None => error.to_string(),
    }
}
