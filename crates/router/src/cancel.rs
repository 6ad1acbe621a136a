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
use crate::topology::{HostPort, MemberRoute, Role};
use crate::wire::cancel_key;

/// PostgreSQL closes as soon as it has sent the signal.
const PATIENCE: Duration = Duration::from_secs(2);
/// An agent looks at PostgreSQL each 100 ms.
const ASKING: Duration = Duration::from_millis(500);

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
    join_all(servers.iter().map(|server| async move {
        if !is_kept(shared, server, request).await {
            deliver(shared, server, request).await;
        }
    }))
    .await;
}

/// Whether the request would end a wait for replicas: PostgreSQL would answer success, with a warning,
/// for a commit that only this server has. Who can't be asked is sent the request: a query that
/// nobody can stop is worse, and a wait that was cancelled is counted by the agent.
async fn is_kept(shared: &Shared, server: &HostPort, request: &[u8]) -> bool {
    let topology = shared.applied();
    if !shared.config.keeps_sync_waits || topology.sync_mode == "off" {
        return false;
    }
    let key = cancel_key(request);
    let Some(&[a, b, c, d]) = key.first_chunk::<4>() else { return false };
    let pid = u32::from_be_bytes([a, b, c, d]);
    let leads = |m: &&MemberRoute| m.role == Role::Leader && m.address == *server;
    let Some(member) = topology.members.iter().find(leads) else { return false };
    let asked = timeout(ASKING, shared.witness.waits(member, pid)).await;
    let waits = asked.ok().flatten() == Some(true);
    if waits {
        shared.stats.cancels_dropped.fetch_add(1, Relaxed);
        tracing::info!(server = %member.name, pid, "a cancel request for a synchronous wait was dropped");
    }
    waits
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
