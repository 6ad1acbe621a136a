//! The store's client: one sticky connection, another member when it fails, deadlines on everything,
//! and the difference between "not applied" and "nobody knows". Leaves watching to `watch`, the
//! connection itself to `connection`, and what keys mean to the callers.

mod calls;
mod connection;
mod discovery;
mod dns;
mod endpoint;
mod nearest;
mod peers;
mod srv;
mod tls;
mod version;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Mutex, watch as latest};
use tokio::time::{Instant, sleep_until, timeout_at};

pub use discovery::DISCOVERY_INTERVAL;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use nearest::Order;
pub use srv::Srv;
pub use tls::TlsFiles;
pub use watch::{WatchEvent, Watcher};

use crate::error::{Error, Obstacle, Refusal};
use crate::pb::StatusResponse;
use connection::{Connection, ConnectionId, Greeting, TokenNumber};
use discovery::Known;
use srv::Lookups;
use tls::Tls;

/// How long one member may take to answer before another one is asked.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(400);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// User and password for a store with authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password; never printed.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a client is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members.
    pub endpoints: Vec<Endpoint>,
    /// In which order they are tried.
    pub order: Order,
    /// The domain whose SRV records name members; while it names any, these are instead of
    /// `endpoints`.
    pub srv: Option<Srv>,
    /// For a store with authentication.
    pub credentials: Option<Credentials>,
    /// For endpoints with https.
    pub tls: TlsFiles,
    /// Ask the store for its other members this often, while something is watched; none: never.
    pub discovery: Option<Duration>,
    /// How long one member may take before another one is asked.
    pub attempt_timeout: Duration,
    /// The only cluster to talk to; none: the first that answers, and from then on only that.
    pub cluster_id: Option<u64>,
}

impl Options {
    /// The defaults for these members.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            order: Order::default(),
            srv: None,
            credentials: None,
            tls: TlsFiles::default(),
            discovery: None,
            attempt_timeout: ATTEMPT_TIMEOUT,
            cluster_id: None,
        }
    }
}

/// A client of the store. Clones share the connection. Each call takes the time that it may last.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: Options,
    tls: Arc<Tls>,
    known: RwLock<Known>,
    next_discovery: std::sync::Mutex<Instant>,
    /// Held while connecting, so that many callers cause one connection attempt, not many.
    slot: Mutex<Slot>,
    /// The cluster that this client talks to; 0: not known yet.
    cluster_id: AtomicU64,
    /// The highest raft term that a member with a leader named: one with a lower term is behind.
    raft_term: AtomicU64,
    warned_of_version: AtomicBool,
    /// Counts how often the client left a member, so that watches leave it too.
    moves: latest::Sender<u64>,
}

#[derive(Default)]
struct Slot {
    index: usize,
    current: Option<Arc<Connection>>,
    /// The endpoints are in the order that is wanted, and so many of them are on this machine.
    near: Option<usize>,
    home: nearest::Home,
    /// How many attempts to connect failed since the last that didn't.
    failures: usize,
    lookups: Lookups,
}

/// Whether a call whose outcome is unknown may be sent once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Twice is the same as once.
    Harmless,
    /// Never: only the caller can find out whether it was applied.
    Never,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.0.options.endpoints)
            .field("srv", &self.0.options.srv)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects when it is first used.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let cluster_id = AtomicU64::new(options.cluster_id.unwrap_or(0));
        Self(Arc::new(Inner {
            tls: Arc::new(Tls::new(options.tls.clone())),
            known: RwLock::new(Known::new(options.endpoints.clone())),
            next_discovery: std::sync::Mutex::new(Instant::now()),
            options,
            slot: Mutex::default(),
            cluster_id,
            raft_term: AtomicU64::new(0),
            warned_of_version: AtomicBool::new(false),
            moves: latest::Sender::new(0),
        }))
    }

    /// The cluster that this client talks to; none before the first answer.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        Some(self.0.cluster_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// The members that this client knows: those that it was given, then those that it found.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// Sends a request until it is answered, refused, or the time is up; `Repeat` says what may be
    /// sent twice.
    async fn call<Q, R>(
        &self,
        path: &'static str,
        message: Q,
        repeat: Repeat,
        within: Duration,
    ) -> Result<R, Error>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let deadline = Instant::now() + within;
        let mut attempts = Attempts::new(self.endpoints().len());
        loop {
            match self.attempt(path, message.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    // It may be known of more by now.
                    attempts.members = self.endpoints().len();
                    attempts.judge(error, repeat, deadline).await?;
                }
            }
        }
    }

    /// One member, one try.
    async fn attempt<Q, R>(
        &self,
        path: &'static str,
        message: Q,
        deadline: Instant,
    ) -> Result<R, Error>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let connection = self.connection_until(deadline).await?;
        let token = connection.token_number();
        let limit = deadline.min(Instant::now() + self.0.options.attempt_timeout);
        let error = match timeout_at(limit, connection.unary(path, message)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure.into_error(&connection.endpoint),
            Err(_) => Error::Unknown {
                endpoint: connection.endpoint.to_string(),
                why: "no answer in time".to_owned(),
            },
        };
        match &error {
            Error::NotSent { .. } | Error::Unknown { .. } => self.leave(connection.id, 1).await,
            // The token is no longer good: the same member gives a new one.
            Error::Rejected { refusal: Refusal::Token, .. } => {
                self.renew(&connection, token).await?;
            }
            Error::Rejected { .. }
            | Error::LeaseNotFound
            | Error::Compacted
            | Error::ForeignCluster { .. } => {}
        }
        Err(error)
    }

    async fn connection_until(&self, deadline: Instant) -> Result<Arc<Connection>, Error> {
        match timeout_at(deadline, self.connection()).await {
            Ok(connection) => connection,
            Err(_) => Err(Error::NotSent {
                endpoint: "every endpoint so far".to_owned(),
                why: Obstacle::TimeUp,
            }),
        }
    }

    /// Another token for a connection whose `token` was refused.
    async fn renew(&self, connection: &Connection, token: TokenNumber) -> Result<(), Error> {
        match &self.0.options.credentials {
            Some(credentials) => connection.renew(credentials, token).await,
            None => Ok(()),
        }
    }

    /// The current connection, or one to the next member in turn.
    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut slot = self.0.slot.lock().await;
        if let Some(current) = &slot.current {
            if !current.is_closed() {
                return Ok(current.clone());
            }
            slot.current = None;
            slot.home.left(Instant::now());
            slot.index += 1;
            self.0.moves.send_modify(|moves| *moves += 1);
        }
        if self.0.options.order == Order::NearestFirst && slot.near.is_none() {
            let (nearest, near) = nearest::nearest_first(&self.0.options.endpoints).await;
            // Before DNS is asked: what it names has an order of its own.
            self.0.known.write().unwrap_or_else(PoisonError::into_inner).given = nearest;
            slot.near = Some(near);
        }
        self.look_up(&mut slot).await?;
        let endpoints = self.endpoints();
        let Some(endpoint) = endpoints.get(slot.index % endpoints.len().max(1)) else {
            let (endpoint, why) = ("(none)".to_owned(), Obstacle::NoEndpoint);
            return Err(Error::NotSent { endpoint, why });
        };
        match self.greet(endpoint).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                slot.current = Some(connection.clone());
                slot.failures = 0;
                Ok(connection)
            }
            Err(error) => {
                slot.index += 1;
                slot.failures += 1;
                Err(error)
            }
        }
    }

    async fn greet(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let Greeting { connection, status } =
            Connection::open(endpoint, &self.0.tls, self.0.options.attempt_timeout).await?;
        if let Ok(status) = &status {
            self.check_member(endpoint, status)?;
        }
        let token_from = match &self.0.options.credentials {
            Some(credentials) => connection.authenticate(credentials).await?,
            None => None,
        };
        match (token_from, status) {
            // A token is agreed on by the cluster, so there is a leader.
            (Some(cluster_id), _) => self.check_cluster(endpoint, cluster_id)?,
            (None, Ok(_)) => {}
            (None, Err(refused)) => return Err(refused),
        }
        Ok(connection)
    }

    /// Whether a member is one of ours, has a leader and is not behind.
    fn check_member(&self, endpoint: &Endpoint, status: &StatusResponse) -> Result<(), Error> {
        self.check_cluster(endpoint, status.header.as_ref().map_or(0, |h| h.cluster_id))?;
        if status.leader == 0 {
            return Err(Error::NotSent { endpoint: endpoint.to_string(), why: Obstacle::NoLeader });
        }
        self.check_term(endpoint, status.raft_term)?;
        if let Some(trouble) = version::trouble(&status.version)
            && !self.0.warned_of_version.swap(true, Ordering::Relaxed)
        {
            let version = &status.version;
            tracing::warn!(%endpoint, version, "this version of etcd is unsafe: {trouble}");
        }
        Ok(())
    }

    /// Terms only grow, so a member that names a lower one than another did has not heard of the
    /// newest leader (contract 1.5). 0: it says nothing.
    fn check_term(&self, endpoint: &Endpoint, found: u64) -> Result<(), Error> {
        let expected = self.0.raft_term.fetch_max(found, Ordering::Relaxed);
        if found == 0 || found >= expected {
            return Ok(());
        }
        let why = Obstacle::Stale { expected, found };
        Err(Error::NotSent { endpoint: endpoint.to_string(), why })
    }

    /// The first cluster that answers is the one to stay with, if none was given.
    fn check_cluster(&self, endpoint: &Endpoint, found: u64) -> Result<(), Error> {
        let order = Ordering::Relaxed;
        match self.0.cluster_id.compare_exchange(0, found, order, order) {
            Err(expected) if expected != found => {
                Err(Error::ForeignCluster { endpoint: endpoint.to_string(), expected, found })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Gives up a connection, if it still is the current one, and goes `by` members on.
    async fn leave(&self, id: ConnectionId, by: usize) {
        let mut slot = self.0.slot.lock().await;
        if slot.current.as_ref().is_some_and(|current| current.id == id) {
            slot.current = None;
            slot.home.left(Instant::now());
            slot.index += by;
            self.0.moves.send_modify(|moves| *moves += 1);
        }
    }
}

/// Decides after a failed attempt whether there is another one, and waits before it.
struct Attempts {
    members: usize,
    failed: usize,
    foreign: usize,
    refused_tokens: usize,
    unknown: Option<Error>,
    /// Of what kept us from asking, what tells most.
    telling: Option<(u8, Error)>,
    pause: Duration,
}

impl Attempts {
    fn new(members: usize) -> Self {
        let (failed, foreign, refused_tokens) = (0, 0, 0);
        let (unknown, telling) = (None, None);
        Self { members, failed, foreign, refused_tokens, unknown, telling, pause: FIRST_PAUSE }
    }

    async fn judge(
        &mut self,
        error: Error,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.failed += 1;
        let again = match &error {
            Error::NotSent { why, .. } => {
                if self.telling.as_ref().is_none_or(|(most, _)| why.tells() >= *most) {
                    self.telling = Some((why.tells(), error.clone()));
                }
                true
            }
            Error::Unknown { .. } => {
                self.unknown = Some(error.clone());
                repeat == Repeat::Harmless
            }
            Error::ForeignCluster { .. } => {
                self.foreign += 1;
                self.foreign < self.members
            }
            Error::Rejected { refusal: Refusal::Token, .. } => {
                self.refused_tokens += 1;
                self.refused_tokens < 2
            }
            Error::Rejected { .. } | Error::LeaseNotFound | Error::Compacted => false,
        };
        // Every member had its turn: no hurry to ask the first one again.
        let rest = self.failed.is_multiple_of(self.members.max(1));
        let wait = if rest { self.pause } else { Duration::ZERO };
        if !again || Instant::now() + wait >= deadline {
            return Err(self.verdict(error));
        }
        if rest {
            sleep_until(Instant::now() + wait).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// An earlier attempt may have been applied, even if the last one certainly wasn't.
    fn verdict(&mut self, last: Error) -> Error {
        match last {
            Error::NotSent { .. } => {
                let telling = self.telling.take().map_or(last, |(_, error)| error);
                self.unknown.take().unwrap_or(telling)
            }
            Error::Unknown { .. }
            | Error::Rejected { .. }
            | Error::LeaseNotFound
            | Error::Compacted
            | Error::ForeignCluster { .. } => last,
        }
    }
}
