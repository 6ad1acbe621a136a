//! `pgherd store`: the embedded store for one machine.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pgherd_store::embedded::{Listen, Server};

use super::{asked_to_stop, block_on, settle_down, start_logging};
use crate::args::StoreArgs;
use crate::lock::Lock;
use crate::output::{Failure, Outcome};

/// How long a predecessor that is about to end may take.
const PREDECESSOR: Duration = Duration::from_secs(60);
/// How long the agents may need the store when whoever started all of them has vanished.
const ORPHANS: Duration = Duration::from_secs(30);

/// Runs the store until it is told to stop.
pub(crate) fn run(args: &StoreArgs) -> Outcome {
    if args.listen.is_none() && args.socket.is_none() {
        let words = "nothing to serve on; give it --socket PATH, --listen 127.0.0.1:2379, or both";
        return Err(Failure::refused("pgherd store", words));
    }
    settle_down(&args.user, args.with_parent)?;
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("{} can't be made", args.dir.display()))?;
    let lock = Lock::wait(&args.dir.join("process.lock"), PREDECESSOR);
    let _lock = lock.map_err(anyhow::Error::from)?;
    let _log = start_logging();
    block_on(serve(args))
}

async fn serve(args: &StoreArgs) -> Outcome {
    let stop = asked_to_stop()?;
    let parent = rustix::process::getppid();
    let server = Server::open(&args.dir).context("the store can't be opened")?;
    let mut listen = Listen::default();
    if let Some(socket) = &args.socket {
        listen = listen.and_unix(socket).await.context("the store can't listen")?;
    }
    if let Some(address) = args.listen {
        listen = listen.and_tcp(address).await.context("the store can't listen")?;
    }
    let shutdown = async {
        stop.await;
        if args.with_parent && rustix::process::getppid() != parent {
            outlive(&args.outlive).await;
        }
    };
    server.run(listen, shutdown).await.context("the store stopped")?;
    Ok(())
}

/// Waits until nobody holds any of these locks: the agents let go of the leader's key before they
/// end, and need the store for that.
async fn outlive(locks: &[PathBuf]) {
    let until = tokio::time::Instant::now() + ORPHANS;
    while locks.iter().any(|lock| Lock::holder(lock).is_some()) {
        if tokio::time::Instant::now() > until {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
