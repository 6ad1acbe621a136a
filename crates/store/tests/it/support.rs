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
    /// The port for the other members.
    pub peer: u16,
    scheme: &'static str,
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
        let etcd = Self::spawn_one("http", more)?;
        etcd.client().status(Duration::from_secs(20)).await.unwrap();
        Some(etcd)
    }

    /// Not waited for: how to reach it is the caller's business.
    pub fn spawn_one(scheme: &'static str, more: &[&str]) -> Option<Self> {
        let program = find("PGHERD_ETCD", "etcd")?;
        let peer = free_port();
        Some(Self::spawn(&program, scheme, "one", peer, &[("one", peer)], more))
    }

    pub async fn start_three() -> Option<Vec<Self>> {
        let program = find("PGHERD_ETCD", "etcd")?;
        let all = ["one", "two", "three"].map(|name| (name, free_port()));
        let members: Vec<_> = all
            .iter()
            .map(|(name, peer)| Self::spawn(&program, "http", name, *peer, &all, &[]))
            .collect();
        for member in &members {
            member.client().status(Duration::from_secs(20)).await.unwrap();
        }
        Some(members)
    }

    fn spawn(
        program: &Path,
        scheme: &'static str,
        name: &str,
        peer: u16,
        cluster: &[(&str, u16)],
        more: &[&str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let url = format!("{scheme}://{address}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let cluster: Vec<_> =
            cluster.iter().map(|(name, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
        let child = Command::new(program)
            .args(["--name", name, "--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, peer, scheme, _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn endpoint(&self) -> Endpoint {
        self.url().parse().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new(Options::new(vec![self.endpoint()]))
    }
}

/// Runs etcdctl; it must be there.
pub fn etcdctl(etcd: &Etcd, args: &[&str]) {
    let program = find("PGHERD_ETCDCTL", "etcdctl").unwrap();
    let output = Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &etcd.url()])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "etcdctl {args:?}: {output:?}");
}

/// Users `root:secret` and `app:hunter2`, the latter with all rights below `prefix` only.
pub fn enable_auth(etcd: &Etcd, prefix: &str, access: &[&str]) {
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "app:hunter2"],
        &["role", "add", "app"],
        &["role", "grant-permission", "app", "--prefix=true", "readwrite", prefix],
        &["user", "grant-role", "app", "app"],
        &["auth", "enable"],
    ] {
        etcdctl(etcd, &[access, words].concat());
    }
}
