//! Accepting connections and owning the sessions that come of them.
//! Leaves what a session does to `session`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use crate::session::{Arrival, serve};
use crate::shared::{Phase, Shared, reached};
use crate::table::Port;

/// Connections beyond `max_connections` that are read far enough to be told so, or to cancel.
/// Those beyond even that are closed at once.
const SPARE_SLOTS: usize = 128;
/// Out of files, or of memory: sessions must end before the next accept can succeed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the router drains, then waits for the sessions to end.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, port: Port) {
    let mut sessions = JoinSet::new();
    let mut phase = shared.phase.subscribe();
    loop {
        tokio::select! {
            () = reached(&mut phase, Phase::Draining) => break,
            Some(ended) = sessions.join_next() => check(ended),
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => admit(&shared, &mut sessions, client, peer, port),
                Err(error) => {
                    shared.stats.accept_errors.fetch_add(1, Relaxed);
                    tracing::warn!(port = %port, %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = sessions.join_next().await {
        check(ended);
    }
}

fn admit(
    shared: &Arc<Shared>,
    sessions: &mut JoinSet<()>,
    client: TcpStream,
    peer: std::net::SocketAddr,
    port: Port,
) {
    let stats = &shared.stats;
    stats.port(port).connected(shared.second());
    match stats.take_slot(shared.config.max_connections, SPARE_SLOTS) {
        Some((slot, admitted)) => {
            let arrival = Arrival { client, peer, port, slot, admitted };
            sessions.spawn(serve(Arc::clone(shared), arrival));
        }
        None => {
            stats.port(port).refused_connection_limit.fetch_add(1, Relaxed);
        }
    }
}

fn check(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session ended by a defect of the router");
    }
}
