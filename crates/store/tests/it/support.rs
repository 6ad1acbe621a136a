//! Servers to test against: the embedded one in this process, etcd as a child process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgherd_store::embedded::{Listen, ServeError, Server};
use pgherd_store::{Client, Endpoint, Options};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const WITHIN: Duration = Duration::from_secs(5);

/// An embedded server that runs in this process.
pub struct Embedded {
    pub address: SocketAddr,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Embedded {
    pub async fn start(dir: &Path) -> Self {
        Self::start_at(dir, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(dir: &Path, address: SocketAddr) -> Self {
        let server = Server::open(dir.join("data")).unwrap();
        let socket = dir.join("store.sock");
        let listen = Listen::unix(&socket).await.unwrap().and_tcp(address).await.unwrap();
        let address = listen.tcp_address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(listen, async {
            let _ = stopped.await;
        }));
        Self { address, socket, stop: Some(stop), task }
    }

    pub fn endpoint(&self) -> Endpoint {
        self.address.to_string().parse().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(Options::new(vec![self.endpoint()]))
    }

    pub fn unix_client(&self) -> Client {
        let endpoint = format!("unix://{}", self.socket.display()).parse().unwrap();
        Client::new(Options::new(vec![endpoint]))
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap().unwrap();
    }

    /// Ends it without a shutdown.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A real etcd of one member, with short election timeouts so that leases of 1 s are granted.
pub struct Etcd {
    pub child: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program from a variable or the PATH; without it the caller skips loudly.
pub fn find(variable: &str, name: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    });
    if found.is_none() {
        eprintln!("skipped: no {name}; install it, or name it in {variable}");
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    pub async fn start_with(more: &[&str]) -> Option<Self> {
        let program = find("PGHERD_ETCD", "etcd")?;
        let peer = free_port();
        let etcd = Self::spawn(&program, "one", peer, &[("one", peer)], more);
        etcd.client().status(Duration::from_secs(20)).await.unwrap();
        Some(etcd)
    }

    pub async fn start_three() -> Option<Vec<Self>> {
        let program = find("PGHERD_ETCD", "etcd")?;
        let all = ["one", "two", "three"].map(|name| (name, free_port()));
        let members: Vec<_> =
            all.iter().map(|(name, peer)| Self::spawn(&program, name, *peer, &all, &[])).collect();
        for member in &members {
            member.client().status(Duration::from_secs(20)).await.unwrap();
        }
        Some(members)
    }

    fn spawn(
        program: &Path,
        name: &str,
        peer: u16,
        cluster: &[(&str, u16)],
        more: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let (url, peer) = (format!("http://{address}"), format!("http://127.0.0.1:{peer}"));
        let cluster: Vec<_> =
            cluster.iter().map(|(name, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
        let child = Command::new(program)
            .args(["--name", name, "--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, _dir: dir }
    }

    pub fn endpoint(&self) -> Endpoint {
        self.address.parse().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(Options::new(vec![self.endpoint()]))
    }
}
