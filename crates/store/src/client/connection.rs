//! One HTTP/2 connection to one member, greeted: it answered who it is and that it has a leader.
//! Leaves choosing members, retries and deadlines of whole calls to the parent.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataValue};
use tonic_prost::ProstCodec;
use tower::Service;

use super::tls::{Tls, refused_later};
use super::{Credentials, Endpoint};
use crate::error::{Error, Obstacle, with_causes};
use crate::pb;
use crate::tasks::Tasks;

/// etcd closes connections that ping more often than each 5 s ("too many pings"). So these pings
/// only reap the dead; calls have their own time limits, and watches ask for progress.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// etcd hashes passwords with bcrypt, which takes its time.
const AUTHENTICATE_LIMIT: Duration = Duration::from_secs(3);

/// The number of a connection, so that a failure is blamed on the one that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionId(u64);

pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) endpoint: Endpoint,
    sender: http2::SendRequest<Body>,
    origin: http::Uri,
    token: RwLock<Token>,
    /// Held while asking for a token, so that many callers cause one login.
    login: Mutex<()>,
    /// Owns the connection's tasks: they end when the last user of this connection is gone.
    _tasks: Tasks,
}

/// What the member gave us for user and password.
#[derive(Clone, Default)]
struct Token {
    value: Option<MetadataValue<Ascii>>,
    number: TokenNumber,
}

/// The how-manieth token of a connection, so that the one that was refused is replaced, and once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct TokenNumber(u64);

/// What a fresh connection's member said.
pub(crate) struct Greeting {
    pub(crate) connection: Connection,
    /// Its status; etcd from 3.6 on tells it only to those who have authenticated, so that a refusal
    /// is a sign of life too.
    pub(crate) status: Result<pb::StatusResponse, Error>,
}

impl Connection {
    /// Connects and asks the member for its status, so that a hung or leaderless member is found
    /// out before anything that matters is sent to it.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: &Tls,
        limit: Duration,
    ) -> Result<Greeting, Error> {
        let not_sent = |why| Error::NotSent { endpoint: endpoint.to_string(), why };
        let greeting = async {
            let connection = Self::handshake(endpoint, tls).await.map_err(not_sent)?;
            let answer = connection.unary(pb::path::STATUS, pb::StatusRequest {}).await;
            let status = match answer.map_err(|failure| failure.into_error(endpoint)) {
                Err(Error::NotSent { why: Obstacle::Broken(words), .. }) => {
                    return Err(not_sent(explain(endpoint, tls, words).await));
                }
                Err(Error::Unknown { why: words, .. }) => {
                    return Err(not_sent(explain(endpoint, tls, words).await));
                }
                status => status,
            };
            Ok(Greeting { connection, status })
        };
        match timeout(limit, greeting).await {
            Ok(greeting) => greeting,
            Err(_) => Err(not_sent(Obstacle::Silent(limit))),
        }
    }

    async fn handshake(endpoint: &Endpoint, tls: &Tls) -> Result<Self, Obstacle> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let stream = endpoint.open(tls).await?;
        let broken = |error: &dyn std::error::Error| Obstacle::Broken(with_causes(error));
        let tasks = Tasks::default();
        let (sender, driver) = http2::Builder::new(tasks.spawner())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        tasks.spawner().spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = with_causes(&error), "store connection ended");
            }
        });
        let origin = http::Uri::builder()
            .scheme(endpoint.scheme())
            .authority(endpoint.authority())
            .path_and_query("/")
            .build()
            .map_err(|error| broken(&error))?;
        Ok(Self {
            id: ConnectionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            endpoint: endpoint.clone(),
            sender,
            origin,
            token: RwLock::default(),
            login: Mutex::default(),
            _tasks: tasks,
        })
    }

    /// Gets a token for this connection; the cluster that gave it. A store without authentication
    /// gives none and wants none.
    pub(crate) async fn authenticate(&self, who: &Credentials) -> Result<Option<u64>, Error> {
        let not_sent = |why| Error::NotSent { endpoint: self.endpoint.to_string(), why };
        let request =
            pb::AuthenticateRequest { name: who.user.clone(), password: who.password.clone() };
        // Without the token: etcd looks at it first, and one that has expired would be refused.
        let request = tonic::Request::new(request);
        let asked = self.send::<_, pb::AuthenticateResponse>(pb::path::AUTHENTICATE, request);
        let Ok(answer) = timeout(AUTHENTICATE_LIMIT, asked).await else {
            return Err(not_sent(Obstacle::Silent(AUTHENTICATE_LIMIT)));
        };
        let (value, cluster) = match answer.map_err(|failure| failure.into_error(&self.endpoint)) {
            Ok(reply) => {
                let value = MetadataValue::try_from(&reply.token).map_err(|_| {
                    not_sent(Obstacle::Broken("its token is no legal header".to_owned()))
                })?;
                (Some(value), Some(reply.header.unwrap_or_default().cluster_id))
            }
            Err(Error::Rejected { message, .. }) if message.contains("not enabled") => (None, None),
            // Nothing of the caller's was sent yet.
            Err(Error::Unknown { why, .. }) => return Err(not_sent(Obstacle::Broken(why))),
            Err(error) => return Err(error),
        };
        let mut token = self.token.write().unwrap_or_else(PoisonError::into_inner);
        *token = Token { value, number: TokenNumber(token.number.0 + 1) };
        Ok(cluster)
    }

    /// Replaces the token that was refused, unless somebody else has done it by now.
    pub(crate) async fn renew(&self, who: &Credentials, refused: TokenNumber) -> Result<(), Error> {
        let _turn = self.login.lock().await;
        if self.token_number() == refused {
            self.authenticate(who).await?;
        }
        Ok(())
    }

    /// The token that the next request will carry.
    pub(crate) fn token_number(&self) -> TokenNumber {
        self.token.read().unwrap_or_else(PoisonError::into_inner).number
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// One request, one answer. Streams of one message each way are the same on the wire.
    pub(crate) async fn unary<Q, R>(&self, path: &'static str, message: Q) -> Result<R, Failure>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        self.send(path, self.request(message)).await
    }

    async fn send<Q, R>(&self, path: &'static str, request: tonic::Request<Q>) -> Result<R, Failure>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let codec = ProstCodec::<Q, R>::default();
        match grpc.unary(request, PathAndQuery::from_static(path), codec).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure::from(status)),
        }
    }

    /// A stream of requests, a stream of answers; the member must know of a leader all the time.
    pub(crate) async fn stream<Q, R>(
        &self,
        path: &'static str,
        messages: impl futures_util::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<R>, Failure>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let codec = ProstCodec::<Q, R>::default();
        let mut request = self.request(messages);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        match grpc.streaming(request, PathAndQuery::from_static(path), codec).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure::from(status)),
        }
    }

    fn grpc(&self) -> tonic::client::Grpc<Sender> {
        // The default limit of 4 MiB would turn a large answer into a failed call.
        tonic::client::Grpc::with_origin(Sender(self.sender.clone()), self.origin.clone())
            .max_decoding_message_size(usize::MAX)
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &token.value {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Why a connection that stood broke before its first answer.
async fn explain(endpoint: &Endpoint, tls: &Tls, words: String) -> Obstacle {
    match refused_later(&words) {
        Some(obstacle) => obstacle,
        None if endpoint.wants_tls(tls).await => Obstacle::SpeaksTls,
        None => Obstacle::Broken(words),
    }
}

/// How a single attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request never left.
    NotSent(String),
    /// The server or the transport said so.
    Status(tonic::Status),
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use std::error::Error as _;
        match status.source().and_then(|source| source.downcast_ref::<NeverSent>()) {
            Some(never) => Self::NotSent(with_causes(never)),
            None => Self::Status(status),
        }
    }
}

impl Failure {
    pub(crate) fn into_error(self, endpoint: &Endpoint) -> Error {
        match self {
            Self::NotSent(why) => {
                Error::NotSent { endpoint: endpoint.to_string(), why: Obstacle::Broken(why) }
            }
            Self::Status(status) => Error::from_status(&endpoint.to_string(), &status),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(why) => f.write_str(why),
            Self::Status(status) => f.write_str(&with_causes(status)),
        }
    }
}

/// The connection was closed before the request was written to it.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed before the request was sent")]
struct NeverSent(#[source] hyper::Error);

/// hyper's sender as the service that tonic calls.
struct Sender(http2::SendRequest<Body>);

type Sending = Pin<
    Box<
        dyn Future<
                Output = Result<http::Response<Incoming>, Box<dyn std::error::Error + Send + Sync>>,
            > + Send,
    >,
>;

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Sending;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Sending {
        let sending = self.0.try_send_request(request);
        Box::pin(async move {
            sending.await.map_err(|mut failed| {
                // hyper gives the request back when it was never written.
                let never_sent = failed.take_message().is_some();
                let error = failed.into_error();
                if never_sent { NeverSent(error).into() } else { error.into() }
            })
        })
    }
}
