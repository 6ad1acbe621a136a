//! Watching a prefix for ever: a snapshot, then every change, across lost connections, compactions
//! and restarts of the store. Leaves what the keys mean to the consumer.
//!
//! A server that fell silent is found by asking for progress: etcd forbids frequent HTTP/2 pings,
//! but answers progress requests of any number. Their revisions are not used: etcd before 3.4.25
//! can name a revision there whose events are still to come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Client;
use super::connection::Connection;
use crate::convert::to_wire;
use crate::error::{Error, Refusal};
use crate::pb::{self, watch_request::Request};
use crate::types::{Event, Key, Range, Snapshot};

const READ_LIMIT: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
const SILENCE_LIMIT: Duration = Duration::from_millis(1500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Events wait here while the consumer is busy. When it is full the stream isn't read on and the
/// store keeps the rest; a consumer so late that the store compacts meanwhile gets a `Reset`.
const EVENTS_BOUND: usize = 256;
/// A create and a few progress requests; what doesn't fit isn't needed.
const REQUESTS_BOUND: usize = 4;

/// What a watcher has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything anew: replaces whatever was known. The first event of a working store.
    Reset(Snapshot),
    /// The changes of one revision.
    Changed {
        /// The revision.
        revision: u64,
        /// Its changes, at most one of each key.
        events: Vec<Event>,
    },
    /// Nothing is known from now on, until `Resumed` or `Reset`. Said once per loss, and again when
    /// it turns into a misconfiguration.
    Disconnected {
        /// The endpoint that was lost.
        endpoint: String,
        /// How.
        error: Error,
    },
    /// Connected again, and nothing is missed: changes after `revision` follow.
    Resumed {
        /// The last revision that was told.
        revision: u64,
    },
    /// An endpoint answers with another cluster's id: its data was replaced, or the address is
    /// wrong. Nothing of it is told. The watcher goes on trying, for an operator may put it right.
    ForeignCluster {
        /// The endpoint.
        endpoint: String,
        /// The cluster id that this client knows.
        expected: u64,
        /// The cluster id that answered.
        found: u64,
    },
}

/// A watch on a prefix. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Receiver<WatchEvent>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// The next event; waits for one. None only when the runtime is shutting down. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

impl Client {
    /// Watches every key that begins with `prefix`. Must be called within a runtime.
    #[must_use]
    pub fn watch_prefix(&self, prefix: impl Into<Key>) -> Watcher {
        let (sender, events) = mpsc::channel(EVENTS_BOUND);
        let client = self.clone();
        let watch = Watch {
            client,
            prefix: prefix.into(),
            last: None,
            sender,
            pause: FIRST_PAUSE,
            told: Told::Nothing,
        };
        Watcher { events, task: tokio::spawn(watch.run()) }
    }

    pub(crate) async fn open_watch(&self, prefix: &Key, start: u64) -> Result<RawWatch, Error> {
        let limit = self.0.options.attempt_timeout;
        let connection = self.connection().await?;
        let token = connection.token_number();
        let error = match timeout(limit, RawWatch::open(connection.clone(), prefix, start)).await {
            Ok(Ok(watch)) => return Ok(watch),
            Ok(Err(error)) => error,
            Err(_) => Error::Unknown {
                endpoint: connection.endpoint.to_string(),
                why: "no answer to a watch in time".to_owned(),
            },
        };
        match &error {
            Error::NotSent { .. } | Error::Unknown { .. } => self.leave(connection.id, 1).await,
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
}

/// One watch stream on one connection.
pub(crate) struct RawWatch {
    pub(crate) connection: Arc<Connection>,
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl RawWatch {
    async fn open(connection: Arc<Connection>, prefix: &Key, start: u64) -> Result<Self, Error> {
        let (requests, receiver) = mpsc::channel(REQUESTS_BOUND);
        let Range { key, range_end, .. } = Range::prefix(prefix.clone());
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: to_wire(start),
            ..pb::WatchCreateRequest::default()
        };
        let create = pb::WatchRequest { request: Some(Request::Create(create)) };
        // The receiver is in our hand and the channel is empty, so this can't fail.
        let _ = requests.try_send(create);
        let stream = connection.stream(pb::path::WATCH, ReceiverStream::new(receiver)).await;
        let responses = stream.map_err(|failure| failure.into_error(&connection.endpoint))?;
        let mut watch = Self { connection, requests, responses };
        // The first response says whether the watch was created; a refusal comes in the second one
        // or in the same.
        let first = watch.next().await?;
        if !first.created || first.canceled {
            return Err(watch.refused(&first));
        }
        Ok(watch)
    }

    pub(crate) async fn next(&mut self) -> Result<pb::WatchResponse, Error> {
        let endpoint = self.connection.endpoint.to_string();
        match self.responses.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Error::Unknown { endpoint, why: "the watch was ended".to_owned() }),
            Err(status) => Err(Error::from_status(&endpoint, &status)),
        }
    }

    pub(crate) fn ask_progress(&self) {
        let progress = Request::Progress(pb::WatchProgressRequest {});
        // When the channel is full the server hasn't taken the last ones: asking more is no use.
        let _ = self.requests.try_send(pb::WatchRequest { request: Some(progress) });
    }

    pub(crate) fn refused(&self, response: &pb::WatchResponse) -> Error {
        if response.compact_revision != 0 {
            return Error::Compacted;
        }
        Error::from_cancel(&self.connection.endpoint.to_string(), &response.cancel_reason)
    }
}

/// What the consumer believes about the connection.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    Connected,
    Lost { by_configuration: bool },
    Foreign(u64),
}

struct Watch {
    client: Client,
    prefix: Key,
    /// The last revision that was told; none: a snapshot is due.
    last: Option<u64>,
    sender: mpsc::Sender<WatchEvent>,
    pause: Duration,
    told: Told,
}

/// Why a session ended.
enum End {
    ConsumerGone,
    /// The client uses another member from now on; nothing is lost if that one goes on at once.
    Moved,
    Lost(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Lost(error)
    }
}

impl Watch {
    async fn run(mut self) {
        loop {
            let Err(end) = self.session().await;
            let error = match end {
                End::ConsumerGone => return,
                End::Moved => continue,
                End::Lost(error) => error,
            };
            if error == Error::Compacted {
                tracing::info!("the store compacted what this watch has not seen; reading anew");
                self.last = None;
                continue;
            }
            // A login costs the store a bcrypt, and only people can end these.
            let hopeless = matches!(&error, Error::Rejected { .. }) || error.is_misconfiguration();
            let longest = if hopeless { LONGEST_PAUSE * 10 } else { LONGEST_PAUSE };
            if self.tell_loss(error).await.is_err() {
                return;
            }
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(longest);
        }
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), End> {
        self.sender.send(event).await.map_err(|_| End::ConsumerGone)
    }

    async fn tell_loss(&mut self, error: Error) -> Result<(), End> {
        match error {
            Error::ForeignCluster { endpoint, expected, found } => {
                if self.told != Told::Foreign(found) {
                    self.told = Told::Foreign(found);
                    self.tell(WatchEvent::ForeignCluster { endpoint, expected, found }).await?;
                }
            }
            Error::NotSent { ref endpoint, .. } | Error::Unknown { ref endpoint, .. } => {
                let endpoint = endpoint.clone();
                self.tell_disconnected(endpoint, error).await?;
            }
            Error::Rejected { .. } | Error::LeaseNotFound | Error::Compacted => {
                self.tell_disconnected(String::new(), error).await?;
            }
        }
        Ok(())
    }

    async fn tell_disconnected(&mut self, endpoint: String, error: Error) -> Result<(), End> {
        // Once, and once more when it turns out that waiting is no use.
        let by_configuration = error.is_misconfiguration();
        let known = matches!(self.told, Told::Lost { by_configuration: known } if known || !by_configuration);
        if !known {
            self.told = Told::Lost { by_configuration };
            self.tell(WatchEvent::Disconnected { endpoint, error }).await?;
        }
        Ok(())
    }

    /// From a snapshot, or from where we were, until something breaks.
    async fn session(&mut self) -> Result<std::convert::Infallible, End> {
        let client = self.client.clone();
        let mut discovery = std::pin::pin!(client.keep_discovering());
        let nearer = self.client.clone();
        let mut nearness = std::pin::pin!(nearer.keep_near());
        let mut moves = self.client.0.moves.subscribe();
        let resumed_from = self.catch_up().await?;
        let last = match resumed_from {
            Some(last) => last,
            None => self.read_anew().await?,
        };
        // From `last`, whose events are dropped as known, not from the one after it: since 3.5.8 etcd
        // answers no progress request while the store hasn't reached a watch's first revision.
        let mut stream = self.client.open_watch(&self.prefix, last).await?;
        moves.mark_unchanged();
        self.pause = FIRST_PAUSE;
        if resumed_from.is_some() && self.told != Told::Connected {
            self.tell(WatchEvent::Resumed { revision: last }).await?;
        }
        self.told = Told::Connected;
        let mut heard = Instant::now();
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                response = stream.next() => {
                    let response = match response {
                        Ok(response) => response,
                        Err(error) => {
                            self.client.leave(stream.connection.id, 1).await;
                            return Err(error.into());
                        }
                    };
                    self.take(&stream, response).await?;
                    // After telling, because a slow consumer is not the server's silence.
                    heard = Instant::now();
                }
                _ = ticks.tick() => {
                    if heard.elapsed() > SILENCE_LIMIT {
                        self.client.leave(stream.connection.id, 1).await;
                        return Err(lost(&stream, "it fell silent"));
                    }
                    stream.ask_progress();
                }
                never = &mut discovery => match never {},
                never = &mut nearness => match never {},
                _ = moves.changed() => return Err(End::Moved),
            }
        }
    }

    /// Where to go on from. None when a snapshot is due: nothing was told yet, or the store no longer
    /// has, or doesn't have yet, the revision that was told last (compacted, or put back to an older
    /// state). Asked before the watch is opened, because etcd says "created" first and "compacted"
    /// later.
    async fn catch_up(&mut self) -> Result<Option<u64>, End> {
        let Some(last) = self.last else { return Ok(None) };
        let range = Range::prefix(self.prefix.clone());
        let range = Range { revision: last, count_only: true, limit: 1, ..range };
        match self.client.range(range, READ_LIMIT).await {
            Ok(_) => {}
            Err(Error::Compacted | Error::Rejected { refusal: Refusal::Invalid, .. }) => {
                tracing::info!(last, "the store no longer has what was told last; reading anew");
                self.last = None;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.last)
    }

    async fn read_anew(&mut self) -> Result<u64, End> {
        let snapshot = self.client.prefix(self.prefix.clone(), READ_LIMIT).await?;
        let revision = snapshot.revision;
        self.tell(WatchEvent::Reset(snapshot)).await?;
        self.told = Told::Connected;
        self.last = Some(revision);
        Ok(revision)
    }

    /// Tells the changes of a response, one revision at a time.
    async fn take(&mut self, stream: &RawWatch, response: pb::WatchResponse) -> Result<(), End> {
        if response.canceled {
            return Err(stream.refused(&response).into());
        }
        let term = response.header.as_ref().map_or(0, |header| header.raft_term);
        if let Err(stale) = self.client.check_term(&stream.connection.endpoint, term) {
            self.client.leave(stream.connection.id, 1).await;
            return Err(stale.into());
        }
        let mut events = response.events.into_iter().map(Event::from).peekable();
        while let Some(first) = events.next() {
            let revision = first.revision();
            let mut changes = vec![first];
            while let Some(next) = events.next_if(|event| event.revision() == revision) {
                changes.push(next);
            }
            if self.last.is_some_and(|last| revision <= last) {
                continue;
            }
            self.tell(WatchEvent::Changed { revision, events: changes }).await?;
            self.last = Some(revision);
        }
        Ok(())
    }
}

fn lost(stream: &RawWatch, why: &str) -> End {
    let endpoint = stream.connection.endpoint.to_string();
    End::Lost(Error::Unknown { endpoint, why: why.to_owned() })
}
