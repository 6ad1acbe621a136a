//! `pgherd agent [FILE|DIR]`: one node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pgherd_agent::Notify;

use super::{asked_to_stop, block_on, check_config, generate_config, settle_down};
use crate::args::{AgentArgs, Report};
use crate::lock::Lock;
use crate::output::{Failure, Outcome, Printer, warn};
use crate::settings::node::{Resolved, resolve};
use crate::{log, sources};

/// How long a predecessor that is about to end may take.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Runs the node until it is told to stop.
pub(crate) fn run(args: &AgentArgs) -> Outcome {
    if args.generate_sample_config {
        return Ok(Printer::new().raw(pgherd_config::SAMPLE)?);
    }
    let file = args.file.as_deref();
    if args.generate_config {
        return generate_config::run(file, args.dsn.as_deref());
    }
    if args.validate_config {
        return check_config::check(file, Report::Pretty);
    }
    settle_down(&args.user, args.with_parent)?;
    let sources = sources::gather(file)?;
    if sources.is_empty() {
        let words = "nothing says which node this is; name a settings file, or set PATRONI_SCOPE \
                     and the other variables (docs/configuration.md)";
        return Err(Failure::refused("pgherd agent", words));
    }
    let place = file.map(|file| file.display().to_string()).unwrap_or_default();
    let settings = match resolve(&sources) {
        Ok(Resolved { value, warnings }) => {
            warn(&mut Printer::new(), &place, &warnings);
            value
        }
        Err(problems) => return Err(Failure::Refused { place, problems }),
    };
    // The agent takes this lock itself, and doesn't wait for it.
    Lock::wait_free(&settings.run_dir.join("agent.lock"), PREDECESSOR);
    let notify = Notify::of(|name| std::env::var_os(name));
    sources::forget_environment();
    let log = log::start(&settings.log, "patroni.log");
    let logging = log.handle();
    let environment = sources.environment;
    let path = args.file.clone();
    // The environment is what it was at the start (contract 3.2): nobody can change a process's.
    let reread = Arc::new(move || {
        let again = sources::again(path.as_deref(), &environment)?;
        resolve(&again).map(|Resolved { value, warnings }| {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            logging.apply(&value.log);
            value
        })
    });
    block_on(async {
        let stop = asked_to_stop()?;
        Ok(Box::pin(pgherd_agent::run(settings, reread, notify, stop))
            .await
            .context("the agent stopped")?)
    })
}
