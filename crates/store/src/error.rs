//! What can go wrong with a call, sorted by what the caller must know: was it applied or not; and each
//! kind of trouble in one sentence: what is, what was expected, what to do. Leaves retries to `client`, and the embedded server's own troubles to `embedded`.

use std::path::PathBuf;

use tonic::Code;

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Certainly not applied: no server received it.
    #[error("the store was not asked: {endpoint}: {why}")]
    NotSent {
        /// The endpoint, of several the one that tells most.
        endpoint: String,
        /// Why it wasn't usable.
        why: Obstacle,
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

/// Why a member was not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// There is none to ask.
    #[error("no endpoint is configured")]
    NoEndpoint,
    /// None is configured, and DNS names none.
    #[error("{0}")]
    Lookup(LookupTrouble),
    /// Other members took all the time that the call had.
    #[error("the time was up before there was a connection")]
    TimeUp,
    /// Nobody is there.
    #[error("no connection: {0}; check the address, and that etcd runs there")]
    Unreachable(String),
    /// Somebody is there and says nothing.
    #[error("no answer to a greeting within {0:?}; it hangs, or packets to it are dropped")]
    Silent(std::time::Duration),
    /// It hung up.
    #[error("the connection broke: {0}; check that this is etcd's client port")]
    Broken(String),
    /// The member is not part of a majority.
    #[error(
        "it knows no leader: more than half of etcd's members are away; start them, or mend the network between them"
    )]
    NoLeader,
    /// The member is behind what another one said.
    #[error("it is behind the others (raft term {found}, expected {expected} or later)")]
    Stale {
        /// The highest term that a member named.
        expected: u64,
        /// This member's.
        found: u64,
    },
    /// We spoke without TLS.
    #[error("it speaks TLS, and the endpoint is http; write https:// or 'protocol: https'")]
    SpeaksTls,
    /// We spoke TLS.
    #[error("it does not speak TLS, and the endpoint is https; write http:// or turn its TLS on")]
    SpeaksPlain,
    /// We do not believe that it is who it should be.
    #[error("its certificate was refused: {0}")]
    ServerCertificate(CertificateTrouble),
    /// It does not believe that we are who we should be.
    #[error(
        "it refused our client certificate, or that there is none ({0}); check cert and key, and that its trusted CA signed them"
    )]
    ClientCertificate(String),
    /// A file of TLS.
    #[error("{}: {why}; put the right file there", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something else about TLS.
    #[error("TLS failed: {0}")]
    Tls(String),
}

/// Why DNS names no member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupTrouble {
    /// There is no such record.
    #[error(
        "DNS has no SRV record of etcd's there: neither {}; add one, or configure the members themselves",
        .asked.join(" nor ")
    )]
    Absent {
        /// The names that have none.
        asked: Vec<String>,
    },
    /// Nobody knows whether there is one.
    #[error(
        "the SRV record {name} can't be looked up: {why}; check the nameservers in /etc/resolv.conf"
    )]
    Unanswered {
        /// The name that was asked for.
        name: String,
        /// What the last nameserver said.
        why: String,
    },
    /// Only peers are named, and none of them says where the members' client ports are.
    #[error(
        "the peers that the SRV record {name} names don't tell the members: {why}; add a record _etcd-client or _etcd-client-ssl"
    )]
    Peers {
        /// The record's name.
        name: String,
        /// What the last peer said.
        why: String,
    },
}

/// Why a member's certificate is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateTrouble {
    /// Signed by somebody else.
    #[error("{ca} did not sign it; configure the CA that did (cacert)")]
    UnknownIssuer {
        /// Whom we believe.
        ca: String,
    },
    /// Too old.
    #[error("it has expired; renew it, and check this machine's clock")]
    Expired,
    /// Too young.
    #[error("it is not valid yet; check this machine's clock")]
    NotValidYet,
    /// For another host.
    #[error("it is for {}, not for the host of the endpoint; use that name, or add this one to the certificate", list(.names))]
    WrongName {
        /// Whom it is for.
        names: Vec<String>,
    },
    /// The library's words.
    #[error("{0}")]
    Other(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "other names".to_owned() } else { names.join(", ") }
}

impl Obstacle {
    /// Of several members' obstacles, the one to tell is the one that only somebody can remove.
    pub(crate) fn tells(&self) -> u8 {
        match self {
            Self::TimeUp => 0,
            Self::Unreachable(_) => 1,
            Self::Broken(_) => 2,
            Self::Silent(_) => 3,
            Self::Stale { .. } => 4,
            Self::NoLeader | Self::Lookup(_) => 5,
            Self::SpeaksTls | Self::SpeaksPlain => 6,
            Self::ServerCertificate(_) | Self::ClientCertificate(_) | Self::Tls(_) => 7,
            Self::File { .. } | Self::NoEndpoint => 8,
        }
    }
}

/// Why the store refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its space quota is used up: reads and deletes only, until somebody compacts, defragments
    /// and disarms the alarm.
    NoSpace,
    /// A member's data differs from the others'.
    Corrupt,
    /// The user may not do that.
    Permission,
    /// User or password is wrong.
    Credentials,
    /// It wants a user, and there is none.
    NoUser,
    /// The token was given before something changed, or has expired. The client gets another one
    /// and asks again; who sees this saw it twice.
    Token,
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
            Self::NoSpace => {
                "etcd's space quota is used up, it takes no writes: compact, defragment, then 'etcdctl alarm disarm'"
            }
            Self::Corrupt => {
                "etcd found members with different data, it takes no writes: replace the one that its alarm names"
            }
            Self::Permission => {
                "this user may not do that: grant its role readwrite on the cluster's prefix"
            }
            Self::Credentials => "user or password is wrong: correct them",
            Self::NoUser => "it wants a user and a password, and none is configured",
            Self::Token => "its token is void, and so is a new one: look at etcd's log",
            Self::Invalid => "the request is not legal",
            Self::Overloaded => "it has too much to do",
            Self::Unsupported => "this server does not know the call; etcd 3.4 or later is needed",
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

    /// Whether waiting won't help: what is configured here is wrong.
    #[must_use]
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            Self::Rejected { refusal, .. } => {
                matches!(refusal, Refusal::Credentials | Refusal::NoUser)
            }
            Self::NotSent { why, .. } => {
                matches!(why, Obstacle::File { .. } | Obstacle::NoEndpoint)
            }
            Self::Unknown { .. }
            | Self::LeaseNotFound
            | Self::Compacted
            | Self::ForeignCluster { .. } => false,
        }
    }

    /// Whether this is the same trouble as `other`, whichever member had it.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::NotSent { why: a, .. }, Self::NotSent { why: b, .. }) => {
                std::mem::discriminant(a) == std::mem::discriminant(b)
            }
            (Self::Rejected { refusal: a, .. }, Self::Rejected { refusal: b, .. }) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// The refusal or silence that a gRPC status means. A status that was made on our side of the
    /// wire has a source, and tells nothing about the outcome.
    pub(crate) fn from_status(endpoint: &str, status: &tonic::Status) -> Self {
        use std::error::Error as _;
        let message = status.message().to_owned();
        if status.source().is_some() {
            return Self::Unknown { endpoint: endpoint.to_owned(), why: with_causes(status) };
        }
        if message.contains("etcdserver: no leader") {
            return Self::NotSent { endpoint: endpoint.to_owned(), why: Obstacle::NoLeader };
        }
        let refusal = match status.code() {
            Code::NotFound if message.contains("lease not found") => return Self::LeaseNotFound,
            Code::OutOfRange if message.contains("has been compacted") => return Self::Compacted,
            Code::ResourceExhausted if message.contains("space exceeded") => Refusal::NoSpace,
            Code::ResourceExhausted => Refusal::Overloaded,
            Code::DataLoss if message.contains("corrupt") => Refusal::Corrupt,
            Code::PermissionDenied => Refusal::Permission,
            Code::Unauthenticated => Refusal::Token,
            Code::InvalidArgument => about_login(&message).unwrap_or(Refusal::Invalid),
            Code::OutOfRange => Refusal::Invalid,
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

    /// What the reason of a cancelled watch means; etcd has only words for it.
    pub(crate) fn from_cancel(endpoint: &str, reason: &str) -> Self {
        let refusal = if reason.contains("permission denied") {
            Some(Refusal::Permission)
        } else if reason.contains("invalid auth token") {
            Some(Refusal::Token)
        } else {
            about_login(reason)
        };
        match refusal {
            Some(refusal) => Self::Rejected { refusal, message: reason.to_owned() },
            None if reason.contains("no leader") => {
                Self::NotSent { endpoint: endpoint.to_owned(), why: Obstacle::NoLeader }
            }
            None => {
                let why = format!("the watch was ended: {reason}");
                Self::Unknown { endpoint: endpoint.to_owned(), why }
            }
        }
    }
}

/// etcd answers InvalidArgument where others say Unauthenticated.
fn about_login(message: &str) -> Option<Refusal> {
    let words = [
        ("authentication failed", Refusal::Credentials),
        ("user name is empty", Refusal::NoUser),
        ("user name not found", Refusal::Credentials),
        ("revision of auth store is old", Refusal::Token),
    ];
    words.into_iter().find(|(part, _)| message.contains(part)).map(|(_, refusal)| refusal)
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
