//! Serving: accepts connections, looks for expired leases, stops when it is told or when the disk
//! fails. Owns every task that it starts. Leaves the calls to `service`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch as latest;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Server;
use super::journal::JournalError;
use super::listen::Listen;
use super::service::Service;
use crate::error::with_causes;
use crate::tasks::Tasks;

/// How often expired leases are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long calls that are running may take after the server was told to stop.
const GRACE: Duration = Duration::from_secs(1);
/// After a failed accept (out of file descriptors, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why serving ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nothing to listen on.
    #[error("the store has neither a Unix socket nor a TCP address to listen on; give it one")]
    NoListener,
    /// The disk failed.
    #[error(transparent)]
    Journal(Arc<JournalError>),
    /// The thread that writes died: a defect of pgherd, not of the disk.
    #[error("the store's writer died; start the store again, and report this with its log")]
    WriterDied,
}

impl Server {
    /// Serves until `shutdown` is done, lets running calls finish for a second, closes the file.
    /// Dropping this future stops at once, which loses nothing that was answered.
    ///
    /// # Errors
    /// [`ServeError`]: it can't go on.
    pub async fn run(
        mut self,
        mut listen: Listen,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let (unix, tcp) = (listen.unix.take(), listen.tcp.take());
        if unix.is_none() && tcp.is_none() {
            return Err(ServeError::NoListener);
        }
        let client_urls = tcp.iter().filter_map(|tcp| tcp.local_addr().ok());
        let client_urls = client_urls.map(|address| format!("http://{address}")).collect();
        let (stop, stopped) = latest::channel(false);
        let service = Service {
            shared: self.shared.clone(),
            queue: self.writer.queue(),
            stop: stopped,
            client_urls,
        };
        let mut connections = JoinSet::new();
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            error = self.writer.failed() => {
                Err(error.map_or(ServeError::WriterDied, ServeError::Journal))
            }
            () = accept_all(unix, tcp, &service, &mut connections) => Ok(()),
            () = expire(&service) => Ok(()),
        };
        // The socket's file goes with its listener, before another server can put its own there.
        drop(listen);
        // An error would mean that no connection is left.
        let _ = stop.send(true);
        let finished = timeout(GRACE, async { while connections.join_next().await.is_some() {} });
        if finished.await.is_err() {
            tracing::info!(open = connections.len(), "store connections were cut off");
        }
        drop(connections);
        // Closing waits for the sync that may be running.
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::error!("closing the store panicked");
        }
        outcome
    }
}

async fn expire(service: &Service) {
    let mut ticks = interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        service.expire_leases();
    }
}

async fn accept_all(
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
    service: &Service,
    connections: &mut JoinSet<()>,
) {
    loop {
        let accepted = tokio::select! {
            Some(accepted) = accept_unix(unix.as_ref()) => {
                accepted.map(|stream| connections.spawn(serve(stream, service.clone())))
            }
            Some(accepted) = accept_tcp(tcp.as_ref()) => {
                accepted.map(|stream| connections.spawn(serve(stream, service.clone())))
            }
            Some(_) = connections.join_next() => continue,
        };
        if let Err(error) = accepted {
            tracing::warn!(error = with_causes(&error), "could not accept a store connection");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn accept_unix(
    listener: Option<&UnixListener>,
) -> Option<io::Result<tokio::net::UnixStream>> {
    match listener {
        Some(listener) => Some(listener.accept().await.map(|(stream, _)| stream)),
        None => std::future::pending().await,
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> Option<io::Result<tokio::net::TcpStream>> {
    match listener {
        Some(listener) => Some(listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        })),
        None => std::future::pending().await,
    }
}

/// One connection, until the client leaves or the server stops.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, service: Service) {
    let tasks = Tasks::default();
    let mut stopping = service.clone();
    let answer = service_fn(move |request| service.clone().call(request));
    let mut builder = http2::Builder::new(tasks.spawner());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = with_causes(&error), "store client's connection ended");
    }
}
