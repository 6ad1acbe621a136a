//! The router's life: bind, start, drain, stop. Owns every task; none outlives it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{RouterConfig, StartError};
use crate::shared::{Follower, Phase, Shared};
use crate::table::Port;
use crate::topology::Topology;
use crate::witness::{Nobody, Witness};
use crate::{http, listen, socket};

/// How long sessions that were told to end may take to do so.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A running router. Dropping it ends everything at once.
pub struct Router {
    shared: Arc<Shared>,
    addrs: LocalAddrs,
    /// Accept loops; each owns its sessions.
    ports: JoinSet<()>,
    /// The follower of the topology and the dashboard, needed until the sessions have ended.
    services: JoinSet<()>,
}

/// Where a router listens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalAddrs {
    /// The write port.
    pub write: Vec<SocketAddr>,
    /// The read port.
    pub read: Vec<SocketAddr>,
    /// The dashboard.
    pub http: Vec<SocketAddr>,
}

impl Router {
    /// Binds every address and starts to serve. Must be called within a tokio runtime.
    ///
    /// Connections that come before a topology was confirmed wait for it.
    ///
    /// # Errors
    /// [`StartError`] when an address can't be bound, or there is none.
    pub fn start(
        config: RouterConfig,
        topology: watch::Receiver<Arc<Topology>>,
    ) -> Result<Self, StartError> {
        Self::start_with(config, topology, Arc::new(Nobody))
    }

    /// The same with somebody who knows what backends wait for: while the cluster is in a synchronous
    /// mode, a cancel request for one that waits for replicas is dropped.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        config: RouterConfig,
        topology: watch::Receiver<Arc<Topology>>,
        witness: Arc<dyn Witness>,
    ) -> Result<Self, StartError> {
        if config.write.is_empty() && config.read.is_empty() {
            return Err(StartError::NoListener);
        }
        let write = bind("write", &config.write)?;
        let read = bind("read", &config.read)?;
        let dashboard = bind("http", &config.http)?;
        let addrs =
            LocalAddrs { write: addrs(&write), read: addrs(&read), http: addrs(&dashboard) };
        socket::raise_file_limit(config.max_connections);
        let shared = Arc::new(Shared::new(config, topology, witness));
        let follower = Follower::start(&shared);
        let mut services = JoinSet::new();
        services.spawn(follower.run(Arc::clone(&shared)));
        for (listener, _) in dashboard {
            services.spawn(http::serve(Arc::clone(&shared), addrs.clone(), listener));
        }
        let mut ports = JoinSet::new();
        for (port, listeners) in [(Port::Write, write), (Port::Read, read)] {
            for (listener, _) in listeners {
                ports.spawn(listen::accept(Arc::clone(&shared), listener, port));
            }
        }
        tracing::info!(?addrs, "the router listens");
        Ok(Self { shared, addrs, ports, services })
    }

    /// The addresses that were bound, with the ports that the system chose for port 0.
    #[must_use]
    pub fn local_addrs(&self) -> &LocalAddrs {
        &self.addrs
    }

    /// Takes no new connections, lets sessions go on for at most `drain`, then ends them.
    /// Connections that wait for a server are told at once.
    pub async fn shutdown(mut self, drain: Duration) {
        self.shared.phase.send_replace(Phase::Draining);
        if timeout(drain, finished(&mut self.ports)).await.is_err() {
            let closed = self.shared.registry.close_all();
            tracing::info!(closed, "sessions closed because the router stops");
            if timeout(END_PATIENCE, finished(&mut self.ports)).await.is_err() {
                self.ports.shutdown().await;
            }
        }
        self.shared.phase.send_replace(Phase::Stopped);
        if timeout(END_PATIENCE, finished(&mut self.services)).await.is_err() {
            self.services.shutdown().await;
        }
    }
}

async fn finished(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the router ended by a defect");
        }
    }
}

type Bound = Vec<(TcpListener, SocketAddr)>;

fn bind(service: &'static str, addresses: &[SocketAddr]) -> Result<Bound, StartError> {
    let bind_one = |address: &SocketAddr| {
        let listener = socket::listen(service, *address, addresses)?;
        let local = listener.local_addr().map_err(|source: io::Error| StartError::Bind {
            service,
            address: *address,
            source,
        })?;
        Ok((listener, local))
    };
    addresses.iter().map(bind_one).collect()
}

fn addrs(bound: &Bound) -> Vec<SocketAddr> {
    bound.iter().map(|(_, address)| *address).collect()
}
