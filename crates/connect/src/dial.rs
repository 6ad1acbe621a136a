//! The attempts that `sslmode` means: with TLS, without, or one after the other.
//! Leaves how long they may take to the caller.

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Connection, Socket};

use crate::Error;
use crate::security::{Mode, Security};
use crate::stream::{Handshakes, Secured};

/// What drives the connection; to be polled until it ends.
pub type Driver = Connection<Socket, Secured<Socket>>;

/// Connects.
///
/// # Errors
/// [`Error`] of the files, the way, or the server.
pub async fn connect(config: &Config, security: &Security) -> Result<(Client, Driver), Error> {
    let unix = |host: &Host| matches!(host, Host::Unix(_));
    // As in libpq, no TLS over a socket of the own machine.
    let local = config.get_hosts().iter().all(unix) && config.get_hostaddrs().is_empty();
    let mode = if local { Mode::Disable } else { security.mode };
    let (first, second) = match mode {
        Mode::Disable => (SslMode::Disable, None),
        Mode::Allow => (SslMode::Disable, Some(SslMode::Require)),
        Mode::Prefer => (SslMode::Prefer, Some(SslMode::Disable)),
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => (SslMode::Require, None),
    };
    match (attempt(config, security, first).await, second) {
        (Err(error), Some(second)) if otherwise(&error) => attempt(config, security, second).await,
        (outcome, _) => outcome,
    }
}

async fn attempt(
    config: &Config,
    security: &Security,
    mode: SslMode,
) -> Result<(Client, Driver), Error> {
    let mut config = config.clone();
    config.ssl_mode(mode).channel_binding(security.binding);
    config.ssl_negotiation(security.negotiation);
    let loader = security.clone();
    let tls = if mode == SslMode::Disable { Security::none() } else { loader };
    let loaded = tokio::task::spawn_blocking(move || tls.load()).await;
    let loaded = loaded.map_err(|error| Error::Unfit(error.to_string()))??;
    // Boxed: it is large, and part of every operation.
    Ok(Box::pin(config.connect(Handshakes(loaded))).await?)
}

/// The other way, without TLS or with it, may be let in: `pg_hba.conf` refused this one, or the
/// handshake failed.
fn otherwise(error: &Error) -> bool {
    let Some(error) = error.of_server() else { return false };
    if let Some(code) = error.code() {
        return *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    }
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}
