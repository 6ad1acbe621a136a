//! The REST API (contract 2), from memory: no answer waits for PostgreSQL, and only the calls that
//! change something wait for the store. One task per connection, all owned by [`serve`].

mod access;
mod config;
mod failover;
mod health;
mod metrics;
mod reinitialize;
mod restart;
mod route;
mod status;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pgherd_api::{Keys, json};
use pgherd_core::NodeName;
use pgherd_store::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::board::{Board, Journal};
use crate::event::Event;
use crate::peers::{self, Admission, Identity};
use pgherd_config::Login;
use route::{Route, Unsafe};

/// Health checks come from a few load balancers, tools and Prometheus; more is a mistake or an
/// attack, and is closed at once.
const CONNECTIONS: usize = 256;
/// Upgrades that wait for their task; each connection has one at most, and few are peers.
const UPGRADES_BOUND: usize = 16;
const HEAD_LIMIT: Duration = Duration::from_secs(5);
const BODY_LIMIT: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 64 << 10;

/// Everything that an answer needs.
pub(crate) struct Desk {
    pub(crate) identity: Identity,
    pub(crate) board: watch::Receiver<Arc<Board>>,
    pub(crate) journal: Journal,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) store: Client,
    /// For questions to other members.
    pub(crate) client: pgherd_api::Client,
    pub(crate) keys: Keys,
    pub(crate) auth: Option<Login>,
    /// The API listens where only this machine reaches it.
    pub(crate) loopback: bool,
    pub(crate) tags: serde_json::Map<String, serde_json::Value>,
    /// PostgreSQL's version as a number: 170005.
    pub(crate) server_version: u32,
}

type Answer = Response<Full<Bytes>>;
/// A refusal in Patroni's words.
type Refusal = (StatusCode, String);

/// A peer that changes from HTTP to its own protocol.
struct Upgrade {
    from: NodeName,
    on: hyper::upgrade::OnUpgrade,
}

/// Answers until the future is dropped; its tasks end with it.
pub(crate) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let (sender, mut upgrades) = mpsc::channel(UPGRADES_BOUND);
    let mut connections = JoinSet::new();
    let mut streams = JoinSet::new();
    let mut latest: std::collections::BTreeMap<NodeName, AbortHandle> = Default::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS => {
                    connections.spawn(connection(stream, Arc::clone(&desk), sender.clone()));
                }
                Ok(_) => tracing::warn!("too many connections; one was closed"),
                Err(error) => {
                    // Out of descriptors: the same error would come again at once.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(Upgrade { from, on }) = upgrades.recv() => {
                let events = desk.events.clone();
                let task = streams.spawn(peers::receive(from.clone(), on, events));
                // A peer has one stream; what an older one still holds is late.
                if let Some(older) = latest.insert(from, task) {
                    older.abort();
                }
            }
            Some(_) = connections.join_next() => {}
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, desk: Arc<Desk>, upgrades: mpsc::Sender<Upgrade>) {
    // Without it an answer of two packets waits for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (desk, upgrades) = (Arc::clone(&desk), upgrades.clone());
        async move { Ok::<_, Infallible>(answer(&desk, &upgrades, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    desk: &Desk,
    upgrades: &mpsc::Sender<Upgrade>,
    mut request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path().to_owned();
    match route::route(request.method(), &path) {
        Route::Peer => open_stream(desk, upgrades, &mut request),
        Route::Unsafe(call) => match access::check(desk, request.headers()) {
            Ok(()) => control(desk, call, request).await,
            Err(refused) => refused,
        },
        Route::Unknown => not_implemented(),
        Route::Health | Route::Liveness | Route::Readiness => {
            health_answer(desk, request.method(), &path, request.uri().query())
        }
        Route::Patroni => spaced(StatusCode::OK, &status::status(desk)),
        Route::Cluster => status::cluster(desk),
        Route::History => status::history(desk),
        Route::Config => status::config(desk),
        Route::Failsafe => status::failsafe(desk),
        Route::Explain => spaced(StatusCode::OK, &status::explain(desk)),
        Route::Metrics => {
            let body = metrics::render(desk);
            with_type(StatusCode::OK, "text/plain", body)
        }
    }
}

fn health_answer(desk: &Desk, method: &Method, path: &str, query: Option<&str>) -> Answer {
    let code = health::check(desk, method, path, query);
    let get = *method == Method::GET;
    if get && !matches!(route::route(method, path), Route::Liveness | Route::Readiness) {
        return spaced(code, &status::status(desk));
    }
    // Only the status line, as Patroni does.
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = code;
    answer
}

async fn control(desk: &Desk, call: Unsafe, request: Request<Incoming>) -> Answer {
    if call.needs_body() && request.body().is_end_stream() {
        return text(StatusCode::LENGTH_REQUIRED, "this call needs a body: a JSON object");
    }
    let Some(body) = body(request).await else {
        return text(StatusCode::BAD_REQUEST, "the body is no JSON object, or too long");
    };
    match call {
        Unsafe::Switchover => failover::request(desk, failover::Kind::Switchover, &body).await,
        Unsafe::Failover => failover::request(desk, failover::Kind::Failover, &body).await,
        Unsafe::DeleteSwitchover => failover::withdraw(desk).await,
        Unsafe::Restart => restart::request(desk, &body).await,
        Unsafe::DeleteRestart => restart::withdraw(desk).await,
        Unsafe::PatchConfig => config::patch(desk, &body).await,
        Unsafe::PutConfig => config::put(desk, &body).await,
        Unsafe::Reinitialize => reinitialize::request(desk, &body).await,
        Unsafe::Failsafe => text(StatusCode::BAD_GATEWAY, "Failsafe mode is disabled"),
        // As Patroni on this system: said, and nothing done. A service manager stops agents.
        Unsafe::Sigterm => text(StatusCode::ACCEPTED, "shutdown scheduled"),
    }
}

/// The body as a JSON object; empty counts as `{}`.
async fn body(request: Request<Incoming>) -> Option<serde_json::Map<String, serde_json::Value>> {
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let bytes = tokio::time::timeout(BODY_LIMIT, body).await.ok()?.ok()?.to_bytes();
    if bytes.is_empty() {
        return Some(serde_json::Map::new());
    }
    serde_json::from_slice(&bytes).ok()
}

fn open_stream(
    desk: &Desk,
    upgrades: &mpsc::Sender<Upgrade>,
    request: &mut Request<Incoming>,
) -> Answer {
    match Admission::judge(&desk.identity, request.headers()) {
        Admission::Welcome(from) => {
            let on = hyper::upgrade::on(request);
            if upgrades.try_send(Upgrade { from, on }).is_err() {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many streams at once");
            }
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers: &mut HeaderMap = answer.headers_mut();
            headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, http::HeaderValue::from_static(peers::PROTOCOL));
            answer
        }
        Admission::NotAnUpgrade => text(StatusCode::UPGRADE_REQUIRED, "for agents of this cluster"),
        Admission::Unproved => text(StatusCode::UNAUTHORIZED, "not this cluster's peer secret"),
        Admission::Stranger => text(StatusCode::FORBIDDEN, "not another member of this cluster"),
    }
}

/// Patroni's tools look for these words.
fn not_implemented() -> Answer {
    let mut answer = text(StatusCode::NOT_IMPLEMENTED, "Server does not support this operation");
    answer.headers_mut().insert(ALLOW, http::HeaderValue::from_static("GET, HEAD, OPTIONS"));
    answer
}

/// JSON as Patroni writes it.
fn spaced<T: serde::Serialize>(code: StatusCode, value: &T) -> Answer {
    match json::spaced(value) {
        Ok(body) => with_type(code, "application/json", body),
        Err(error) => {
            tracing::error!(%error, "an answer can't be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer can't be written")
        }
    }
}

fn text(code: StatusCode, words: impl Into<String>) -> Answer {
    with_type(code, "text/html", words.into())
}

fn unauthorized(words: &'static str) -> Answer {
    let mut answer = text(StatusCode::UNAUTHORIZED, words);
    let realm = http::HeaderValue::from_static("Basic realm=\"Patroni\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
    answer
}

fn with_type(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
