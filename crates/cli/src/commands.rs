//! The commands that become one of the cluster's processes: agent, router, store.
//! Each gives up root first, then reads its file, then starts threads.

pub(crate) mod agent;
pub(crate) mod check_config;
pub(crate) mod explain_config;
pub(crate) mod exporter;
pub(crate) mod generate_config;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod replay;
pub(crate) mod router;
pub(crate) mod store;

use std::future::Future;

use anyhow::Context;
use pgherd_config::LogSettings;
use tokio::signal::unix::{SignalKind, signal};

use crate::log::Log;
use crate::output::{Outcome, Printer};
use crate::{log, privilege};

/// `pgherd version`.
pub(crate) fn version() -> Outcome {
    Ok(Printer::new().line(format_args!("pgherd {}", env!("CARGO_PKG_VERSION")))?)
}

/// Becomes whom it is to run as, and ties itself to its parent when that is wanted.
fn settle_down(user: &str, with_parent: bool) -> Outcome {
    privilege::drop_root(user)?;
    if with_parent { privilege::follow_parent() } else { Ok(()) }
}

/// Log lines to standard error. `RUST_LOG` says how many.
fn start_logging() -> Log {
    log::start(&LogSettings::default(), "pgherd.log")
}

/// Runs `work` on a runtime with a few threads.
fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime can't be started")?.block_on(work)
}

/// Completes at the first SIGTERM or SIGINT.
fn asked_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
