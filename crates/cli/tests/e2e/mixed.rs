//! Three nodes whose files Patroni and pgherd read alike, on a real etcd: each node's agent is one or
//! the other, and can be exchanged. Leaves what is done to them to the tests.
//!
//! Patroni is the real one, from the Python package index: `scripts/setup test` puts it below
//! `target/tools/patroni`, or `PGHERD_PATRONI` names the directory that `PYTHONPATH` gets. It runs
//! with the system's `python3`, for PostgreSQL's user must reach it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::herd::{Member, WHOLE, program};
use crate::many::{etcd_program, give, postgres_user, spawn};
use crate::processes::{free_ports, living_below, send, sweep};

const PASSWORD: &str = "e2e-superuser";
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// An agent that stops takes its PostgreSQL with it, with a checkpoint.
const STOP: Duration = Duration::from_secs(60);

/// Which agent a node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Agent {
    Patroni,
    Pgherd,
}

/// A running site; dropping it leaves nothing behind.
pub(crate) struct Mixed {
    _outer: TempDir,
    dir: PathBuf,
    patroni: PathBuf,
    store: u16,
    etcd: Option<Child>,
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    dir: PathBuf,
    postgres: u16,
    rest: u16,
    child: Option<Child>,
}

impl Node {
    fn file(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }
}

impl Mixed {
    /// Files and a store; no agent runs yet. None, with the reason, where a tool is missing.
    /// `dcs`: lines of `bootstrap.dcs`, each indented by four and ended.
    pub(crate) fn new(dcs: &str) -> Option<Self> {
        Self::with_times(&[20, 1, 3], dcs)
    }

    /// The same, with its own `ttl`, `loop_wait` and `retry_timeout`.
    pub(crate) fn with_times(times: &[u32; 3], dcs: &str) -> Option<Self> {
        let skip = |why: &str| {
            crate::say(&format!("SKIPPED: {why}"));
            None
        };
        let Some(program) = etcd_program() else {
            return skip("no etcd; install etcd-server, or name it in PGHERD_ETCD");
        };
        let Some(patroni) = patroni_library() else {
            return skip(
                "no Patroni; run scripts/setup test, or name its directory in PGHERD_PATRONI",
            );
        };
        let outer = tempfile::Builder::new().prefix("pgherd-mixed-").tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = outer.path().to_owned();
        let ports: [u16; 8] = free_ports();
        let node = |n: usize| {
            let name = format!("node{}", n + 1);
            let (postgres, rest) = (ports[2 + n], ports[5 + n]);
            Node { dir: dir.join(&name), name, postgres, rest, child: None }
        };
        let nodes = (0..3).map(node).collect();
        let [store, peer, ..] = ports;
        let mut site = Self { _outer: outer, dir, patroni, store, etcd: None, nodes };
        for node in &site.nodes {
            give(&node.dir, None);
            give(&node.file(), Some(&site.node_file(node, times, dcs)));
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program);
        command
            .args(["--name", "etcd", "--listen-client-urls", &url(store)])
            .args(["--advertise-client-urls", &url(store), "--listen-peer-urls", &url(peer)])
            .args(["--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("etcd={}", url(peer)), "--data-dir"])
            .arg(site.dir.join("etcd"));
        site.etcd = Some(spawn(&mut command, &site.dir.join("etcd.log")));
        Some(site)
    }

    pub(crate) fn start(&mut self, name: &str, agent: Agent) {
        let index = self.index(name);
        let node = &self.nodes[index];
        let mut command = match agent {
            Agent::Pgherd => {
                let mut command = Command::new(program());
                command.arg("agent");
                command
            }
            Agent::Patroni => {
                let mut command = Command::new(PYTHON);
                command.args(["-m", "patroni"]).env("PYTHONPATH", &self.patroni);
                if rustix::process::geteuid().is_root() {
                    // It has no way of its own to become another user.
                    let (uid, gid) = postgres_user();
                    command.uid(uid).gid(gid);
                }
                command
            }
        };
        command.arg(node.file()).current_dir(&node.dir);
        self.nodes[index].child =
            Some(spawn(&mut command, &self.nodes[index].dir.join("agent.log")));
    }

    /// SIGTERM, and waits for the end: PostgreSQL is stopped in order, by either agent.
    pub(crate) fn stop(&mut self, name: &str) {
        let index = self.index(name);
        let mut agent = self.nodes[index].child.take().expect("it runs");
        send(agent.id(), Signal::TERM);
        let begin = Instant::now();
        while agent.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < STOP, "{name} doesn't stop\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9 of everything on a node at once.
    pub(crate) fn kill(&mut self, name: &str) {
        let index = self.index(name);
        let node = &mut self.nodes[index];
        living_below(&node.dir).iter().for_each(|p| send(p.cast_unsigned(), Signal::KILL));
        sweep(&node.dir);
        node.child.take().expect("it ran").wait().unwrap();
    }

    /// `pgherd ctl -c FILE-OF-NODE1 WORDS`: success, and what it printed.
    pub(crate) fn ctl(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(program());
        command.args(["ctl", "-c"]).arg(self.nodes[0].file()).args(words);
        run(&mut command)
    }

    /// `pgherd check-config FILE-OF-THE-NODE`.
    pub(crate) fn check_config(&self, name: &str) -> (bool, String) {
        let mut command = Command::new(program());
        command.arg("check-config").arg(self.nodes[self.index(name)].file());
        run(&mut command)
    }

    /// The real patronictl with the same words.
    pub(crate) fn patronictl(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(PYTHON);
        command.env("PYTHONPATH", &self.patroni).env("LC_ALL", "C.UTF-8");
        command.arg(self.patroni.join("bin/patronictl"));
        command.arg("-c").arg(self.nodes[0].file()).args(words);
        run(&mut command)
    }

    #[allow(dead_code, reason = "the example of footprints needs it")]
    /// The directories of the nodes: who lives below one is of that node.
    pub(crate) fn node_dirs(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.dir.clone()).collect()
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let mut command = Command::new(program());
        command.args(["ctl", "-c"]).arg(self.nodes[0].file()).args(["list", "-f", "json"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        Member::rows(&String::from_utf8_lossy(&output.stdout))
    }

    pub(crate) fn leader(&self) -> Option<String> {
        let leads = |m: &Member| m.role == "Leader" && m.state == "running";
        self.members().into_iter().find(leads).map(|m| m.name)
    }

    /// Waits until somebody leads and so many stream.
    pub(crate) fn wait_whole(&self, replicas: usize) {
        self.wait_until("not whole", |site| Member::are_whole(&site.members(), replicas));
    }

    /// Waits until a node whose agent was restarted says that it runs: its key may still tell of the
    /// agent before.
    pub(crate) fn wait_gone_and_back(&self, name: &str) {
        let rest = self.nodes[self.index(name)].rest;
        let client = pgherd_api::Client::new(Duration::from_secs(2));
        let url = format!("http://127.0.0.1:{rest}/health");
        self.wait_until("the agent doesn't come back", |_| {
            let answer =
                crate::writer::runtime().block_on(client.request(http::Method::GET, &url, None));
            answer.is_ok_and(|answer| answer.status == http::StatusCode::OK)
        });
    }

    /// Waits until somebody leads who is wanted.
    pub(crate) fn wait_leader(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut leader = None;
        self.wait_until("nobody wanted leads", |site| {
            leader = site.leader().filter(|name| wanted(name));
            leader.is_some()
        });
        leader.unwrap_or_default()
    }

    fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < WHOLE, "{what} in {WHOLE:?}\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whichever node is the primary, as the superuser.
    pub(crate) fn primary(&self) -> Config {
        let mut config = Config::new();
        for node in &self.nodes {
            config.host("127.0.0.1").port(node.postgres);
        }
        config
            .user("postgres")
            .password(PASSWORD)
            .dbname("postgres")
            .application_name("pgherd-e2e")
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(Duration::from_millis(300));
        config
    }

    /// What a person would look at first when something is wrong.
    pub(crate) fn everything(&self) -> String {
        let (_, list) = self.ctl(&["list"]);
        let mut text = format!("--- ctl list\n{list}");
        for node in &self.nodes {
            let all = fs::read_to_string(node.dir.join("agent.log")).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {}\n{last}\n", node.name));
        }
        text
    }

    fn index(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).expect("a node of that name")
    }

    /// A file as Patroni's users have it. Nothing in it is pgherd's.
    fn node_file(&self, node: &Node, times: &[u32; 3], dcs: &str) -> String {
        let [ttl, loop_wait, retry] = times;
        let Node { name, dir, postgres, rest, .. } = node;
        let (dir, store) = (dir.display(), self.store);
        format!(
            "scope: mixed\nname: {name}\n\
             restapi:\n  listen: 127.0.0.1:{rest}\n  connect_address: 127.0.0.1:{rest}\n\
             etcd3:\n  hosts: 127.0.0.1:{store}\n\
             bootstrap:\n  dcs:\n    ttl: {ttl}\n    loop_wait: {loop_wait}\n    retry_timeout: {retry}\n{dcs}    \
               postgresql:\n      use_pg_rewind: true\n  \
               initdb:\n  - encoding: UTF8\n  - data-checksums\n\
             postgresql:\n  listen: 127.0.0.1:{postgres}\n  connect_address: 127.0.0.1:{postgres}\n  \
               data_dir: {dir}/data\n  bin_dir: {}\n  pgpass: {dir}/pgpass\n  pg_hba:\n  \
               - local all all scram-sha-256\n  \
               - host all all 127.0.0.1/32 scram-sha-256\n  \
               - host replication replicator 127.0.0.1/32 scram-sha-256\n  \
               parameters:\n    unix_socket_directories: {dir}\n  authentication:\n    \
                 superuser: {{username: postgres, password: {PASSWORD}}}\n    \
                 replication: {{username: replicator, password: e2e-replicator}}\n    \
                 rewind: {{username: rewind, password: e2e-rewind}}\n",
            postgres_programs().display()
        )
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        sweep(&self.dir);
        let agents = self.nodes.iter_mut().filter_map(|node| node.child.take());
        for mut child in agents.chain(self.etcd.take()) {
            let _ = child.wait();
        }
    }
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Where Patroni is, if the system's Python can import it there.
pub(crate) fn patroni_library() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("PGHERD_PATRONI").map(PathBuf::from);
    let dir = named.unwrap_or_else(|| root.join("target/tools/patroni"));
    let mut import = Command::new(PYTHON);
    import.args(["-c", "import patroni.dcs.etcd3, psycopg2"]).env("PYTHONPATH", &dir);
    import.output().ok()?.status.success().then_some(dir)
}

/// The directory of the newest server of Debian's packages: Patroni wants to be told.
fn postgres_programs() -> PathBuf {
    let majors = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = majors.filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let dir = entry.path().join("bin");
        dir.join("postgres").is_file().then_some((major, dir))
    });
    numbered.max().expect("Debian's PostgreSQL").1
}
