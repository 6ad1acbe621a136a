//! The shell around the core: one event loop, lanes for long work, HTTP, peers.
//!
//! [`run`] is one node: it carries what happens to the core and the core's actions to the world.
//! Deliberately absent: decisions (core), PostgreSQL's ways (postgres), the store's wire (store),
//! and reading of files and arguments (the binary).
//!
//! ```text
//! agent      the loop                        store      requests, one task each; the watch
//! event      what lanes tell it              postgres   operations, the fence, the sampler
//! board      what it shows                   peers      streams between agents
//! start      putting it together             disk       durable promises
//! schedule   switchovers that are due        http       the REST API, from the board
//! restart    restarts, now or later          copy       the cluster's settings, kept
//! reload     the configuration, read again        notify     what systemd is told
//! watch      the kernel's watchdog
//! ```
#![forbid(unsafe_code)]

mod agent;
mod board;
mod callbacks;
mod clock;
mod configuration;
mod copy;
mod disk;
mod durable;
mod event;
mod hooks;
mod http;
mod lock;
mod namesake;
mod notify;
mod patroni;
mod peers;
mod postgres;
mod record;
mod reload;
mod restart;
mod schedule;
mod slots;
mod start;
mod store;
mod tell;
mod trace;
mod waits;
mod watch;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use durable::DurableError;
pub use lock::LockError;
pub use notify::Notify;
pub use pgherd_config::{Login, Settings, StoreSettings};
pub use reload::Reread;
pub use store::options as store_options;

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent runs here.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The node's own directory.
    #[error("{} can't be made", .path.display())]
    RunDir {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The node's durable record.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// PostgreSQL's programs.
    #[error(transparent)]
    Discover(#[from] pgherd_postgres::DiscoverError),
    /// The data directory, or what runs on it.
    #[error(transparent)]
    Postgres(pgherd_postgres::PgError),
    /// The REST API's port.
    #[error("the REST API can't listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// TLS of the REST API.
    #[error("the REST API has no TLS")]
    Tls(#[from] pgherd_api::tls::TlsError),
    /// The store's address.
    #[error(transparent)]
    Endpoint(pgherd_store::InvalidEndpoint),
    /// The store's settings don't let us in.
    #[error(transparent)]
    Store(pgherd_store::Error),
    /// The handling of SIGHUP.
    #[error("SIGHUP can't be handled")]
    Signal(#[source] io::Error),
    /// Another agent has this name.
    #[error(
        "there is already a node named {name} running: its agent answers at {url}; give this one \
         another name, or stop the other"
    )]
    Namesake {
        /// The name.
        name: pgherd_core::NodeName,
        /// Where the other one answers.
        url: String,
    },
    /// The data directory is another cluster's.
    #[error(
        "system ID mismatch, node {name} belongs to a different cluster: its data directory is not \
         of the cluster that the store has; move the directory away, or correct the scope"
    )]
    ForeignData {
        /// This node.
        name: pgherd_core::NodeName,
    },
    /// The kernel's randomness.
    #[error("the system gives no random numbers")]
    Random(getrandom::Error),
    /// The runtime is going away.
    #[error("interrupted while starting")]
    Interrupted,
    /// The runtime is going away.
    #[error("the watch on the store ended for good")]
    WatchEnded,
    /// The orderly stop did not end.
    #[error("the node did not stop in order within {} s; PostgreSQL is left to its guard", .0.as_secs())]
    StopTimedOut(Duration),
}

/// Runs one node until `shutdown` completes and the node has stopped in order. SIGHUP has it read
/// its configuration again, by `reread`; `notify` hears how it goes.
///
/// # Errors
/// [`AgentError`]; PostgreSQL is left as the guard has it.
pub async fn run(
    settings: Settings,
    reread: Reread,
    notify: Notify,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    start::make_run_dir(&settings)?;
    let lock = lock::take(&settings.run_dir)?;
    let agent = Box::pin(start::start(start::remember(settings), reread, notify)).await?;
    let result = agent.run(shutdown).await;
    drop(lock);
    result
}
