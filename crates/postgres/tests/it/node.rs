//! A node for tests: a server in a temporary directory, with peers, short questions and timings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgherd_config::Lifecycle;
use pgherd_core::postgres::{
    PgOp, PgOpResult, PgRole, PgState, PrimaryFacts, ReplicaFacts, RunningFacts, Source, SyncNames,
    Upstream,
};
use pgherd_core::{NodeName, Term, Time};
use pgherd_guard::{Guard, NEVER, boottime_micros, living_in, sweep};
use pgherd_postgres::{
    Address, Configuration, Credentials, Found, Peers, Secret, Server, Settings, Wanted, discover,
};
use tokio_postgres::{Client, NoTls};

pub(crate) const SUPERUSER: &str = "postgres";
pub(crate) const PASSWORD: &str = "se'cr\\et:1";

/// Names, ports and directories of one test's nodes.
pub(crate) struct Herd {
    dir: tempfile::TempDir,
    addresses: Arc<Mutex<BTreeMap<NodeName, Address>>>,
}

/// One node.
pub(crate) struct Node {
    pub(crate) server: Arc<Server>,
    pub(crate) found: Found,
    pub(crate) settings: Settings,
}

impl Herd {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), addresses: Arc::default() }
    }

    /// A place for a test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn settings(&self, name: &str) -> Settings {
        self.settings_in(name, &self.dir.path().join(name))
    }

    pub(crate) fn settings_in(&self, name: &str, dir: &Path) -> Settings {
        let node = NodeName::new(name).unwrap();
        let mut addresses = self.addresses.lock().unwrap();
        let at = addresses
            .entry(node.clone())
            .or_insert_with(|| Address { host: "127.0.0.1".into(), port: free_port() });
        let user = |name: &str| Credentials {
            username: name.into(),
            password: Secret::new(PASSWORD),
            options: BTreeMap::new(),
        };
        let pg_bin = std::env::var_os("PGHERD_TEST_PG_BIN").map(PathBuf::from);
        Settings {
            bin: discover(pg_bin.as_deref()).unwrap(),
            data_dir: dir.join("data"),
            run_dir: dir.join("run"),
            socket_dir: dir.join("socket"),
            log_file: dir.join("postgres.log"),
            listen_addresses: at.host.clone(),
            port: at.port,
            cluster_name: "it's a: test".into(),
            node,
            account: pgherd_postgres::account(),
            superuser: user(SUPERUSER),
            replication: user("replicator"),
            rewind: user("rewinder"),
            passfile: dir.join("run/pgpass"),
            config_dir: dir.join("data"),
            wanted: Wanted::same(configuration()),
            hba_networks: vec!["10.0.0.0/8".into()],
            lifecycle: Lifecycle::default(),
            guard_exe: "/proc/self/exe".into(),
            stop_bound: Duration::from_secs(20),
            start_bound: Duration::from_secs(30),
        }
    }

    /// A node that isn't there, under this host's name.
    pub(crate) fn stranger(&self, name: &str, host: String) -> NodeName {
        let node = NodeName::new(name).unwrap();
        self.addresses.lock().unwrap().insert(node.clone(), Address { host, port: 1 });
        node
    }

    pub(crate) fn peers(&self) -> Peers {
        let addresses = Arc::clone(&self.addresses);
        Arc::new(move |node| addresses.lock().unwrap().get(node).cloned())
    }

    pub(crate) async fn open(&self, settings: Settings) -> Node {
        let (server, found) = Server::open(settings.clone(), self.peers()).await.unwrap();
        Node { server: Arc::new(server), found, settings }
    }

    pub(crate) async fn node(&self, name: &str) -> Node {
        self.open(self.settings(name)).await
    }

    /// A running primary with this list.
    pub(crate) async fn primary(&self, name: &str, names: &[&str]) -> Node {
        self.primary_of(self.settings(name), names).await
    }

    async fn primary_of(&self, settings: Settings, names: &[&str]) -> Node {
        let node = self.open(settings).await;
        node.done(PgOp::Init).await;
        node.arm_for_ever();
        node.done(PgOp::StartPrimary { names: list(names) }).await;
        node
    }

    /// A running primary that keeps hardly any WAL, whoever needs it: [`Node::until_wal_is_lost`].
    pub(crate) async fn primary_with_little_wal(&self, name: &str) -> Node {
        let mut settings = self.settings(name);
        let little =
            [("max_slot_wal_keep_size", "16MB"), ("wal_keep_size", "0"), ("max_wal_size", "32MB")];
        for (name, value) in little {
            settings.wanted.primary.parameters.insert(name.into(), value.into());
        }
        self.primary_of(settings, &[]).await
    }

    /// A replica of `source`, streaming.
    pub(crate) async fn replica(&self, name: &str, source: &Node) -> Node {
        self.replica_of(self.node(name).await, source).await
    }

    /// The same, of a node that is there.
    pub(crate) async fn replica_of(&self, node: Node, source: &Node) -> Node {
        let upstream = source.settings.node.clone();
        source.done(PgOp::EnsureSlots { nodes: vec![node.settings.node.clone()] }).await;
        node.done(PgOp::Clone { source: Source::Leader(upstream.clone()) }).await;
        node.done(PgOp::StartReplica { upstream: Some(Upstream::Leader(upstream)) }).await;
        node.until_streaming().await;
        node
    }
}

/// Small, quick, and with fewer connections than PostgreSQL's default.
pub(crate) fn configuration() -> Configuration {
    let texts = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Configuration {
        parameters: texts(&[("shared_buffers", "16MB"), ("fsync", "off")]),
        command_line: texts(&[("max_connections", "30")]),
        ..Configuration::default()
    }
}

impl Node {
    pub(crate) fn arm_for_ever(&self) {
        assert!(self.server.arm(Term(1), Time(NEVER)));
    }

    pub(crate) async fn execute(&self, op: PgOp) -> PgOpResult {
        let begin = Instant::now();
        let words = format!("{op:?}");
        let result = self.server.execute(op).await;
        eprintln!("    {:>6} ms {}: {words}", begin.elapsed().as_millis(), self.settings.node);
        result
    }

    pub(crate) async fn done(&self, op: PgOp) {
        let words = format!("{op:?}");
        let result = self.execute(op).await;
        let log = std::fs::read_to_string(&self.settings.log_file).unwrap_or_default();
        assert_eq!(result, PgOpResult::Done, "{words} on {}\n{log}", self.settings.node);
    }

    pub(crate) async fn state(&self) -> PgState {
        self.server.facts(Time(boottime_micros())).await.state
    }

    pub(crate) async fn running(&self) -> RunningFacts {
        let state = self.state().await;
        let PgState::Running(facts) = state else {
            panic!("{} isn't running: {state:?}", self.settings.node)
        };
        facts
    }

    pub(crate) async fn as_primary(&self) -> PrimaryFacts {
        match self.running().await.role {
            PgRole::Primary(facts) => facts,
            PgRole::Replica(other) => panic!("{} is a replica: {other:?}", self.settings.node),
        }
    }

    pub(crate) async fn as_replica(&self) -> ReplicaFacts {
        match self.running().await.role {
            PgRole::Replica(facts) => facts,
            PgRole::Primary(other) => panic!("{} is a primary: {other:?}", self.settings.node),
        }
    }

    pub(crate) async fn until_streaming(&self) {
        self.until("streaming", async || self.as_replica().await.streaming).await;
    }

    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let begin = Instant::now();
        while !condition().await {
            let state = self.state().await;
            if begin.elapsed() > Duration::from_secs(20) {
                let log = std::fs::read_to_string(&self.settings.log_file).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(20).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                let log = last.join("\n");
                panic!("{}: not within 20 s: {what}; {state:?}\n{log}", self.settings.node);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes until none of its slots has what it needs.
    pub(crate) async fn until_wal_is_lost(&self) {
        let lost = async || {
            self.sql("SELECT pg_logical_emit_message(true, '', 'x'), pg_switch_wal()").await;
            self.sql("CHECKPOINT").await;
            self.sql("SELECT bool_and(wal_status = 'lost') FROM pg_replication_slots").await == "t"
        };
        self.until("lost", lost).await;
    }

    /// A client's connection over TCP, as an application has it.
    pub(crate) async fn client(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.settings.port).user(SUPERUSER).password(PASSWORD);
        config.dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub(crate) async fn sql(&self, query: &str) -> String {
        let client = self.client().await;
        let messages = client.simple_query(query).await.unwrap();
        let cell = |message: &tokio_postgres::SimpleQueryMessage| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(str::to_owned)
        };
        messages.iter().find_map(cell).unwrap_or_default()
    }

    /// Pids of everything that lives in the data directory.
    pub(crate) fn living(&self) -> Vec<i32> {
        living_in(&self.settings.data_dir)
    }

    pub(crate) fn postmaster(&self) -> i32 {
        let path = self.settings.data_dir.join("postmaster.pid");
        std::fs::read_to_string(path).unwrap().lines().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    /// Whatever went wrong: nothing of a test outlives it.
    fn drop(&mut self) {
        if let Ok(Some(guard)) = Guard::adopt(&self.settings.run_dir) {
            guard.kill();
        }
        let _ = sweep(&self.settings.data_dir, Duration::from_secs(5));
    }
}

impl Node {
    /// The agent ends and PostgreSQL goes on; returns when the agent has let go of everything.
    pub(crate) async fn agent_ends(mut self) -> Settings {
        let settings = self.settings.clone();
        // Nothing for drop to kill.
        self.settings.run_dir = PathBuf::from("/nonexistent");
        self.settings.data_dir = PathBuf::from("/nonexistent");
        drop(self);
        let lock = std::fs::File::open(settings.data_dir.with_extension("lock")).unwrap();
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        settings
    }
}

pub(crate) fn list(names: &[&str]) -> SyncNames {
    let names: Vec<_> = names.iter().map(|name| NodeName::new(name).unwrap()).collect();
    SyncNames { count: u32::from(!names.is_empty()), names }
}

/// A port that was free a moment ago; each test process counts on from its own start.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = NEXT.fetch_add(1, Ordering::SeqCst);
        let base = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", base + offset)).is_ok() {
            return base + offset;
        }
    }
}

/// The environment variable that names a small file system, where there is one.
pub(crate) const SMALL: &str = "PGHERD_TEST_SMALL_FS";

/// The small file system, for one test alone.
pub(crate) struct Small {
    pub(crate) path: PathBuf,
    _mine: tokio::sync::MutexGuard<'static, ()>,
}

/// Empty, whatever a test before left that failed. `None`, and said loudly, where there is none.
pub(crate) async fn small_file_system() -> Option<Small> {
    static MINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let Some(path) = std::env::var_os(SMALL).map(PathBuf::from) else {
        eprintln!("    SKIPPED: no small file system (not started by root)");
        return None;
    };
    let mine = MINE.lock().await;
    for left in std::fs::read_dir(&path).unwrap() {
        let left = left.unwrap().path();
        if left.is_dir() {
            std::fs::remove_dir_all(left).unwrap();
        } else {
            std::fs::remove_file(left).unwrap();
        }
    }
    Some(Small { path, _mine: mine })
}

/// A tmpfs of 150 MB, which only root can make.
pub(crate) struct SmallFileSystem(pub(crate) PathBuf);

impl SmallFileSystem {
    pub(crate) fn mount(uid: u32, gid: u32) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("pgherd-small").tempdir().unwrap().keep();
        let options = format!("size=150m,uid={uid},gid={gid},mode=0700");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).status();
        let mounted = mounted.is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}
