//! A cluster under test: `pgherd up` in a directory of its own, looked at as a user would, and hurt
//! in the ways that clusters get hurt. Used by the end-to-end tests and by `examples/outage.rs`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::processes::{free_ports, living_below, parent, pids, send, sweep, tree, words};

/// How long a cluster may take to start, and to be whole again after a fault.
pub(crate) const WHOLE: Duration = Duration::from_secs(120);

/// A running cluster; dropping it leaves nothing behind.
pub(crate) struct Herd {
    program: PathBuf,
    _outer: TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) ports: [u16; 3],
    up: Option<Child>,
    starts: usize,
    /// Variables that `up` and its children see.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

/// One row of `ctl list -f json`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) state: String,
}

impl Member {
    /// The rows of `ctl list -f json`; none when it printed nothing.
    pub(crate) fn rows(json: &str) -> Vec<Self> {
        let rows: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        let member = |row: &serde_json::Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            Self { name: text("Member"), role: text("Role"), state: text("State") }
        };
        rows.as_array().into_iter().flatten().map(member).collect()
    }

    /// One leader that runs, and so many replicas that stream.
    pub(crate) fn are_whole(members: &[Self], replicas: usize) -> bool {
        let leads = members.iter().filter(|m| m.role == "Leader" && m.state == "running").count();
        let stream = members.iter().filter(|m| m.role != "Leader" && m.state == "streaming");
        leads == 1 && stream.count() == replicas
    }
}

/// What is done to the leader's node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    KillPostmaster,
    KillTree,
    KillAgent,
    KillBoth,
    StopPostmaster,
    StopNode,
    RemoveData,
    Switchover,
}

impl Fault {
    pub(crate) const ALL: [Self; 8] = [
        Self::KillPostmaster,
        Self::KillTree,
        Self::KillAgent,
        Self::KillBoth,
        Self::StopPostmaster,
        Self::StopNode,
        Self::RemoveData,
        Self::Switchover,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillPostmaster => "kill-9-postmaster",
            Self::KillTree => "kill-9-tree",
            Self::KillAgent => "kill-9-agent",
            Self::KillBoth => "kill-9-agent-and-postmaster",
            Self::StopPostmaster => "sigstop-postmaster",
            Self::StopNode => "sigstop-node-8s",
            Self::RemoveData => "remove-data",
            Self::Switchover => "switchover",
        }
    }
}

impl Herd {
    /// A place for a cluster; nothing runs yet.
    pub(crate) fn new(program: &Path) -> Self {
        let outer = tempfile::Builder::new().prefix("pgherd-e2e-").tempdir().unwrap();
        // PostgreSQL's user must get through when the test runs as root.
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = outer.path().join("herd");
        Self {
            program: program.to_owned(),
            dir,
            _outer: outer,
            ports: free_ports(),
            up: None,
            starts: 0,
            environment: Vec::new(),
        }
    }

    /// Starts `up` and waits until every member is in its place.
    pub(crate) fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let log = File::options().create(true).append(true).open(self.up_log()).unwrap();
        let [write, read, http] = self.ports.map(|p| p.to_string());
        let other = std::env::var("PGHERD_TEST_PG_BIN").ok();
        let up = Command::new(&self.program)
            .args(["up", "--write-port", &write, "--read-port", &read, "--http-port", &http])
            .arg("--dir")
            .arg(&self.dir)
            .envs(self.environment.iter().copied())
            .args(other.iter().flat_map(|bin| ["--pg-bin", bin.as_str()]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.up = Some(up);
        let ready = |herd: &Self| {
            let text = fs::read_to_string(herd.up_log()).unwrap_or_default();
            // Each start writes its own.
            text.matches("Ready after ").count() > herd.starts
        };
        self.wait_until("up never said that it was ready", ready);
        self.starts += 1;
        begin.elapsed()
    }

    pub(crate) fn up_log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// The superuser's password, from where the user finds it.
    pub(crate) fn password(&self) -> String {
        let text = fs::read_to_string(self.dir.join("pgpass")).unwrap();
        let line = text.lines().next().unwrap();
        line.strip_prefix("*:*:*:postgres:").expect("the superuser on the first line").to_owned()
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(&self.program)
            .args(["ctl", "--dir"])
            .arg(&self.dir)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The members, as `ctl list` knows them; none while nobody can be asked.
    pub(crate) fn members(&self) -> Vec<Member> {
        let (_, out, _) = self.ctl(&["list", "-f", "json"]);
        Member::rows(&out)
    }

    pub(crate) fn leader(&self) -> Option<String> {
        self.members().into_iter().find(|m| m.role == "Leader").map(|m| m.name)
    }

    /// One leader that runs, two replicas that stream; by the store's word, and by PostgreSQL's.
    pub(crate) fn is_whole(&self) -> bool {
        self.seems_whole() && self.streams() == 2
    }

    /// Replicas that PostgreSQL itself says it streams to.
    fn streams(&self) -> i64 {
        let query = "SELECT count(*) FROM pg_stat_replication \
                     WHERE state = 'streaming' AND application_name LIKE 'node%'";
        let port = crate::writer::config(self.ports[0], &self.password());
        crate::writer::number_now(&port, query).unwrap_or(0)
    }

    fn seems_whole(&self) -> bool {
        Member::are_whole(&self.members(), 2)
    }

    pub(crate) fn wait_whole(&mut self) {
        self.wait_until("not whole", Self::is_whole);
    }

    fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            if let Some(status) = self.up.as_mut().and_then(|up| up.try_wait().unwrap()) {
                panic!("up ended: {status}\n{}", self.everything());
            }
            assert!(begin.elapsed() < WHOLE, "{what} in {WHOLE:?}\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a person would look at first when something is wrong.
    pub(crate) fn everything(&self) -> String {
        let mut text = fs::read_to_string(self.up_log()).unwrap_or_default();
        for words in [["list"], ["explain"]] {
            let (_, out, err) = self.ctl(&words);
            text.push_str(&format!("--- ctl {}\n{out}{err}", words[0]));
        }
        for name in ["node1/agent.log", "node2/agent.log", "node3/agent.log", "log/router.log"] {
            let log = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&format!("--- {name}\n{last}\n"));
        }
        text
    }

    /// The lines of the agents' logs with these words.
    #[allow(dead_code, reason = "the example looks at no logs")]
    pub(crate) fn logged(&self, words: &str) -> Vec<String> {
        let logs = ["node1", "node2", "node3"].map(|node| self.dir.join(node).join("agent.log"));
        let texts = logs.iter().map(|path| fs::read_to_string(path).unwrap_or_default());
        let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| line.contains(words)).collect()
    }

    /// Ctrl-C, then waits for the end.
    pub(crate) fn interrupt(&mut self) -> Duration {
        let begin = Instant::now();
        let mut up = self.up.take().expect("up runs");
        send(up.id(), Signal::INT);
        let until = begin + Duration::from_secs(60);
        loop {
            if let Some(status) = up.try_wait().unwrap() {
                assert!(status.success(), "up ended with {status}\n{}", self.everything());
                return begin.elapsed();
            }
            assert!(Instant::now() < until, "up did not stop\n{}", self.everything());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9 of everything at once, PostgreSQL and guards included.
    pub(crate) fn kill_everything(&mut self) {
        if let Some(mut up) = self.up.take() {
            let mut all = self.processes();
            all.push(up.id().cast_signed());
            all.iter().for_each(|pid| send(pid.cast_unsigned(), Signal::KILL));
            up.wait().unwrap();
        }
        sweep(&self.dir);
    }

    /// kill -9 of `up`, and when wanted of the processes that it started; PostgreSQL and its guards
    /// live.
    pub(crate) fn kill_up(&mut self, with_children: bool) {
        let mut up = self.up.take().expect("up runs");
        let id = up.id().cast_signed();
        let parent = |pid: &i32| parent(*pid) == Some(id);
        let mut doomed: Vec<i32> =
            if with_children { pids().into_iter().filter(parent).collect() } else { Vec::new() };
        doomed.insert(0, id);
        doomed.iter().for_each(|pid| send(pid.cast_unsigned(), Signal::KILL));
        up.wait().unwrap();
    }

    /// Hurts the leader's node; returns its name and when it was hit.
    pub(crate) fn hurt(&self, fault: Fault) -> (String, Instant) {
        let leader = self.leader().expect("a leader to hurt");
        let postmaster = self.postmaster(&leader);
        let tree = || postmaster.map(tree).unwrap_or_default();
        let agent = self.agent(&leader);
        let kill = |pids: &[i32]| pids.iter().for_each(|p| send(p.cast_unsigned(), Signal::KILL));
        let begin = Instant::now();
        match fault {
            Fault::KillPostmaster => kill(postmaster.as_slice()),
            Fault::KillTree => kill(&tree()),
            Fault::KillAgent => kill(agent.as_slice()),
            Fault::KillBoth => kill(&[agent, postmaster].into_iter().flatten().collect::<Vec<_>>()),
            Fault::StopPostmaster => {
                send(postmaster.unwrap().cast_unsigned(), Signal::STOP);
            }
            Fault::StopNode => {
                let node = self.processes_of(&leader);
                node.iter().for_each(|p| send(p.cast_unsigned(), Signal::STOP));
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(8));
                    node.iter().for_each(|p| send(p.cast_unsigned(), Signal::CONT));
                });
            }
            Fault::RemoveData => {
                let data = self.dir.join(&leader).join("data");
                // PostgreSQL may write into it meanwhile.
                while data.exists() && begin.elapsed() < Duration::from_secs(5) {
                    let _ = fs::remove_dir_all(&data);
                    if !data.join("PG_VERSION").exists() {
                        break;
                    }
                }
            }
            Fault::Switchover => {
                let (code, out, err) = self.ctl(&["switchover", "--force"]);
                assert_eq!(code, 0, "switchover: {out}{err}\n{}", self.everything());
            }
        }
        (leader, begin)
    }

    fn postmaster(&self, node: &str) -> Option<i32> {
        let file = self.dir.join(node).join("data/postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
    }

    /// One of `up`'s own children: `store` or `router`.
    #[allow(dead_code, reason = "the example has no use for it")]
    pub(crate) fn child(&self, role: &str) -> u32 {
        let is = |pid: &i32| {
            let words = words(*pid);
            let here = |word: &String| Path::new(word).starts_with(&self.dir);
            words.get(1).is_some_and(|word| word == role) && words.iter().any(here)
        };
        pids().into_iter().find(is).expect("a child of up").cast_unsigned()
    }

    pub(crate) fn agent(&self, node: &str) -> Option<i32> {
        let file = self.dir.join(node).join("node.yml");
        let words = |pid: &i32| words(*pid);
        let is_agent = |pid: &i32| {
            let words = words(pid);
            words.get(1).is_some_and(|w| w == "agent")
                && words.last().is_some_and(|w| Path::new(w) == file)
        };
        pids().into_iter().find(is_agent)
    }

    /// Agent, guard and PostgreSQL of one node.
    fn processes_of(&self, node: &str) -> Vec<i32> {
        living_below(&self.dir.join(node))
    }

    fn processes(&self) -> Vec<i32> {
        living_below(&self.dir)
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        self.kill_everything();
    }
}

/// The program next to a test's or example's own executable.
/// pgherd, as cargo built it for a test, or beside an example.
#[allow(dead_code, reason = "not every example needs it")]
pub(crate) fn program() -> PathBuf {
    option_env!("CARGO_BIN_EXE_pgherd").map_or_else(program_beside, PathBuf::from)
}

#[allow(dead_code, reason = "the example has no CARGO_BIN_EXE_pgherd")]
pub(crate) fn program_beside() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.join("pgherd").is_file());
    target.expect("pgherd is built").join(OsStr::new("pgherd"))
}
