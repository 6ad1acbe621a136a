//! What an operator does to a site, wisely or not, and the load that users bring. Leaves when to `runner`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::faults::Roles;
use crate::machine::ETCD;
use crate::sandbox::run;
use crate::scenario::{Operation, Who};
use crate::site::{PASSWORD, Site};
use crate::workload;

/// Given by `--length`: how long pgbench runs, in seconds.
pub(crate) const LENGTH: &str = "PGHERD_LAB_LENGTH";
const AWAITED: Duration = Duration::from_secs(60);
/// Of one value that fills etcd.
const BALLAST: usize = 1_000_000;

impl Site<'_> {
    pub(crate) fn operate(&mut self, roles: Roles, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Switchover => {
                let (done, out, err) = self.ctl(&["switchover", "--force"])?;
                ensure!(done, "ctl switchover: {out}{err}");
            }
            Operation::Switchovers(times) => self.switchovers(roles, *times)?,
            Operation::BeginSwitchover => {
                let operation = self.begin_ctl(&["switchover", "--force"])?;
                self.operations.push(operation);
            }
            Operation::Parameter(setting) => {
                let setting = format!("postgresql.parameters.{setting}");
                let (done, out, err) = self.ctl(&["edit-config", "-s", &setting, "--force"])?;
                ensure!(done, "ctl edit-config: {out}{err}");
            }
            Operation::Churn(megabytes) => self.churn(*megabytes)?,
            Operation::Load(clients, time) => self.load(*clients, *time)?,
        }
        Ok(())
    }

    /// All begin at once; each is answered, and one of them at least is done.
    fn switchovers(&self, roles: Roles, times: u32) -> Result<()> {
        let mut begun = Vec::new();
        for number in 0..times {
            let [replica, third] = roles.replicas();
            let candidate = if number % 2 == 0 { replica } else { third };
            let candidate = &self.machine(candidate).name;
            begun.push(self.begin_ctl(&["switchover", "--candidate", candidate, "--force"])?);
        }
        let mut done = 0;
        for mut operation in begun {
            done += u32::from(operation.wait().context("ctl")?.success());
        }
        crate::say(&format!("  {done} of {times} switchovers at once succeeded"));
        ensure!(done > 0, "none of {times} switchovers succeeded");
        Ok(())
    }

    /// Waits for what was begun; it may have failed.
    pub(crate) fn end_operations(&mut self) -> Result<()> {
        let operations = self.operations.drain(..);
        operations.map(|mut it| it.wait()).try_for_each(|ended| ended.map(drop)).context("ctl")
    }

    fn churn(&self, megabytes: u32) -> Result<()> {
        let write = self.write_port();
        for _ in 0..megabytes.div_ceil(16) {
            let query = "SELECT length(pg_logical_emit_message(false, 'lab', repeat('x', 1000))::text) \
                         + (pg_switch_wal() IS NULL)::int::bigint";
            workload::number(&write, query).context("no WAL could be written")?;
        }
        let checkpoint = workload::statement(&write, "CHECKPOINT");
        checkpoint.context("no checkpoint")
    }

    fn load(&self, clients: u32, time: Duration) -> Result<()> {
        let given = std::env::var(LENGTH).ok().and_then(|text| text.parse().ok());
        let time = given.map_or(time, Duration::from_secs);
        let target = self.write_port();
        let pgbench = pgbench().context("no pgbench beside PostgreSQL's server")?;
        let pgbench = pgbench.display().to_string();
        let login = format!(
            "host={} port={} user=postgres password={PASSWORD} dbname=postgres",
            target.host, target.port
        );
        run(&pgbench, &["-i", "-q", "-s", "20", &login])?;
        let (clients, seconds) = (clients.to_string(), time.as_secs().to_string());
        let words = ["-n", "-c", &clients, "-j", "2", "-T", &seconds, &login];
        let said = run(&pgbench, &words)?;
        for line in said.lines().filter(|l| l.starts_with("tps") || l.starts_with("number of")) {
            crate::say(&format!("  pgbench: {line}"));
        }
        Ok(())
    }

    pub(crate) fn await_program(&self, roles: Roles, who: Who, program: &str) -> Result<()> {
        let until = Instant::now() + AWAITED;
        let nodes = roles.nodes(self, who);
        while !nodes.iter().any(|n| self.machine(*n).programs().iter().any(|p| p == program)) {
            ensure!(Instant::now() < until, "no {program} runs there within {AWAITED:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Until etcd takes no more, and says why.
    pub(crate) fn fill_etcd(&self) -> Result<()> {
        ensure!(self.cluster.quota.is_some(), "this would take long without quota=MB");
        let value = "x".repeat(BALLAST);
        for number in 0.. {
            let (done, said) = self.etcdctl(&["put", &format!("ballast{number}")], &value)?;
            if !done {
                ensure!(said.contains("database space exceeded"), "etcdctl put: {said}");
                return Ok(());
            }
        }
        Ok(())
    }

    /// What etcd's manual says to do against the alarm.
    pub(crate) fn empty_etcd(&self) -> Result<()> {
        let done = |words: &[&str]| -> Result<String> {
            let (done, said) = self.etcdctl(words, "")?;
            ensure!(done, "etcdctl {}: {said}", words.join(" "));
            Ok(said)
        };
        done(&["del", "--prefix", "ballast"])?;
        let status = done(&["endpoint", "status", "-w", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status).context("etcd's status")?;
        let revision = status[0]["Status"]["header"]["revision"].as_u64().context("a revision")?;
        done(&["compact", &revision.to_string()])?;
        done(&["defrag", "--command-timeout=30s"])?;
        done(&["alarm", "disarm"]).map(drop)
    }

    fn etcdctl(&self, words: &[&str], input: &str) -> Result<(bool, String)> {
        let hosts = (0..3).map(|node| format!("http://{}:{ETCD}", self.machine(node).address));
        let endpoints = format!("--endpoints={}", hosts.collect::<Vec<_>>().join(","));
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(endpoints)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("etcdctl")?;
        if let Some(mut pipe) = child.stdin.take() {
            // It may have ended before it read everything.
            let _ = std::io::Write::write_all(&mut pipe, input.as_bytes());
        }
        let output = child.wait_with_output().context("etcdctl")?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }
}

/// The newest one of Debian's packages, or the one on the PATH.
fn pgbench() -> Option<std::path::PathBuf> {
    let majors = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = majors.filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let file = entry.path().join("bin/pgbench");
        file.is_file().then_some((major, file))
    });
    let newest = numbered.max().map(|(_, file)| file);
    newest.or_else(|| crate::sandbox::on_path("pgbench"))
}
