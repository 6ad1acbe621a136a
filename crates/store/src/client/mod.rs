//! The store's client: one sticky connection, another member when it fails, deadlines on everything,
//! and the difference between "not applied" and "nobody knows". Leaves watching to `watch`, the
//! connection itself to `connection`, and what keys mean to the callers.

mod calls;
mod connection;
mod endpoint;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Mutex, watch as latest};
use tokio::time::{Instant, sleep_until, timeout_at};

pub use endpoint::{Endpoint, InvalidEndpoint};
pub use watch::{WatchEvent, Watcher};

use crate::error::{Error, Refusal};
use connection::{Connection, ConnectionId, Greeting};

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
    /// The members, in the order in which they are tried.
    pub endpoints: Vec<Endpoint>,
    /// For a store with authentication.
    pub credentials: Option<Credentials>,
    /// How long one member may take before another one is asked.
    pub attempt_timeout: Duration,
    /// The only cluster to talk to; none: the first that answers, and from then on only that.
    pub cluster_id: Option<u64>,
}

impl Options {
    /// The defaults for these members.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, credentials: None, attempt_timeout: ATTEMPT_TIMEOUT, cluster_id: None }
    }
}

/// A client of the store. Clones share the connection. Each call takes the time that it may last.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: Options,
    /// Held while connecting, so that many callers cause one connection attempt, not many.
    slot: Mutex<Slot>,
    /// The cluster that this client talks to; 0: not known yet.
    cluster_id: AtomicU64,
    /// Counts how often the client left a member, so that watches leave it too.
    moves: latest::Sender<u64>,
}

#[derive(Default)]
struct Slot {
    index: usize,
    current: Option<Arc<Connection>>,
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
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects when it is first used.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let cluster_id = AtomicU64::new(options.cluster_id.unwrap_or(0));
        let slot = Mutex::default();
        Self(Arc::new(Inner { options, slot, cluster_id, moves: latest::Sender::new(0) }))
    }

    /// The cluster that this client talks to; none before the first answer.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        Some(self.0.cluster_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// The members that this client knows.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0.options.endpoints
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
        let mut attempts = Attempts::new(self.0.options.endpoints.len());
        loop {
            match self.attempt(path, message.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.judge(error, repeat, deadline).await?,
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
            Error::Rejected { refusal: Refusal::Auth, .. } => self.leave(connection.id, 0).await,
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
                why: "the time was up before a connection was".to_owned(),
            }),
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
            slot.index += 1;
            self.0.moves.send_modify(|moves| *moves += 1);
        }
        let options = &self.0.options;
        let Some(endpoint) = options.endpoints.get(slot.index % options.endpoints.len().max(1))
        else {
            return Err(Error::NotSent {
                endpoint: "(none)".to_owned(),
                why: "no endpoint is configured".to_owned(),
            });
        };
        match self.greet(endpoint).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                slot.current = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                slot.index += 1;
                Err(error)
            }
        }
    }

    async fn greet(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let Greeting { mut connection, status } =
            Connection::open(endpoint, self.0.options.attempt_timeout).await?;
        if let Ok(status) = &status {
            self.check_cluster(endpoint, status.header.as_ref().map_or(0, |h| h.cluster_id))?;
            if status.leader == 0 {
                return Err(Error::NotSent {
                    endpoint: endpoint.to_string(),
                    why: "this member knows no leader".to_owned(),
                });
            }
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
    pause: Duration,
}

impl Attempts {
    fn new(members: usize) -> Self {
        let (failed, foreign, refused_tokens) = (0, 0, 0);
        Self { members, failed, foreign, refused_tokens, unknown: None, pause: FIRST_PAUSE }
    }

    async fn judge(
        &mut self,
        error: Error,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.failed += 1;
        let again = match &error {
            Error::NotSent { .. } => true,
            Error::Unknown { .. } => {
                self.unknown = Some(error.clone());
                repeat == Repeat::Harmless
            }
            Error::ForeignCluster { .. } => {
                self.foreign += 1;
                self.foreign < self.members
            }
            Error::Rejected { refusal: Refusal::Auth, .. } => {
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
            Error::NotSent { .. } => self.unknown.take().unwrap_or(last),
            Error::Unknown { .. }
            | Error::Rejected { .. }
            | Error::LeaseNotFound
            | Error::Compacted
            | Error::ForeignCluster { .. } => last,
        }
    }
}
