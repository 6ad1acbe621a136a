//! The exporter as a process: one listener, one scrape at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use http::header;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::page::{Kind, Page};
use crate::scrape::{Bounds, Scraper};
use crate::source::Source;
use crate::{agent, process};

/// Everything that an exporter needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Prometheus asks.
    pub listen: SocketAddr,
    /// The path of the page, with its slash.
    pub path: String,
    /// Which server.
    pub source: Source,
    /// How long it may take.
    pub bounds: Bounds,
    /// Collectors to leave out.
    pub without: BTreeSet<String>,
    /// The agent's page, like `http://127.0.0.1:8008/metrics`.
    pub agent: Option<String>,
}

struct Desk {
    scraper: Mutex<Scraper>,
    bounds: Bounds,
    agent: Option<String>,
    started: SystemTime,
}

/// Serves until `stop` completes.
///
/// # Errors
/// When it can't listen.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(settings.listen).await?;
    tracing::info!(listen = %settings.listen, server = settings.source.server(), "serving metrics");
    let Settings { path, source, bounds, without, agent, .. } = settings;
    let landing = Html(format!(
        "<html><head><title>pgherd exporter</title></head><body><h1>pgherd exporter</h1>\
         <p><a href=\"{path}\">Metrics</a></p></body></html>"
    ));
    let scraper = Mutex::new(Scraper::new(source, bounds, without));
    let desk = Arc::new(Desk { scraper, bounds, agent, started: SystemTime::now() });
    let router = Router::new()
        .route(&path, get(metrics))
        .route("/", get(move || async move { landing }))
        .route("/-/healthy", get(|| async { "pgherd exporter is healthy\n" }))
        .with_state(desk);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let mut page = Page::default();
    desk.scraper.lock().await.put(&mut page).await;
    if let Some(url) = &desk.agent {
        agent::put(&mut page, url, desk.bounds.connect).await;
    }
    process::put(&mut page, desk.started);
    let version = env!("CARGO_PKG_VERSION");
    let help = "A metric with a constant '1' value.";
    let mut build = crate::page::Family::new("pgherd_exporter_build_info", Kind::Gauge, help);
    build.put([("version", version)], 1);
    page.family(&build);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.finish())
}
