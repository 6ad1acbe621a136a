//! Cancel requests: to the server that holds the backend, or to all when nobody knows.
//! Leaves remembering keys to `registry`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::connect::connect;
use crate::shared::Shared;
use crate::table::Port;
use crate::topology::HostPort;
use crate::wire::cancel_key;

/// PostgreSQL closes as soon as it has sent the signal.
const PATIENCE: Duration = Duration::from_secs(2);

/// Forwards a cancel request, and returns when the servers have dealt with it: a client may take
/// the close of its connection as that sign.
pub(crate) async fn forward(shared: &Arc<Shared>, port: Port, request: &[u8]) {
    let servers = match shared.registry.find_key(cancel_key(request)) {
        Some(server) => {
            shared.stats.cancels_routed.fetch_add(1, Relaxed);
            HashSet::from([server])
        }
        // The key of a session whose login was encrypted, or another router's.
        None => {
            shared.stats.cancels_broadcast.fetch_add(1, Relaxed);
            let mut servers = shared.registry.servers(port);
            let routes = shared.routes.borrow().clone();
            servers.extend(routes.targets(port).iter().map(|target| target.address.clone()));
            servers
        }
    };
    join_all(servers.iter().map(|server| deliver(shared, server, request))).await;
}

async fn deliver(shared: &Shared, server: &HostPort, request: &[u8]) {
    let delivery = async {
        let mut stream = connect(shared, server, shared.config.connect_timeout).await?;
        stream.write_all(request).await?;
        stream.read(&mut [0; 1]).await
    };
    match timeout(PATIENCE, delivery).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%server, %error, "a cancel request wasn't delivered"),
        Err(_) => tracing::debug!(%server, "a cancel request wasn't answered in time"),
    }
}
