//! `pgherd exporter`: metrics of one PostgreSQL, under the names of postgres_exporter.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use pgherd_exporter::{Bounds, Settings, Source, collector_names};

use super::{asked_to_stop, start_logging};
use crate::output::{Failure, Outcome};
use crate::privilege;
use crate::settings::parse;

/// The server is named by `DATA_SOURCE_NAME`, or `DATA_SOURCE_URI`, `DATA_SOURCE_USER` and
/// `DATA_SOURCE_PASS`, each also as a file (`..._FILE`).
#[derive(Args, Debug)]
pub(crate) struct ExporterArgs {
    /// Where Prometheus asks
    #[arg(
        long = "web.listen-address",
        env = "PG_EXPORTER_WEB_LISTEN_ADDRESS",
        value_name = "ADDR",
        default_value = ":9187"
    )]
    listen: String,
    /// The path of the metrics
    #[arg(
        long = "web.telemetry-path",
        env = "PG_EXPORTER_WEB_TELEMETRY_PATH",
        value_name = "PATH",
        default_value = "/metrics"
    )]
    path: String,
    /// Leave out what pg_settings says
    #[arg(long, env = "PG_EXPORTER_DISABLE_SETTINGS_METRICS")]
    disable_settings_metrics: bool,
    /// Leave out a collector; can be given again
    #[arg(long, value_name = "COLLECTOR")]
    without: Vec<String>,
    /// The agent's own metrics, to be passed on, like http://127.0.0.1:8008/metrics
    #[arg(long, env = "PGHERD_AGENT_METRICS", value_name = "URL")]
    agent_metrics: Option<String>,
    /// How long a query may take
    #[arg(long, value_name = "SECONDS", default_value = "3")]
    query_timeout: String,
    /// As root: whom to become
    #[arg(long, value_name = "USER", default_value = "postgres")]
    user: String,
}

/// Serves metrics until it is told to stop.
pub(crate) fn run(args: ExporterArgs) -> Outcome {
    privilege::drop_root(&args.user)?;
    let settings = settings(args)?;
    let _log = start_logging();
    // One thread: it waits for one server, and has little memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime can't be started")?.block_on(async {
        let stop = asked_to_stop()?;
        let at = settings.listen;
        let served = pgherd_exporter::run(settings, stop).await;
        Ok(served.with_context(|| format!("the exporter can't serve on {at}"))?)
    })
}

fn settings(args: ExporterArgs) -> Outcome<Settings> {
    let refused = |place: &str, words: String| Failure::refused(place, words);
    let listen = parse::listen(&args.listen).map_err(|wanted| {
        refused("--web.listen-address", format!("expected {wanted}, found '{}'", args.listen))
    })?;
    if !args.path.starts_with('/') || args.path == "/" {
        let words = format!("expected a path like /metrics, found '{}'", args.path);
        return Err(refused("--web.telemetry-path", words));
    }
    let query = parse::span(&args.query_timeout).map_err(|wanted| {
        refused("--query-timeout", format!("expected {wanted}, found '{}'", args.query_timeout))
    })?;
    let known = collector_names();
    if let Some(unknown) = args.without.iter().find(|name| !known.contains(&name.as_str())) {
        let words = format!("there is no collector '{unknown}', only {}", known.join(", "));
        return Err(refused("--without", words));
    }
    let source = Source::from_words(&|name| std::env::var(name).ok())
        .map_err(|error| Failure::refused("", error.to_string()))?;
    let mut without: BTreeSet<String> = args.without.into_iter().collect();
    if args.disable_settings_metrics {
        without.insert("settings".to_owned());
    }
    let connect = Duration::from_secs(2);
    // Prometheus waits for 10 s.
    let bounds = Bounds { connect, query: query.to_std(), scrape: Duration::from_secs(8) };
    Ok(Settings { listen, path: args.path, source, bounds, without, agent: args.agent_metrics })
}
