//! Finding a server for a new connection: choose, connect, try the next, wait for the topology.
//! Leaves what is said to client and server to `session`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::registry::Seat;
use crate::shared::{Phase, Shared, reached};
use crate::socket::tune_server;
use crate::stats::Held;
use crate::table::{Port, ReadSource, Routes, Target};
use crate::topology::HostPort;

/// A server that refused is asked again after this: PostgreSQL opens its port a moment after its
/// agent has said so.
const RETRY: Duration = Duration::from_millis(100);

/// Why a connection got no server.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoServer {
    #[error("{0}")]
    InTime(String),
    #[error("{what}, and {waiting} connections wait already")]
    TooManyWait { what: String, waiting: usize },
    #[error("the client left while it waited")]
    ClientGone,
    #[error("the router is shutting down")]
    Stopping,
}

/// Ready when the client has closed. A client that sends something meanwhile is alive, and is
/// looked at no more.
async fn gone(client: &TcpStream) {
    match client.peek(&mut [0; 1]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// One connection's search for a server; it goes on when the server is lost before its first word.
pub(crate) struct Search<'a> {
    shared: &'a Arc<Shared>,
    port: Port,
    peer: SocketAddr,
    routes: watch::Receiver<Arc<Routes>>,
    /// Of all the waiting together.
    deadline: Instant,
    held: Option<Held>,
    failure: Option<String>,
    /// Broke off just now: whoever else there is comes first.
    lost: Option<Arc<Target>>,
}

impl<'a> Search<'a> {
    /// Begins one; the time that it may take counts from now.
    pub(crate) fn begin(shared: &'a Arc<Shared>, port: Port, peer: SocketAddr) -> Self {
        Self {
            shared,
            port,
            peer,
            routes: shared.routes.subscribe(),
            deadline: Instant::now() + shared.config.hold,
            held: None,
            failure: None,
            lost: None,
        }
    }

    /// A connection to the server and the session's seat; or why not.
    pub(crate) async fn find(&mut self, client: &TcpStream) -> Result<(TcpStream, Seat), NoServer> {
        let mut phase = self.shared.phase.subscribe();
        let found = tokio::select! {
            biased;
            found = self.run() => found,
            () = reached(&mut phase, Phase::Draining) => Err(NoServer::Stopping),
            () = gone(client) => Err(NoServer::ClientGone),
        };
        self.held = None;
        found
    }

    /// Notes that the server that was found has broken off.
    pub(crate) fn broke_off(&mut self, target: &Arc<Target>) {
        let Target { name, address, .. } = &**target;
        self.failure = Some(format!("{name} ({address}) broke off before it answered"));
        self.lost = Some(Arc::clone(target));
    }

    async fn run(&mut self) -> Result<(TcpStream, Seat), NoServer> {
        loop {
            let routes = self.routes.borrow_and_update().clone();
            let candidates = self.shared.candidates(&routes, self.port);
            let mut withdrawn = false;
            let lost = self.lost.take();
            for target in candidates.iter().filter(|target| lost.as_ref() != Some(*target)) {
                match self.try_target(target).await {
                    Attempt::Joined(stream, seat) => return Ok((stream, seat)),
                    Attempt::Failed => {}
                    Attempt::Withdrawn => {
                        withdrawn = true;
                        break;
                    }
                }
            }
            if withdrawn {
                tokio::task::yield_now().await;
                continue;
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Err(NoServer::InTime(self.known(&routes)));
            }
            if self.held.is_none() {
                self.held = Some(self.hold(&routes)?);
            }
            // Without candidates only a change of the routes helps.
            let retry = if candidates.is_empty() { self.deadline } else { now + RETRY };
            tokio::select! {
                _ = self.routes.changed() => {}
                () = sleep_until(retry.min(self.deadline).into()) => {}
            }
        }
    }

    fn hold(&self, routes: &Routes) -> Result<Held, NoServer> {
        let limit = self.shared.config.max_held;
        self.shared
            .stats
            .hold(self.port, limit)
            .ok_or_else(|| NoServer::TooManyWait { what: self.known(routes), waiting: limit })
    }

    async fn try_target(&mut self, target: &Arc<Target>) -> Attempt {
        let begun = Instant::now();
        let left = self.deadline.saturating_duration_since(begun);
        let patience = self.shared.config.connect_timeout.min(left.max(RETRY));
        let connected = tokio::select! {
            connected = connect(self.shared, &target.address, patience) => connected,
            () = withdrawn(&mut self.routes, self.port, target) => return Attempt::Withdrawn,
        };
        match connected {
            Ok(stream) => {
                let took = begun.elapsed();
                let seat = self.shared.registry.admit(self.port, target, self.peer, took);
                seat.map_or(Attempt::Withdrawn, |seat| Attempt::Joined(stream, seat))
            }
            Err(error) => {
                self.shared.registry.connect_failed(self.port, &target.name);
                tracing::debug!(port = %self.port, server = %target.name, %error, "connect failed");
                let Target { name, address, .. } = &**target;
                self.failure = Some(format!("{name} ({address}) can't be reached: {error}"));
                Attempt::Failed
            }
        }
    }

    /// What is known about why there is no server, as a sentence for the client.
    fn known(&self, routes: &Routes) -> String {
        let (routed, lasted) = self.shared.history().primary_for();
        let since = lasted.as_secs();
        match (self.port, &routes.write) {
            (Port::Write, Err(why)) => format!("no primary since {since} s: {why}"),
            (Port::Read, Err(why)) if routes.read_source == ReadSource::Nobody => {
                format!("no replica to read from, and no primary since {since} s: {why}")
            }
            (Port::Read, Ok(_)) if routes.read_source == ReadSource::Nobody => {
                "no replica to read from: none streams within the lag limit".to_owned()
            }
            (_, _) => {
                let failure = self.failure.as_deref().unwrap_or("the server can't be reached");
                let what = if routed { "the cluster has a primary" } else { "no primary" };
                format!("{what}, but {failure}")
            }
        }
    }
}

enum Attempt {
    Joined(TcpStream, Seat),
    Failed,
    /// The topology has moved on: choose again.
    Withdrawn,
}

/// Ready when the routes no longer contain the target.
async fn withdrawn(routes: &mut watch::Receiver<Arc<Routes>>, port: Port, target: &Arc<Target>) {
    let gone = |routes: &Arc<Routes>| {
        let fallback = routes.write.as_ref().is_ok_and(|primary| primary == target);
        !fallback && !routes.targets(port).contains(target)
    };
    if routes.wait_for(gone).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Connects to a server's addresses one after the other, all within `patience`.
pub(crate) async fn connect(
    shared: &Shared,
    server: &HostPort,
    patience: Duration,
) -> io::Result<TcpStream> {
    let attempt = async {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in shared.resolver.resolve(server).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    };
    let stream = timeout(patience, attempt).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} ms", patience.as_millis());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    });
    let stream = stream.inspect_err(|_| shared.resolver.forget(server))?;
    tune_server(&stream)?;
    Ok(stream)
}
