//! What can go wrong with a call, sorted by what the caller must know: was it applied or not.
//! Leaves retries to `client`, and the embedded server's own troubles to `embedded`.

use tonic::Code;

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Certainly not applied: no server received it.
    #[error(
        "the store was not asked: {endpoint}: {why}; nothing was changed, check that the endpoint is right and up"
    )]
    NotSent {
        /// The endpoint that was tried last.
        endpoint: String,
        /// Why it wasn't usable.
        why: String,
    },
    /// It was sent and no answer came: it may have been applied, or may still be.
    #[error(
        "no answer from the store: {endpoint}: {why}; the outcome is unknown, read before deciding again"
    )]
    Unknown {
        /// The endpoint that it was sent to.
        endpoint: String,
        /// What happened instead of an answer.
        why: String,
    },
    /// The store refused it: not applied.
    #[error("the store refused: {message} ({refusal})")]
    Rejected {
        /// What kind of refusal.
        refusal: Refusal,
        /// The store's words.
        message: String,
    },
    /// The lease is gone: expired, revoked, or never granted. Not applied.
    #[error("the store knows no such lease: it expired or was revoked; grant a new one")]
    LeaseNotFound,
    /// The revision asked for is no longer kept. Not applied.
    #[error("the store no longer has that revision: it was compacted; read anew")]
    Compacted,
    /// The endpoint belongs to another cluster than the one that this client talks to. Not applied.
    #[error(
        "{endpoint} belongs to store {found:016x}, expected {expected:016x}; its data was replaced, or the address is wrong"
    )]
    ForeignCluster {
        /// The endpoint.
        endpoint: String,
        /// The cluster id that this client knows.
        expected: u64,
        /// The cluster id that answered.
        found: u64,
    },
}

/// Why the store refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its space quota is used up: reads and deletes only, until somebody compacts, defragments
    /// and disarms the alarm.
    NoSpace,
    /// The user may not do that.
    Permission,
    /// The user or password is wrong, or the store wants one.
    Auth,
    /// The request itself is illegal.
    Invalid,
    /// The store has too much to do; later may work.
    Overloaded,
    /// The server does not know this call.
    Unsupported,
    /// The state of the store does not allow it.
    State,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "its space quota is used up: compact, defragment, disarm the alarm",
            Self::Permission => "this user lacks the permission",
            Self::Auth => "check user and password",
            Self::Invalid => "the request is not legal",
            Self::Overloaded => "it has too much to do",
            Self::Unsupported => "this server does not know the call",
            Self::State => "its state does not allow it",
        })
    }
}

impl Error {
    /// Whether the call certainly changed nothing.
    #[must_use]
    pub fn is_surely_unapplied(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// The refusal or silence that a gRPC status means. A status that was made on our side of the
    /// wire has a source, and tells nothing about the outcome.
    pub(crate) fn from_status(endpoint: &str, status: &tonic::Status) -> Self {
        use std::error::Error as _;
        let message = status.message().to_owned();
        if status.source().is_some() {
            return Self::Unknown { endpoint: endpoint.to_owned(), why: with_causes(status) };
        }
        let refusal = match status.code() {
            Code::NotFound if message.contains("lease not found") => return Self::LeaseNotFound,
            Code::OutOfRange if message.contains("has been compacted") => return Self::Compacted,
            Code::ResourceExhausted if message.contains("space exceeded") => Refusal::NoSpace,
            Code::ResourceExhausted => Refusal::Overloaded,
            Code::PermissionDenied => Refusal::Permission,
            Code::Unauthenticated => Refusal::Auth,
            Code::InvalidArgument if is_auth_failure(&message) => Refusal::Auth,
            Code::InvalidArgument | Code::OutOfRange => Refusal::Invalid,
            Code::Unimplemented => Refusal::Unsupported,
            Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists => Refusal::State,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => {
                return Self::Unknown { endpoint: endpoint.to_owned(), why: message };
            }
        };
        Self::Rejected { refusal, message }
    }
}

/// etcd answers InvalidArgument where others say Unauthenticated.
fn is_auth_failure(message: &str) -> bool {
    ["authentication failed", "user name", "revision of auth store is old"]
        .iter()
        .any(|part| message.contains(part))
}

/// The error and its causes on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
