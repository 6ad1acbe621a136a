//! `pgherd router FILE`: write port, read port, dashboard.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pgherd_agent::Notify;
use pgherd_api::tls::{self, Trust};
use pgherd_config::rest::RestClient;
use pgherd_router::topology::Topology;
use pgherd_router::{ReadFallback, Router, RouterConfig, TermCheck};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{asked_to_stop, block_on, settle_down};
use crate::args::FileArgs;
use crate::confirm::{AgentWitness, Confirmer};
use crate::lock::Lock;
use crate::output::{Failure, Outcome, Printer, warn};
use crate::settings::node::Resolved;
use crate::settings::router::RouterSettings;
use crate::{live, log, settings, sources, topology};

/// How long an agent may take to say what backends wait for.
const ASKING: Duration = Duration::from_millis(500);

/// How long sessions may go on after the router was told to stop.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a predecessor that is about to end may take.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Runs the router until it is told to stop.
pub(crate) fn run(args: &FileArgs) -> Outcome {
    settle_down(&args.user, args.with_parent)?;
    let place = args.file.display().to_string();
    let settings = match settings::router::resolve(&sources::gather(Some(&args.file))?) {
        Ok(Resolved { value, warnings }) => {
            warn(&mut Printer::new(), &place, &warnings);
            value
        }
        Err(problems) => return Err(Failure::Refused { place, problems }),
    };
    // Only one that was started by 'pgherd up' has a successor that waits for its end.
    let lock = args.with_parent.then(|| Lock::wait(&args.file.with_extension("lock"), PREDECESSOR));
    let _lock = lock.transpose().map_err(anyhow::Error::from)?;
    let log = log::start(&settings.log, "router.log");
    let notify = Notify::of(|name| std::env::var_os(name));
    block_on(serve(settings, &args.file, log.handle(), &notify))
}

async fn serve(
    settings: RouterSettings,
    file: &Path,
    log: log::Handle,
    notify: &Notify,
) -> Outcome {
    let stop = asked_to_stop()?;
    let mut rereading = tokio::spawn(reread(file.to_owned(), settings.clone(), log)?);
    let client = live::client(&settings.store)?;
    let keys = live::keys(&settings.cluster);
    let unknown = Topology { cluster: keys.scope().to_owned(), ..Topology::default() };
    let (sender, receiver) = watch::channel(Arc::new(unknown));
    let live = live::Live::follow(&client, &keys);
    let asks = !settings.confirm_within.is_zero();
    let rest = rest(&settings)?;
    let confirmer =
        asks.then(|| Confirmer::start(&client, &keys, rest.clone(), settings.confirm_within));
    let witness = Arc::new(AgentWitness(rest.with_timeout(ASKING)));
    let mut feed = tokio::spawn(topology::feed(live, confirmer, sender));
    let router = Router::start_with(config(settings), receiver, witness);
    let router = router.context("the router can't start")?;
    notify.ready();
    let refused = tokio::select! {
        () = stop => None,
        ended = &mut feed => ended.ok().and_then(Result::err),
        // It never ends by itself.
        _ = &mut rereading => None,
    };
    notify.stopping();
    rereading.abort();
    router.shutdown(DRAIN).await;
    feed.abort();
    match refused {
        Some(error) => Err(anyhow::Error::from(error).context("the router stopped").into()),
        None => Ok(()),
    }
}

/// At each SIGHUP the file is read again: the log follows it, everything else waits for a start.
fn reread(
    file: PathBuf,
    mut settings: RouterSettings,
    log: log::Handle,
) -> Outcome<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let environment = sources::gather(Some(&file))?.environment;
    Ok(async move {
        while hangups.recv().await.is_some() {
            let read = sources::again(Some(&file), &environment);
            match read.and_then(|sources| settings::router::resolve(&sources)) {
                Ok(Resolved { value, warnings }) => {
                    for warning in warnings {
                        tracing::warn!("{warning}");
                    }
                    log.apply(&value.log);
                    settings.log = value.log.clone();
                    if settings == value {
                        tracing::info!("the settings were read again");
                    } else {
                        tracing::warn!("changed, but read at the start only: more than the log");
                    }
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!("the settings are not taken over: {problem}");
                    }
                }
            }
        }
    })
}

/// How agents are asked.
fn rest(settings: &RouterSettings) -> anyhow::Result<pgherd_api::Client> {
    let rest = pgherd_api::Client::new(settings.confirm_within);
    match tls::client(&settings.tls, Trust::Named) {
        Ok(config) => Ok(rest.with_tls(config)),
        // The system has no authorities: only who asks over HTTPS needs to know.
        Err(_) if settings.tls == RestClient::default() => Ok(rest),
        Err(error) => Err(anyhow::Error::from(error).context("the agents' TLS can't be set up")),
    }
}

fn config(settings: RouterSettings) -> RouterConfig {
    let defaults = RouterConfig::default();
    let within = u64::try_from(settings.confirm_within.as_micros()).unwrap_or(u64::MAX);
    let patience = pgherd_core::Duration(within.saturating_mul(2));
    RouterConfig {
        write: settings.write,
        read: settings.read,
        http: settings.http,
        hold: settings.hold.unwrap_or(defaults.hold),
        read_fallback: if settings.reads_fall_back {
            ReadFallback::Leader
        } else {
            ReadFallback::None
        },
        path_prefix: settings.path_prefix,
        keeps_sync_waits: settings.keeps_sync_waits,
        term_check: if within == 0 { TermCheck::Off } else { TermCheck::On { patience } },
        ..defaults
    }
}
