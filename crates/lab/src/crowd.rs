//! A crowd of clients that does nothing but take every connection slot there is for ordinary users.
//! It holds them until it is dropped. Leaves everybody who does something to `workload`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// More than any server of the lab takes.
const MOST: usize = 500;
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

pub(crate) struct Crowd {
    /// Drives the sessions; they end with it.
    _runtime: Runtime,
    _clients: Vec<Client>,
}

impl Crowd {
    /// Comes in until nobody more is let in. The user is one without privileges.
    pub(crate) fn fill(host: &str, port: u16) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("a runtime for the crowd")?;
        let mut config = Config::new();
        config.host(host).port(port).user("rewind").password("lab-rewind").dbname("postgres");
        config.application_name("pgherd-lab-crowd");
        let mut clients = Vec::new();
        loop {
            ensure!(clients.len() < MOST, "{MOST} clients don't fill {host}:{port}");
            let connecting =
                runtime.block_on(async { timeout(CONNECT_LIMIT, config.connect(NoTls)).await });
            match connecting.context("a server that is full says so at once")? {
                Ok((client, connection)) => {
                    runtime.spawn(async move { drop(connection.await) });
                    clients.push(client);
                }
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                    return Ok(Self { _runtime: runtime, _clients: clients });
                }
                Err(error) => return Err(error).context("a client of the crowd"),
            }
        }
    }
}
