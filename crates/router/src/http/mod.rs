//! The dashboard's HTTP server: read-only, GET only, small answers.
//! Leaves what is shown to `status`, and how to `csv`, `metrics` and the files in `dashboard/`.

mod csv;
mod health;
mod metrics;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json};
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::ServiceExt;

use crate::router::LocalAddrs;
use crate::shared::{Phase, Shared, reached};
use status::Status;

/// A browser keeps one or two connections open, a scraper one: this is for a busy control room.
const CONNECTIONS_MAX: usize = 256;
/// Also how long a connection may idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing here takes a body; some clients send an empty one.
const BODY_MAX: u64 = 1024;
/// After a failed accept: files or memory are short, and hurrying makes it no better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const INDEX: &str = include_str!("dashboard/index.html");
/// Stands in the page where the proxy's path belongs.
const BASE: &str = "<base href=\"./\">";

/// What the handlers know.
struct App {
    shared: Arc<Shared>,
    addrs: LocalAddrs,
}

/// The path under which the browser sees the dashboard, ending in a slash.
#[derive(Clone)]
struct Base(String);

/// Serves one listener until the router stops. Owns the connections.
pub(crate) async fn serve(shared: Arc<Shared>, addrs: LocalAddrs, listener: TcpListener) {
    let mut phase = shared.phase.subscribe();
    let prefix = shared.config.path_prefix.trim_end_matches('/').to_owned();
    let app = routes(App { shared, addrs });
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            () = reached(&mut phase, Phase::Stopped) => return,
            Some(ended) = connections.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a dashboard connection ended by a defect");
            },
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, app.clone(), prefix.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a dashboard connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, app: axum::Router, prefix: String) {
    let service = app.map_request(move |request| under_prefix(request, &prefix));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a dashboard connection broke off");
    }
}

fn routes(app: App) -> axum::Router {
    axum::Router::new()
        .route("/", get(index))
        .route("/app.js", get(|| file("text/javascript", include_str!("dashboard/app.js"))))
        .route("/style.css", get(|| file("text/css", include_str!("dashboard/style.css"))))
        .route("/icon.svg", get(|| file("image/svg+xml", include_str!("dashboard/icon.svg"))))
        .route("/api/status", get(status))
        .route("/leader", get(leader))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/;csv", get(csv))
        .with_state(Arc::new(app))
        .layer(from_fn(guard))
}

/// Takes the configured prefix off the path, and notes under which path the browser sees us.
fn under_prefix(mut request: http::Request<hyper::body::Incoming>, prefix: &str) -> Request {
    let forwarded = request.headers().get("x-forwarded-prefix").and_then(|v| v.to_str().ok());
    let mut base = forwarded.filter(|path| is_plain_path(path)).unwrap_or("").to_owned();
    let stripped = request.uri().path().strip_prefix(prefix).filter(|_| !prefix.is_empty());
    if let Some(rest) = stripped.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        // Some proxies tell the prefix and leave it on.
        if !base.trim_end_matches('/').ends_with(prefix) {
            base = format!("{}{prefix}", base.trim_end_matches('/'));
        }
        let path = if rest.is_empty() { "/" } else { rest };
        if let Ok(uri) = path.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
    }
    if !base.is_empty() {
        request.extensions_mut().insert(Base(format!("{}/", base.trim_end_matches('/'))));
    }
    request.map(axum::body::Body::new)
}

/// Whether a header's text may stand in the page as a path of this origin.
fn is_plain_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    path.starts_with('/') && !path.contains("//") && path.chars().all(plain)
}

/// Refuses what nobody needs, and puts the headers on that keep a page to itself.
async fn guard(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.to_str().ok()).and_then(|l| l.parse::<u64>().ok());
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let mut response = if chunked || length.is_some_and(|length| length > BODY_MAX) {
        StatusCode::PAYLOAD_TOO_LARGE.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'self'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn content(kind: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn index(base: Option<Extension<Base>>) -> Response {
    let page = match base {
        Some(Extension(Base(base))) => INDEX.replace(BASE, &format!("<base href=\"{base}\">")),
        None => INDEX.to_owned(),
    };
    content("text/html; charset=utf-8", page)
}

fn file(kind: &'static str, text: &'static str) -> std::future::Ready<Response> {
    let kind = [(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))];
    std::future::ready((kind, text).into_response())
}

async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    Json(Status::of(&app.shared, &app.addrs))
}

async fn leader(State(app): State<Arc<App>>) -> Response {
    let routes = app.shared.routes.borrow().clone();
    match &routes.write {
        Ok(leader) => Json(json!({
            "name": leader.name,
            "term": leader.term,
            "host": leader.address.host,
            "port": leader.address.port,
        }))
        .into_response(),
        Err(why) => {
            let why = json!({ "error": why.to_string() });
            (StatusCode::SERVICE_UNAVAILABLE, Json(why)).into_response()
        }
    }
}

/// Whether this router may be given connections: its view is fresh, and it isn't stopping.
async fn health(State(app): State<Arc<App>>) -> Response {
    let status = Status::of(&app.shared, &app.addrs);
    let healthy = !status.freshness.stale && status.router.phase == "running";
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "healthy": healthy,
        "phase": status.router.phase,
        "freshness": status.freshness,
    });
    (code, Json(body)).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = metrics::text(&Status::of(&app.shared, &app.addrs));
    content("text/plain; version=0.0.4; charset=utf-8", text)
}

async fn csv(State(app): State<Arc<App>>) -> Response {
    content("text/plain; charset=utf-8", csv::text(&Status::of(&app.shared, &app.addrs)))
}
