//! The REST API (contract 2), from memory: no answer waits for PostgreSQL, and only the calls that
//! change something wait for the store. One task per connection, all owned by [`serve`].

pub(crate) mod access;
mod config;
mod failover;
mod failsafe;
mod health;
mod metrics;
mod reinitialize;
mod restart;
mod route;
mod status;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, SERVER, UPGRADE, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pgherd_api::rest::{AskedBody, moment};
use pgherd_api::tls::TlsError;
use pgherd_api::{Keys, json};
use pgherd_config::rest::{RestServer, ServerTokens};
use pgherd_config::{Login, Settings};
use pgherd_core::NodeName;
use pgherd_store::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::board::{Board, Journal};
use crate::clock;
use crate::event::Event;
use crate::peers::{self, Admission, Identity};
use access::{Caller, Proof};
use route::{Route, Unsafe};
use tls::{Current, Keeper};

/// Health checks come from a few load balancers, tools and Prometheus; more is a mistake or an
/// attack, and is closed at once.
const CONNECTIONS: usize = 256;
/// Upgrades that wait for their task; each connection has one at most, and few are peers.
const UPGRADES_BOUND: usize = 16;
const HEAD_LIMIT: Duration = Duration::from_secs(5);
const BODY_LIMIT: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 64 << 10;

/// So many connections one address may have: a load balancer's checks are short, and whoever holds
/// them open keeps out only himself.
const CONNECTIONS_OF_ONE: usize = 128;
/// Of what a program calls itself, so much is kept.
const AGENT_CHARS: usize = 120;
/// A handshake is two round trips and a signature.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Everything that an answer needs.
#[derive(Clone)]
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
    /// How the API is served.
    pub(crate) rest: RestServer,
    /// Headers of every answer.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The API listens where only this machine reaches it.
    pub(crate) loopback: bool,
    pub(crate) tags: serde_json::Map<String, serde_json::Value>,
    /// PostgreSQL's version as a number: 170005.
    pub(crate) server_version: u32,
}

impl Desk {
    /// The same with other settings. Where it listens and its certificates are a start's.
    pub(crate) fn with(&self, settings: &Settings) -> Self {
        let tls = self.rest.tls.clone();
        Self {
            auth: settings.api_auth.clone(),
            headers: headers(&settings.rest_server),
            rest: RestServer { tls, ..settings.rest_server.clone() },
            tags: pgherd_config::tags::published(&settings.tags),
            ..self.clone()
        }
    }
}

type Answer = Response<Full<Bytes>>;
/// A refusal in Patroni's words.
type Refusal = (StatusCode, String);

/// A peer that changes from HTTP to its own protocol.
struct Upgrade {
    from: NodeName,
    on: hyper::upgrade::OnUpgrade,
}

/// How connections are accepted.
pub(crate) enum Scheme {
    Http,
    Https(Keeper, Current),
}

impl Scheme {
    /// Opens the certificate, where there is one.
    pub(crate) fn of(rest: &RestServer) -> Result<Self, TlsError> {
        match &rest.tls {
            None => Ok(Self::Http),
            Some(files) => Keeper::new(files.clone()).map(|(keeper, it)| Self::Https(keeper, it)),
        }
    }
}

/// Answers until the future is dropped; its tasks end with it.
pub(crate) async fn serve(
    listener: TcpListener,
    scheme: Scheme,
    desks: watch::Receiver<Arc<Desk>>,
) {
    let events = desks.borrow().events.clone();
    let (sender, mut upgrades) = mpsc::channel(UPGRADES_BOUND);
    let mut connections: JoinSet<IpAddr> = JoinSet::new();
    let mut callers: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut streams = JoinSet::new();
    let mut latest: BTreeMap<NodeName, AbortHandle> = BTreeMap::new();
    let mut keepers = JoinSet::new();
    let current = match scheme {
        Scheme::Http => None,
        Scheme::Https(keeper, current) => {
            keepers.spawn(keeper.run());
            Some(current)
        }
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let of_one = callers.entry(peer.ip()).or_default();
                    if connections.len() >= CONNECTIONS || *of_one >= CONNECTIONS_OF_ONE {
                        tracing::warn!(caller = %peer.ip(), "too many connections; one was closed");
                        continue;
                    }
                    *of_one += 1;
                    let tls = current.as_ref().map(|current| current.borrow().clone());
                    let (desks, sender, ip) = (desks.clone(), sender.clone(), peer.ip());
                    connections.spawn(async move {
                        connection(stream, ip, tls, &desks, &sender).await;
                        ip
                    });
                }
                Err(error) => {
                    // Out of descriptors: the same error would come again at once.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(Upgrade { from, on }) = upgrades.recv() => {
                let task = streams.spawn(peers::receive(from.clone(), on, events.clone()));
                // A peer has one stream; what an older one still holds is late.
                if let Some(older) = latest.insert(from, task) {
                    older.abort();
                }
            }
            Some(ended) = connections.join_next() => {
                if let Ok(ip) = ended
                    && let Some(of_one) = callers.get_mut(&ip)
                {
                    *of_one -= 1;
                }
                callers.retain(|_, of_one| *of_one > 0);
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: IpAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    desks: &watch::Receiver<Arc<Desk>>,
    upgrades: &mpsc::Sender<Upgrade>,
) {
    // Without it an answer of two packets waits for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        let caller = Caller { address, proof: Proof::None };
        return speak(TokioIo::new(stream), caller, desks, upgrades).await;
    };
    let handshake = TlsAcceptor::from(tls).accept(stream);
    match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some_and(|it| !it.is_empty());
            let proof = if certified { Proof::Certificate } else { Proof::None };
            speak(TokioIo::new(stream), Caller { address, proof }, desks, upgrades).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}

async fn speak<S>(
    stream: S,
    caller: Caller,
    desks: &watch::Receiver<Arc<Desk>>,
    upgrades: &mpsc::Sender<Upgrade>,
) where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(|request| async move {
        // Each call sees the settings of its moment.
        let desk = desks.borrow().clone();
        let mut answer = answer(&desk, caller, upgrades, request).await;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            for (name, value) in &desk.headers {
                answer.headers_mut().insert(name, value.clone());
            }
        }
        Ok::<_, Infallible>(answer)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(stream, service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The headers that every answer has. Those that can't be sent are left out, and said.
pub(crate) fn headers(rest: &RestServer) -> Vec<(HeaderName, HeaderValue)> {
    let server = match rest.server_tokens {
        ServerTokens::Original => concat!("pgherd/", env!("CARGO_PKG_VERSION")).to_owned(),
        ServerTokens::Minimal => format!("Patroni/{}", pgherd_api::COMPATIBLE_VERSION),
        ServerTokens::ProductOnly => "Patroni".to_owned(),
    };
    let server = (SERVER.to_string(), server);
    let headers = std::iter::once(&server).chain(&rest.extra_headers);
    let header = |(name, value): &(String, String)| {
        let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        if header.is_none() {
            tracing::warn!(name, "this header can't be sent");
        }
        header
    };
    headers.filter_map(header).collect()
}

async fn answer(
    desk: &Desk,
    caller: Caller,
    upgrades: &mpsc::Sender<Upgrade>,
    mut request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path().to_owned();
    match route::route(request.method(), &path) {
        Route::Peer => open_stream(desk, caller, upgrades, &mut request),
        Route::Unsafe(call) => match access::check(desk, caller, call, request.headers()).await {
            Ok(()) => {
                note(desk, caller, call, &request);
                control(desk, call, request).await
            }
            Err(refusal) => refused(refusal),
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
        Route::Term => status::term(desk),
        Route::Waiting => status::waiting(desk).await,
        Route::Metrics => {
            let body = metrics::render(desk);
            with_type(StatusCode::OK, "text/plain", body)
        }
    }
}

/// Keeps who wants what changed, and logs it. A Patroni leader's question changes nothing.
fn note(desk: &Desk, caller: Caller, call: Unsafe, request: &Request<Incoming>) {
    if call == Unsafe::Failsafe {
        return;
    }
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let asked = AskedBody {
        at: moment(clock::unix_millis()),
        call: format!("{} {}", request.method(), request.uri().path()),
        address: caller.address.to_canonical().to_string(),
        // It was checked.
        login: desk.auth.as_ref().map(|login| login.username.clone()),
        agent: agent.map(|agent| agent.chars().take(AGENT_CHARS).collect()),
    };
    tracing::info!(call = asked.call, by = %asked, "somebody wants something changed");
    desk.journal.note(asked);
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
        Unsafe::Reload => match desk.events.send(Event::Reload).await {
            Ok(()) => text(StatusCode::ACCEPTED, "reload scheduled"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
        },
        Unsafe::Failsafe => failsafe::request(desk, &body).await,
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
    caller: Caller,
    upgrades: &mpsc::Sender<Upgrade>,
    request: &mut Request<Incoming>,
) -> Answer {
    if !access::is_peer(desk, caller) {
        return text(StatusCode::UNAUTHORIZED, "client certificate required");
    }
    match Admission::judge(&desk.identity, request.headers()) {
        Admission::Welcome(from) => {
            let on = hyper::upgrade::on(request);
            if upgrades.try_send(Upgrade { from, on }).is_err() {
                return text(StatusCode::SERVICE_UNAVAILABLE, "too many streams at once");
            }
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers: &mut HeaderMap = answer.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(peers::PROTOCOL));
            answer
        }
        Admission::NotAnUpgrade => text(StatusCode::UPGRADE_REQUIRED, "for agents of this cluster"),
        Admission::Unproved => {
            text(StatusCode::UNAUTHORIZED, "neither this cluster's peer secret nor its password")
        }
        Admission::Stranger => text(StatusCode::FORBIDDEN, "not another member of this cluster"),
    }
}

/// Patroni's tools look for these words.
fn not_implemented() -> Answer {
    let mut answer = text(StatusCode::NOT_IMPLEMENTED, "Server does not support this operation");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
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

fn refused((code, words): Refusal) -> Answer {
    let mut answer = text(code, words);
    if code == StatusCode::UNAUTHORIZED {
        let realm = HeaderValue::from_static("Basic realm=\"Patroni\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
    }
    answer
}

fn with_type(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
