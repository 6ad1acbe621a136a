//! Many machines on one: a real etcd cluster, agents and a router, each a process of its own with the
//! file that an operator would write for it. Leaves what is done to them to the tests.
//!
//! ```ignore
//! let Some(mut site) = Site::new(&Options::default()) else { return }; // no etcd: said, skipped
//! site.start();                                    // etcd, three agents, a router; until whole
//! execute(&site.write_port(), "CREATE TABLE t ()", LIMIT);
//! let (code, out, err) = site.ctl(&["switchover", "--force"]);
//! site.stop_agent("node2");                        // SIGTERM; and start_agent("node2") again
//! site.node("node1").processes().iter().for_each(|pid| send(pid.cast_unsigned(), Signal::STOP));
//! ```
//!
//! With `Options::secure` etcd wants TLS, client certificates and a password, and the files name one
//! member only. Everything lies below one directory (`Site::dir`) and dies with the value. `Options::dcs` and
//! `Options::node` add lines to the nodes' files; [`Node::file`] can be rewritten while it runs.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgherd_store::{Client, Status, TlsFiles};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio_postgres::Config;

use crate::certificates::Certificates;
use crate::herd::{Member, WHOLE, program};
use crate::processes::{free_ports, living_below, send, sweep};
use crate::writer::{config, number_now, runtime};

const SCOPE: &str = "many";
pub(crate) const PASSWORD: &str = "e2e-superuser";
const ETCD_USER: &str = "herd";
const ETCD_PASSWORD: &str = "e2e-etcd";

/// How a site differs from the usual one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Lines of `bootstrap.dcs`, each indented by four and ended.
    pub(crate) dcs: String,
    /// Lines at the end of each node's file, top level.
    pub(crate) node: String,
    /// etcd with TLS, client certificates and authentication; one endpoint, the others are found.
    pub(crate) secure: bool,
}

/// A running site; dropping it leaves nothing behind.
pub(crate) struct Site {
    _outer: TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) etcd: Vec<Etcd>,
    pub(crate) nodes: Vec<Node>,
    router: Option<Child>,
    write: u16,
    pub(crate) read: u16,
    secure: Option<Certificates>,
    /// What agents find in their environment beside the test's own.
    pub(crate) environment: Vec<(String, String)>,
    /// Agents are started as a container's are: each below a first process of its own.
    pub(crate) first: bool,
    /// What agents and router have for `/etc/hosts`, and for a name server none that answers: nodes are
    /// called `NAME.test` then. Takes root.
    pub(crate) hosts: Option<PathBuf>,
}

/// One member of etcd.
pub(crate) struct Etcd {
    pub(crate) name: String,
    port: u16,
    peer: u16,
    child: Option<Child>,
}

/// One agent with its PostgreSQL.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) postgres: u16,
    pub(crate) rest: u16,
    agent: Option<Child>,
}

impl Node {
    /// Its settings file.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("node.yml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Agent, guard and PostgreSQL.
    pub(crate) fn processes(&self) -> Vec<i32> {
        living_below(&self.dir)
    }
}

impl Site {
    /// The files of a site; nothing runs yet. None, with the reason, where there is no etcd.
    pub(crate) fn new(options: &Options) -> Option<Self> {
        let needed: &[&str] = if options.secure { &["openssl", "etcdctl"] } else { &[] };
        let missing = needed.iter().find(|name| on_path(name).is_none());
        if let Some(name) = missing.or(etcd_program().is_none().then_some(&"etcd")) {
            crate::say(&format!("SKIPPED: no {name}; install it (scripts/setup test)"));
            return None;
        }
        let outer = tempfile::Builder::new().prefix("pgherd-many-").tempdir().unwrap();
        // PostgreSQL's user must get through when the test runs as root.
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = outer.path().to_owned();
        let ports: [u16; 14] = free_ports();
        let etcd = (0..3).map(|n| Etcd {
            name: format!("etcd{}", n + 1),
            port: ports[n],
            peer: ports[3 + n],
            child: None,
        });
        let node = |n: usize| {
            let name = format!("node{}", n + 1);
            let (postgres, rest) = (ports[6 + n], ports[9 + n]);
            Node { dir: dir.join(&name), name, postgres, rest, agent: None }
        };
        let mut site = Self {
            secure: None,
            environment: Vec::new(),
            first: false,
            hosts: None,
            etcd: etcd.collect(),
            nodes: (0..3).map(node).collect(),
            router: None,
            write: ports[12],
            read: ports[13],
            dir,
            _outer: outer,
        };
        if options.secure {
            site.secure = Some(site.certificates());
        }
        for node in &site.nodes {
            give(&node.dir, None);
            give(&node.file(), Some(&site.node_file(node, options)));
        }
        give(&site.router_file(), Some(&site.router_text()));
        Some(site)
    }

    /// Starts everything and waits until every member is in its place.
    pub(crate) fn start(&mut self) -> Duration {
        let begin = Instant::now();
        self.launch();
        self.wait_whole();
        begin.elapsed()
    }

    /// Starts everything, and waits for nothing.
    pub(crate) fn launch(&mut self) {
        for index in 0..self.etcd.len() {
            self.start_etcd(index);
        }
        self.enable_auth();
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        names.iter().for_each(|name| self.start_agent(name));
        self.start_router();
    }

    /// An authority, a certificate for etcd and one for clients.
    fn certificates(&self) -> Certificates {
        let dir = self.dir.join("tls");
        give(&dir, None);
        let made = Certificates::new("openssl".into(), dir.clone());
        made.sign("etcd", "etcd", "IP:127.0.0.1", "2");
        made.sign("client", ETCD_USER, "DNS:client", "2");
        fs::read_dir(dir).unwrap().flatten().for_each(|file| chown_to_postgres(&file.path()));
        made
    }

    /// A user who may use this cluster's keys and no others, as an operator would make it.
    fn enable_auth(&self) {
        let Some(made) = &self.secure else { return };
        let path = |file| made.path(file).display().to_string();
        let role = format!("/service/{SCOPE}/");
        for words in [
            "user add root:e2e-root",
            &format!("user add {ETCD_USER}:{ETCD_PASSWORD}"),
            "role add pgherd",
            &format!("role grant-permission pgherd --prefix=true readwrite {role}"),
            &format!("user grant-role {ETCD_USER} pgherd"),
            "auth enable",
        ] {
            let output = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--cacert", &path("ca.pem"), "--endpoints", &self.etcd_url(0)])
                .args(["--cert", &path("client.pem"), "--key", &path("client.key")])
                .args(words.split(' '))
                .output()
                .unwrap();
            assert!(output.status.success(), "etcdctl {words}: {output:?}");
        }
    }

    fn etcd_url(&self, index: usize) -> String {
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.etcd[index].port)
    }

    pub(crate) fn start_etcd(&mut self, index: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.etcd.iter().map(|e| format!("{}={}", e.name, url(e.peer)));
        let all = all.collect::<Vec<_>>().join(",");
        let Etcd { name, peer, .. } = &self.etcd[index];
        let (client, peer) = (self.etcd_url(index), url(*peer));
        let mut command = Command::new(etcd_program().expect("was there before"));
        command
            .args(["--name", name, "--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.dir.join(name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all]);
        if let Some(made) = &self.secure {
            command.arg("--client-cert-auth");
            command.arg("--cert-file").arg(made.path("etcd.pem"));
            command.arg("--key-file").arg(made.path("etcd.key"));
            command.arg("--trusted-ca-file").arg(made.path("ca.pem"));
        }
        let log = self.dir.join(format!("{name}.log"));
        self.etcd[index].child = Some(spawn(&mut command, &log));
    }

    pub(crate) fn start_agent(&mut self, name: &str) {
        let index = self.index(name);
        let node = &self.nodes[index];
        let program = program();
        let mut command = if self.first {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(&program);
            command
        } else {
            self.program()
        };
        command.arg("agent").arg(node.file());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let agent = spawn(&mut command, &node.log());
        self.nodes[index].agent = Some(agent);
    }

    /// SIGTERM, and waits for the end: PostgreSQL is stopped in order.
    pub(crate) fn stop_agent(&mut self, name: &str) {
        let index = self.index(name);
        let mut agent = self.nodes[index].agent.take().expect("it runs");
        send(agent.id(), Signal::TERM);
        let status = agent.wait().unwrap();
        assert!(status.success(), "{name}: {status}\n{}", self.everything());
    }

    /// SIGHUP: the agent reads its file again.
    pub(crate) fn reload_agent(&self, name: &str) {
        let agent = self.nodes[self.index(name)].agent.as_ref().expect("it runs");
        send(agent.id(), Signal::HUP);
    }

    /// An agent that was killed: its process is waited for.
    pub(crate) fn reap_agent(&mut self, name: &str) {
        let index = self.index(name);
        let mut agent = self.nodes[index].agent.take().expect("it ran");
        agent.wait().unwrap();
    }

    /// The agent's process.
    pub(crate) fn agent(&self, name: &str) -> u32 {
        self.node(name).agent.as_ref().expect("it runs").id()
    }

    /// pgherd, with the names that this site has.
    fn program(&self) -> Command {
        let Some(hosts) = &self.hosts else { return Command::new(program()) };
        let mounts = "mount --bind \"$1\" /etc/hosts; mount --bind \"$2\" /etc/resolv.conf; \
                      shift 2; exec \"$@\"";
        let servers = hosts.with_extension("resolv");
        fs::write(&servers, "nameserver 192.0.2.1\noptions timeout:2 attempts:2\n").unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", mounts, "sh"]).arg(hosts).arg(servers);
        command.arg(program());
        command
    }

    pub(crate) fn start_router(&mut self) {
        let mut command = self.program();
        command.arg("router").arg(self.router_file());
        self.router = Some(spawn(&mut command, &self.dir.join("router.log")));
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[self.index(name)]
    }

    /// kill -9 of etcd's leader; which of `etcd` it was.
    pub(crate) fn kill_etcd_leader(&mut self) -> usize {
        let leads = |status: &Status| status.leader == status.member_id;
        let index = self.etcd_status().iter().position(|s| s.as_ref().is_some_and(leads));
        let index = index.expect("a leader of etcd's");
        let etcd = &mut self.etcd[index];
        let mut child = etcd.child.take().expect("it leads, so it runs");
        child.kill().unwrap();
        child.wait().unwrap();
        index
    }

    fn etcd_status(&self) -> Vec<Option<Status>> {
        let all = runtime().block_on(self.store().status_of_each(Duration::from_secs(5)));
        all.into_iter().map(|(_, status)| status.ok()).collect()
    }

    /// One's own way into the store, past every agent.
    pub(crate) fn store(&self) -> Client {
        let endpoints = (0..self.etcd.len()).map(|index| self.etcd_url(index).parse().unwrap());
        let mut options = pgherd_store::Options::new(endpoints.collect());
        if let Some(made) = &self.secure {
            let path = |file| Some(made.path(file));
            let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
            options.tls = TlsFiles { ca, cert, key };
        }
        Client::new(options)
    }

    /// `pgherd ctl -c FILE-OF-NODE1 WORDS`: exit code, standard output, standard error.
    pub(crate) fn ctl(&self, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(program())
            .args(["ctl", "-c"])
            .arg(self.nodes[0].file())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        Member::rows(&self.ctl(&["list", "-f", "json"]).1)
    }

    pub(crate) fn leader(&self) -> Option<String> {
        self.members().into_iter().find(|m| m.role == "Leader").map(|m| m.name)
    }

    /// The router's port for writing, as the superuser.
    pub(crate) fn write_port(&self) -> Config {
        config(self.write, PASSWORD)
    }

    /// Waits for one leader and two replicas that stream, by the store's word and by PostgreSQL's.
    pub(crate) fn wait_whole(&self) {
        let query = "SELECT count(*) FROM pg_stat_replication \
                     WHERE state = 'streaming' AND application_name LIKE 'node%'";
        let whole = |site: &Self| {
            Member::are_whole(&site.members(), 2)
                && number_now(&site.write_port(), query) == Some(2)
        };
        self.wait_until("not whole", WHOLE, whole);
    }

    pub(crate) fn wait_until(&self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < limit, "{what} in {limit:?}\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a person would look at first when something is wrong.
    pub(crate) fn everything(&self) -> String {
        let (_, out, err) = self.ctl(&["list"]);
        let mut text = format!("--- ctl list\n{out}{err}");
        let mut logs: Vec<PathBuf> = self.nodes.iter().map(Node::log).collect();
        logs.push(self.dir.join("router.log"));
        for log in logs {
            let all = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {}\n{last}\n", log.display()));
        }
        text
    }

    fn index(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).expect("a node of that name")
    }

    pub(crate) fn router_file(&self) -> PathBuf {
        self.dir.join("router.yml")
    }

    /// The `etcd3` section.
    fn store_text(&self) -> String {
        if let Some(made) = &self.secure {
            let (host, path) = (self.etcd[0].port, |file| made.path(file).display().to_string());
            let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
            return format!(
                "etcd3:\n  host: 127.0.0.1:{host}\n  protocol: https\n  cacert: {ca}\n  \
                 cert: {cert}\n  key: {key}\n  username: {ETCD_USER}\n  \
                 password: {ETCD_PASSWORD}\n"
            );
        }
        let hosts = self.etcd.iter().map(|e| format!("127.0.0.1:{}", e.port));
        format!("etcd3:\n  hosts: [{}]\n", hosts.collect::<Vec<_>>().join(", "))
    }

    fn node_file(&self, node: &Node, options: &Options) -> String {
        let Node { name, dir, postgres, rest, .. } = node;
        let (dir, store) = (dir.display(), self.store_text());
        let Options { dcs, node: more, .. } = options;
        let bin = std::env::var("PGHERD_TEST_PG_BIN").map(|bin| format!("  bin_dir: {bin}\n"));
        let bin = bin.unwrap_or_default();
        format!(
            "scope: {SCOPE}\nname: {name}\n\
             restapi:\n  listen: 127.0.0.1:{rest}\n  connect_address: 127.0.0.1:{rest}\n\
             {store}\
             bootstrap:\n  dcs:\n    ttl: 5\n    synchronous_mode: quorum\n{dcs}\
             postgresql:\n  listen: 127.0.0.1:{postgres}\n  connect_address: 127.0.0.1:{postgres}\n  \
               data_dir: {dir}/data\n{bin}  authentication:\n    \
                 superuser: {{username: postgres, password: {PASSWORD}}}\n    \
                 replication: {{username: replicator, password: e2e-replicator}}\n    \
                 rewind: {{username: rewind, password: e2e-rewind}}\n\
             pgherd:\n  run_dir: {dir}/run\n  networks: [127.0.0.1/32]\n  peer_secret: e2e-peers\n\
             {more}"
        )
    }

    fn router_text(&self) -> String {
        let Self { write, read, .. } = self;
        let store = self.store_text();
        format!(
            "scope: {SCOPE}\n{store}write: 127.0.0.1:{write}\nread: 127.0.0.1:{read}\nhold: 30s\n"
        )
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        sweep(&self.dir);
        let agents = self.nodes.iter_mut().filter_map(|node| node.agent.take());
        let etcd = self.etcd.iter_mut().filter_map(|etcd| etcd.child.take());
        for mut child in agents.chain(etcd).chain(self.router.take()) {
            let _ = child.wait();
        }
    }
}

pub(crate) fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// `PGHERD_ETCD`, or etcd on the PATH.
pub(crate) fn etcd_program() -> Option<PathBuf> {
    std::env::var_os("PGHERD_ETCD").map(PathBuf::from).or_else(|| on_path("etcd"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

pub(crate) fn postgres_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Makes a directory, or a file with that text, for the user whom agents run as.
pub(crate) fn give(path: &Path, text: Option<&str>) {
    match text {
        Some(text) => fs::write(path, text).unwrap(),
        None => fs::create_dir(path).unwrap(),
    }
    chown_to_postgres(path);
}

/// As root: servers run as that user, and read what is theirs.
fn chown_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = postgres_user();
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}
