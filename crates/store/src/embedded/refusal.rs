//! Why the embedded store refuses a request, in etcd's own codes and words, because clients (ours
//! too) tell refusals apart by them. Leaves failures of the store itself to `writer` and `serve`.

use tonic::{Code, Status};

/// A refused request; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An empty key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// Two writes of one key in one transaction.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// More steps or conditions than a transaction may have.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// More bytes than a request may have.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// A value together with the wish to keep the old one.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// A lease together with the wish to keep the old one.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// The wish to keep a value or lease of a key that doesn't exist.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// An order or a target of a sort that doesn't exist.
    #[error("etcdserver: invalid sort option")]
    InvalidSort,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The id is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// Too long a life.
    #[error("etcdserver: too large lease TTL")]
    TtlTooLarge,
    /// The revision is forgotten.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is still to come.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The keys and values need more room than the store gives them.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// Something that etcd has and we don't.
    #[error("the embedded store does not support {0}; use etcd for that")]
    Unsupported(&'static str),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::EmptyKey
            | Refusal::DuplicateKey
            | Refusal::TooManyOps
            | Refusal::TooLarge
            | Refusal::ValueProvided
            | Refusal::LeaseProvided
            | Refusal::KeyNotFound
            | Refusal::InvalidSort => Code::InvalidArgument,
            Refusal::LeaseNotFound => Code::NotFound,
            Refusal::LeaseExists => Code::FailedPrecondition,
            Refusal::TtlTooLarge | Refusal::Compacted | Refusal::FutureRevision => Code::OutOfRange,
            Refusal::NoSpace => Code::ResourceExhausted,
            Refusal::Unsupported(_) => Code::Unimplemented,
        };
        Self::new(code, refusal.to_string())
    }
}
