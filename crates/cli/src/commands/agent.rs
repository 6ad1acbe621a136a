//! `pgherd agent FILE`: one node.

use std::time::Duration;

use anyhow::Context;

use super::{asked_to_stop, block_on, read_settings, settle_down, start_logging};
use crate::args::FileArgs;
use crate::lock::Lock;
use crate::output::Outcome;
use crate::settings;

/// How long a predecessor that is about to end may take.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Runs the node until it is told to stop.
pub(crate) fn run(args: &FileArgs) -> Outcome {
    settle_down(&args.user, args.with_parent)?;
    let settings = read_settings(&args.file, settings::node::resolve)?;
    // The agent takes this lock itself, and doesn't wait for it.
    Lock::wait_free(&settings.run_dir.join("agent.lock"), PREDECESSOR);
    start_logging();
    block_on(async {
        let stop = asked_to_stop()?;
        Ok(Box::pin(pgherd_agent::run(settings, stop)).await.context("the agent stopped")?)
    })
}
