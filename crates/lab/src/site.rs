//! Three nodes (etcd's member, agent, PostgreSQL each) and a router, every one a machine of its own.
//! Starts, looks, and ends; leaves what is done to them to `faults`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pgherd_store::{Client, Options, Status};

use crate::machine::{ETCD, Machine, POSTGRES, REST, bridge};
use crate::sandbox::{Sandbox, etcd_program, run};
use crate::scenario::{Cluster, Disk, Mode};
use crate::workload::{self, Target};

pub(crate) const PASSWORD: &str = "lab-superuser";
/// Copies and elections of three nodes on a loaded machine with two cores.
const WHOLE: Duration = Duration::from_secs(120);

/// What the machines are made of; made once for all sites.
pub(crate) struct Ground {
    pub(crate) sandbox: Sandbox,
    machines: Vec<Machine>,
    /// The program under test.
    pub(crate) binary: PathBuf,
    etcd: PathBuf,
    sites: std::cell::Cell<u32>,
}

impl Ground {
    pub(crate) fn new(sandbox: Sandbox, binary: PathBuf) -> Result<Self> {
        bridge()?;
        let names = ["node1", "node2", "node3", "router"];
        let machines = names.iter().zip(1..);
        let machines = machines.map(|(name, number)| Machine::new(&sandbox, name, number));
        Ok(Self {
            machines: machines.collect::<Result<_>>()?,
            sandbox,
            binary,
            etcd: etcd_program().context("no etcd")?,
            sites: std::cell::Cell::new(0),
        })
    }
}

/// A running site; dropping it leaves nothing of it but its logs.
pub(crate) struct Site<'a> {
    ground: &'a Ground,
    pub(crate) cluster: Cluster,
    pub(crate) dir: PathBuf,
    pub(crate) etcd: [Option<Child>; 3],
    pub(crate) agents: [Option<Child>; 3],
    router: Option<Child>,
    /// What an operator began and nobody waits for yet.
    pub(crate) operations: Vec<Child>,
}

/// One row of `ctl list`.
struct Row {
    name: String,
    role: String,
    state: String,
}

impl<'a> Site<'a> {
    /// Starts everything and waits until every member is in its place.
    pub(crate) fn start(ground: &'a Ground, cluster: &Cluster) -> Result<Self> {
        let number = ground.sites.replace(ground.sites.get() + 1);
        let dir = ground.sandbox.dir.join(format!("site{number}"));
        let mut site = Self {
            ground,
            cluster: cluster.clone(),
            dir,
            etcd: [None, None, None],
            agents: [None, None, None],
            router: None,
            operations: Vec::new(),
        };
        site.write_files()?;
        for node in 0..3 {
            site.start_etcd(node)?;
        }
        for node in 0..3 {
            site.start_agent(node)?;
        }
        site.start_router()?;
        site.wait_whole()?;
        Ok(site)
    }

    pub(crate) fn machine(&self, node: usize) -> &Machine {
        &self.ground.machines[node]
    }

    pub(crate) fn router(&self) -> &Machine {
        &self.ground.machines[3]
    }

    pub(crate) fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.join(&self.machine(node).name)
    }

    /// What the data directory lies on.
    pub(crate) fn disk(&self, node: usize) -> PathBuf {
        self.node_dir(node).join("disk")
    }

    /// What the agent must remember fails with the disk that fails.
    fn run_dir(&self, node: usize) -> PathBuf {
        match self.cluster.disk {
            Disk::Plain => self.node_dir(node).join("run"),
            Disk::Tmpfs | Disk::Loop => self.disk(node).join("run"),
        }
    }

    fn write_files(&self) -> Result<()> {
        give(&self.dir, None)?;
        for node in 0..3 {
            give(&self.node_dir(node), None)?;
            give(&self.disk(node), None)?;
            self.mount_disk(node)?;
            give(&self.node_dir(node).join("node.yml"), Some(&self.node_file(node)))?;
        }
        give(&self.dir.join("router.yml"), Some(&self.router_file()))
    }

    fn mount_disk(&self, node: usize) -> Result<()> {
        let disk = self.disk(node);
        let path = disk.display().to_string();
        match self.cluster.disk {
            Disk::Plain => return Ok(()),
            Disk::Tmpfs => run("mount", &["-t", "tmpfs", "-o", "size=400m", "lab", &path])?,
            Disk::Loop => {
                let image = format!("{path}.img");
                run("truncate", &["-s", "500M", &image])?;
                run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1", &image])?;
                run("mount", &["-o", "loop", &image, &path])?
            }
        };
        let (uid, gid) = postgres_user()?;
        chown(&disk, Some(uid), Some(gid)).context(path)
    }

    fn etcd_hosts(&self) -> String {
        let hosts = (0..3).map(|node| format!("{}:{ETCD}", self.machine(node).address));
        hosts.collect::<Vec<_>>().join(", ")
    }

    fn node_file(&self, node: usize) -> String {
        let Machine { name, address, .. } = self.machine(node);
        let (dir, hosts, ttl) = (self.node_dir(node), self.etcd_hosts(), self.cluster.ttl);
        let dir = dir.display();
        let run = self.run_dir(node);
        let run = run.display();
        let mode = match self.cluster.mode {
            Mode::Async => "synchronous_mode: off",
            Mode::Quorum => "synchronous_mode: quorum",
            Mode::Strict => "synchronous_mode: quorum\n    synchronous_mode_strict: on",
        };
        // Said either way, so that a default that changes doesn't change what is tested.
        let failsafe = self.cluster.failsafe;
        format!(
            "scope: lab\nname: {name}\n\
             restapi:\n  listen: {address}:{REST}\n  connect_address: {address}:{REST}\n  \
               allowlist: [10.77.0.0/24]\n\
             etcd3:\n  hosts: [{hosts}]\n\
             bootstrap:\n  dcs:\n    ttl: {ttl}\n    failsafe_mode: {failsafe}\n    {mode}\n\
             postgresql:\n  listen: {address}:{POSTGRES}\n  connect_address: {address}:{POSTGRES}\n  \
               data_dir: {dir}/disk/data\n  authentication:\n    \
                 superuser: {{username: postgres, password: {PASSWORD}}}\n    \
                 replication: {{username: replicator, password: lab-replicator}}\n    \
                 rewind: {{username: rewind, password: lab-rewind}}\n\
             pgherd:\n  run_dir: {run}\n  networks: [10.77.0.0/24]\n  peer_secret: lab-peers\n"
        )
    }

    fn router_file(&self) -> String {
        let (hosts, address) = (self.etcd_hosts(), &self.router().address);
        format!(
            "scope: lab\netcd3:\n  hosts: [{hosts}]\n\
             write: {address}:5432\nread: {address}:5433\nhold: 30s\n"
        )
    }

    /// Nothing where it runs already.
    pub(crate) fn start_etcd(&mut self, node: usize) -> Result<()> {
        if runs(&mut self.etcd[node]) {
            return Ok(());
        }
        let url = |node: usize, port: u16| format!("http://{}:{port}", self.machine(node).address);
        let name = |node: usize| format!("etcd{}", node + 1);
        let all = (0..3).map(|n| format!("{}={}", name(n), url(n, 2380))).collect::<Vec<_>>();
        let (client, peer) = (url(node, ETCD), url(node, 2380));
        let mut words = vec!["--name".to_owned(), name(node)];
        let data = self.node_dir(node).join("etcd").display().to_string();
        for (key, value) in [
            ("--heartbeat-interval", "50"),
            ("--election-timeout", "500"),
            ("--data-dir", data.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &all.join(",")),
        ] {
            words.extend([key.to_owned(), value.to_owned()]);
        }
        if let Some(megabytes) = self.cluster.quota {
            words.push(format!("--quota-backend-bytes={}", u64::from(megabytes) << 20));
        }
        let log = self.node_dir(node).join("etcd.log");
        let child = self.machine(node).spawn("etcd", &self.ground.etcd, &words, &log)?;
        self.etcd[node] = Some(child);
        Ok(())
    }

    pub(crate) fn start_agent(&mut self, node: usize) -> Result<()> {
        if runs(&mut self.agents[node]) {
            return Ok(());
        }
        let dir = self.node_dir(node);
        let words = ["agent".to_owned(), dir.join("node.yml").display().to_string()];
        let log = dir.join("agent.log");
        let clock = self.clock(node)?;
        let program = &self.ground.binary;
        self.agents[node] = Some(self.machine(node).spawn_with(&clock, "", program, &words, &log)?);
        Ok(())
    }

    fn start_router(&mut self) -> Result<()> {
        let words = ["router".to_owned(), self.dir.join("router.yml").display().to_string()];
        let log = self.dir.join("router.log");
        self.router = Some(self.router().spawn("", &self.ground.binary, &words, &log)?);
        Ok(())
    }

    /// `pgherd ctl -c FILE-OF-NODE1 WORDS`: whether it succeeded, standard output, standard error.
    pub(crate) fn ctl(&self, words: &[&str]) -> Result<(bool, String, String)> {
        let output = Command::new(&self.ground.binary)
            .args(["ctl", "-c"])
            .arg(self.node_dir(0).join("node.yml"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("ctl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }

    /// `ctl` that goes on by itself.
    pub(crate) fn begin_ctl(&self, words: &[&str]) -> Result<Child> {
        Command::new(&self.ground.binary)
            .args(["ctl", "-c"])
            .arg(self.node_dir(0).join("node.yml"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("ctl")
    }

    /// How many timelines were begun.
    pub(crate) fn timelines(&self) -> Result<usize> {
        let (_, out, err) = self.ctl(&["history", "-f", "json"])?;
        let rows: serde_json::Value =
            serde_json::from_str(&out).with_context(|| format!("ctl history: {out}{err}"))?;
        Ok(rows.as_array().map_or(0, Vec::len))
    }

    fn rows(&self) -> Vec<Row> {
        let json = self.ctl(&["list", "-f", "json"]).map(|(_, out, _)| out).unwrap_or_default();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        let row = |row: &serde_json::Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            Row { name: text("Member"), role: text("Role"), state: text("State") }
        };
        rows.as_array().into_iter().flatten().map(row).collect()
    }

    /// Which node leads, by the store.
    pub(crate) fn leader(&self) -> Option<usize> {
        let rows = self.rows();
        let leader = rows.iter().find(|row| row.role == "Leader")?;
        (0..3).find(|node| self.machine(*node).name == leader.name)
    }

    /// Waits for one leader and two replicas that stream, by the store's word and by PostgreSQL's,
    /// and for three members of etcd.
    pub(crate) fn wait_whole(&self) -> Result<()> {
        let begin = Instant::now();
        while !self.is_whole() {
            if begin.elapsed() > WHOLE {
                bail!("not whole after {WHOLE:?}\n{}", self.everything());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        let rows = self.rows();
        let leads = rows.iter().filter(|r| r.role == "Leader" && r.state == "running").count();
        let streams = rows.iter().filter(|r| r.role != "Leader" && r.state == "streaming").count();
        let query = "SELECT count(*) FROM pg_stat_replication \
                     WHERE state = 'streaming' AND application_name LIKE 'node%'";
        let etcd = || self.etcd_status().iter().all(|s| s.as_ref().is_some_and(|s| s.leader != 0));
        leads == 1
            && streams == 2
            && workload::number(&self.write_port(), query) == Some(2)
            && etcd()
    }

    pub(crate) fn write_port(&self) -> Target {
        Target { host: self.router().address.clone(), port: 5432 }
    }

    pub(crate) fn read_port(&self) -> Target {
        Target { host: self.router().address.clone(), port: 5433 }
    }

    pub(crate) fn direct(&self, node: usize) -> Target {
        Target { host: self.machine(node).address.clone(), port: POSTGRES }
    }

    fn etcd_status(&self) -> Vec<Option<Status>> {
        let endpoint = |node| format!("http://{}:{ETCD}", self.machine(node).address).parse().ok();
        let client = Client::new(Options::new((0..3).filter_map(endpoint).collect()));
        let all = client.status_of_each(Duration::from_secs(2));
        workload::runtime().block_on(all).into_iter().map(|(_, status)| status.ok()).collect()
    }

    /// The node with etcd's leader.
    pub(crate) fn etcd_leader(&self) -> Option<usize> {
        let leads = |status: &Status| status.leader == status.member_id;
        self.etcd_status().iter().position(|status| status.as_ref().is_some_and(leads))
    }

    /// Makes the member of that node etcd's leader.
    pub(crate) fn move_etcd_leader(&self, node: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while self.etcd_leader() != Some(node) {
            ensure!(Instant::now() < until, "etcd's leader does not move to node{}", node + 1);
            let (Some(from), Some(status)) = (self.etcd_leader(), self.etcd_status().remove(node))
            else {
                continue;
            };
            let endpoint = format!("--endpoints=http://{}:{ETCD}", self.machine(from).address);
            // It may have moved meanwhile by itself; then the next turn tries again.
            let _ = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args([&endpoint, "move-leader", &format!("{:x}", status.member_id)])
                .output();
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    /// What a person would look at first when something is wrong.
    pub(crate) fn everything(&self) -> String {
        let mut text = String::new();
        for words in [["list", "-f", "pretty"].as_slice(), &["explain"]] {
            let (_, out, err) = self.ctl(words).unwrap_or_default();
            text.push_str(&format!("--- ctl {}\n{out}{err}", words.join(" ")));
        }
        let mut logs: Vec<PathBuf> =
            (0..3).map(|node| self.node_dir(node).join("agent.log")).collect();
        logs.push(self.dir.join("router.log"));
        for log in logs {
            let all = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = all.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {}\n{last}\n", log.display()));
        }
        text
    }

    /// Keeps the logs of a site that failed where people look for them.
    pub(crate) fn keep_logs(&self, at: &Path) -> Result<()> {
        fs::create_dir_all(at).with_context(|| format!("{}", at.display()))?;
        let mut logs = vec![(self.dir.join("router.log"), "router.log".to_owned())];
        for node in 0..3 {
            for part in ["agent.log", "etcd.log", "run/postgresql.log", "disk/run/postgresql.log"] {
                let name = format!("{}-{}", self.machine(node).name, part.replace('/', "-"));
                logs.push((self.node_dir(node).join(part), name));
            }
        }
        for (from, name) in logs {
            if from.exists() {
                fs::copy(&from, at.join(name)).with_context(|| format!("{}", from.display()))?;
            }
        }
        fs::write(at.join("explain.txt"), self.everything()).context("explain.txt")
    }

    /// Ends every process of the site and waits until they are gone.
    fn end(&mut self) -> Result<()> {
        if self.cluster.disk == Disk::Loop {
            for node in 0..3 {
                // Refused where it isn't frozen; where it is, nobody could die.
                let _ = run("fsfreeze", &["-u", &self.disk(node).display().to_string()]);
            }
        }
        for mut operation in self.operations.drain(..) {
            let _ = operation.kill();
            let _ = operation.wait();
        }
        for machine in &self.ground.machines {
            machine.heal()?;
            machine.kill("")?;
            machine.thaw("")?;
            machine.thaw("etcd")?;
        }
        let children = self.etcd.iter_mut().chain(&mut self.agents).chain([&mut self.router]);
        for mut child in children.filter_map(Option::take) {
            // The first process inside may have reaped it already.
            let _ = child.wait();
        }
        let until = Instant::now() + Duration::from_secs(30);
        for machine in &self.ground.machines {
            while machine.lives()? {
                ensure!(Instant::now() < until, "processes of {} don't die", machine.name);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if self.cluster.disk != Disk::Plain {
            for node in 0..3 {
                run("umount", &[&self.disk(node).display().to_string()])?;
            }
        }
        fs::remove_dir_all(&self.dir).context("the site's directory")
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            crate::say(&format!("a site was not ended in order: {error:#}"));
        }
    }
}

fn runs(child: &mut Option<Child>) -> bool {
    child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
}

fn postgres_user() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let line = line.context("no user postgres; install PostgreSQL's server package")?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    let mut next = || numbers.next().context("/etc/passwd is cut off")?.context("a number");
    Ok((next()?, next()?))
}

/// Makes a directory, or a file with that text, for the user whom agents run as.
fn give(path: &Path, text: Option<&str>) -> Result<()> {
    let named = || format!("{}", path.display());
    match text {
        Some(text) => fs::write(path, text).with_context(named)?,
        None => {
            fs::create_dir(path).with_context(named)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(named)?;
        }
    }
    let (uid, gid) = postgres_user()?;
    chown(path, Some(uid), Some(gid)).with_context(named)
}
