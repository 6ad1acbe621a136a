//! The shell around the core: one event loop, lanes for long work, HTTP, peers.
//!
//! [`run`] is one node: it carries what happens to the core and the core's actions to the world.
//! Deliberately absent: decisions (core), PostgreSQL's ways (postgres), the store's wire (store),
//! and reading of files and arguments (the binary).

mod settings;

use std::future::Future;

pub use settings::{Login, Settings, StoreSettings};

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {}

/// Runs one node until `shutdown` completes and the node has stopped in order.
///
/// # Errors
/// [`AgentError`]; PostgreSQL is left as the guard has it.
#[expect(clippy::unused_async, reason = "the loop follows")]
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    drop((settings, shutdown));
    Ok(())
}
