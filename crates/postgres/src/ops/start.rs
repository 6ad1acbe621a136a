//! Starting through the guard, as primary or replica, and waiting until it takes connections.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgherd_core::postgres::{PgFailureKind, SyncNames, Upstream};
use pgherd_guard::GuardSpec;
use rustix::process::Pid;

use super::POLL;
use crate::conf::{Role, Shape};
use crate::control::read_control;
use crate::facts::blocking;
use crate::life::Life;
use crate::server::Core;
use crate::sql::Sql;
use crate::tool::postmaster_environment;
use crate::{PgError, files};

/// Between two looks at what the startup process shows.
pub(super) const PROGRESS: Duration = Duration::from_millis(500);
/// Asked for and refused for this long, at the same place: an archive has it neither.
const REMOVED: Duration = Duration::from_secs(3);

impl Core {
    /// A list that isn't empty begins as the impossible one: only after a commit has been seen
    /// waiting is it certain that the checkpointer has told the backends to wait.
    pub(super) async fn start_primary(
        self: &Arc<Self>,
        names: &SyncNames,
        kills_seen: u64,
    ) -> Result<(), PgError> {
        let waits = !names.names.is_empty();
        let first = if waits { SyncNames::nobody() } else { SyncNames::default() };
        let shape = Shape { names: first, standby: None };
        let (life, sql) = self.start(shape, kills_seen).await?;
        if !waits {
            return Ok(());
        }
        let probe = self.probe().await?;
        self.put_names_in_force(&life, &sql, probe, names).await
    }

    /// A replica's list is the impossible one, so that a promotion begins with commits that wait.
    pub(super) async fn start_replica(
        self: &Arc<Self>,
        upstream: Option<&Upstream>,
        kills_seen: u64,
    ) -> Result<(), PgError> {
        let standby = Some(self.follows(upstream)?);
        let shape = Shape { names: SyncNames::nobody(), standby };
        self.nothing_lives().await?;
        let brought = self.bring_slots(upstream).await;
        let started = self.start(shape, kills_seen).await.map(|_| ());
        let runs = self.fence.life().is_some_and(|life| life.is_running());
        if started.is_err() && !brought.is_empty() && !runs {
            self.take_slots_back(brought).await;
        }
        if matches!(&started, Err(PgError::Failed(failure)) if failure.detail.starts_with(NEEDS)) {
            // It would wait for ever, and nobody could look at it.
            self.stop().await?;
        }
        started
    }

    async fn start(
        self: &Arc<Self>,
        shape: Shape,
        kills_seen: u64,
    ) -> Result<(Arc<Life>, Sql), PgError> {
        self.nothing_lives().await?;
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "the configuration could not be tried; the last one is used");
        }
        self.memory.forget().await;
        self.empty_lock_file_is_old().await;
        let core = Arc::clone(self);
        let primary = shape.role() == Role::Primary;
        let (life, log_from) = blocking(move || {
            let settings = &core.settings;
            if settings.rewinding_mark().exists() {
                let words = "pg_rewind did not finish on this directory: rewind or clone it again";
                return Err(PgError::failed(PgFailureKind::ToolFailed, words));
            }
            files::make_private(&settings.socket_dir)?;
            files::remove_stale_pid_file(settings)?;
            let role = shape.role();
            core.write_files(shape)?;
            files::write_signal(&settings.data_dir, role == Role::Standby)?;
            let command_line = core.command_line(role)?;
            let log_from = std::fs::metadata(&settings.log_file).map_or(0, |log| log.len());
            let spec = core.guard_spec(&command_line);
            let life = core.fence.start(spec, role == Role::Primary, kills_seen)?;
            Ok((life, log_from))
        })
        .await??;
        if primary && let Err(error) = self.ask_watchdog(&life).await {
            life.guard.kill();
            return Err(error);
        }
        let sql = self.wait_accepting(&life, log_from).await?;
        Ok((life, sql))
    }

    /// A standby must not have less of some than its primary had (PostgreSQL docs, Hot Standby,
    /// "Administrator's Overview"): the greater of wanted and pg_control (contract 3.6).
    fn command_line(&self, role: Role) -> Result<BTreeMap<&'static str, String>, PgError> {
        let mut all = self.confs().of(role).command_line.clone();
        if role == Role::Primary {
            return Ok(all);
        }
        for (name, least) in read_control(&self.settings.data_dir)?.least {
            let wanted = all.get(name).and_then(|value| value.trim().parse().ok());
            if wanted.is_none_or(|wanted: u32| wanted < least) {
                all.insert(name, least.to_string());
            }
        }
        Ok(all)
    }

    fn guard_spec(&self, command_line: &BTreeMap<&'static str, String>) -> GuardSpec {
        let settings = &self.settings;
        let conf = settings.config_dir.join("postgresql.conf");
        let mut argv: Vec<OsString> = vec![
            settings.bin.program("postgres").into(),
            "-D".into(),
            settings.data_dir.clone().into(),
            format!("--config-file={}", conf.display()).into(),
        ];
        argv.extend(command_line.iter().map(|(name, value)| format!("--{name}={value}").into()));
        GuardSpec {
            exe: settings.guard_exe.clone(),
            run_dir: settings.run_dir.clone(),
            argv,
            env: postmaster_environment(),
            log_file: settings.log_file.clone(),
            // Set from what is armed when it starts.
            deadline: 0,
            term: 0,
            watchdog: self
                .fence
                .watch_plan()
                .map(|plan| (plan.watchdog, plan.timeout.unwrap_or(0))),
        }
    }

    /// Waits while there is progress: recovery can take long, standing still can't.
    async fn wait_accepting(&self, life: &Life, log_from: u64) -> Result<Sql, PgError> {
        let mut seen = String::new();
        let mut removed = Removed { from: log_from, since: None };
        let (mut looked, mut moved) = (Instant::now(), Instant::now());
        loop {
            if !life.is_running() {
                return Err(self.start_failed(log_from));
            }
            if let Some(pid) = life.guard.postmaster_pid()
                && says_ready(&self.settings.data_dir, pid)
                && let Ok(sql) = self.sql().await
            {
                life.accepted.store(true, Ordering::SeqCst);
                return Ok(sql);
            }
            if looked.elapsed() > PROGRESS {
                let now = life.guard.postmaster_pid().map(progress_of).unwrap_or_default();
                looked = Instant::now();
                // It goes to and fro between `recovering` a segment and `waiting for` it.
                let now = now.rsplit(' ').next().unwrap_or_default().to_owned();
                if now != seen {
                    (seen, moved) = (now, Instant::now());
                    removed.since = None;
                }
                if let Some(line) = removed.look(&self.settings.log_file) {
                    let words = format!("{NEEDS}: {line}");
                    return Err(PgError::failed(PgFailureKind::ToolFailed, words));
                }
            }
            if moved.elapsed() > self.settings.start_bound {
                let words = format!("no progress for {:?} while starting", moved.elapsed());
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why it ended, in its own words.
    pub(super) fn start_failed(&self, log_from: u64) -> PgError {
        let log = std::fs::read(&self.settings.log_file).unwrap_or_default();
        let from = usize::try_from(log_from).unwrap_or(0).min(log.len());
        let text = String::from_utf8_lossy(&log[from..]);
        let grave = |line: &&str| ["FATAL:", "PANIC:"].iter().any(|word| line.contains(word));
        let line = text.lines().rfind(grave).or(text.lines().last());
        let full = text.contains("No space left on device");
        let kind = if full { PgFailureKind::DiskFull } else { PgFailureKind::ToolFailed };
        PgError::failed(kind, format!("postgres: {}", line.unwrap_or("it ended without a word")))
    }
}

const NEEDS: &str = "this data needs WAL that its source has no more";
/// How a source says that: of a segment, and from PostgreSQL 18 of the slot that should have kept it.
const GONE: [&str; 2] = ["has already been removed", "has been invalidated due to \"wal_removed\""];

/// A standby that is not consistent yet, and whose source has removed what it needs to become so.
struct Removed {
    /// What the log had before is of other lives.
    from: u64,
    since: Option<Instant>,
}

impl Removed {
    /// The source's words, once they have held for long enough.
    fn look(&mut self, log: &Path) -> Option<String> {
        let text = std::fs::read(log).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or(0).min(text.len());
        let text = String::from_utf8_lossy(&text[from..]);
        let line = text.lines().rfind(|line| GONE.iter().any(|words| line.contains(words)))?;
        let since = *self.since.get_or_insert_with(Instant::now);
        (since.elapsed() > REMOVED).then(|| line.to_owned())
    }
}

/// Line 8 of postmaster.pid (PostgreSQL source, pidfile.h), when line 1 is this postmaster.
pub(super) fn says_ready(data_dir: &Path, postmaster: Pid) -> bool {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    let pid = postmaster.as_raw_nonzero().to_string();
    lines.next() == Some(&pid) && lines.nth(6).is_some_and(|line| line.starts_with("ready"))
}

/// What the startup process shows while it recovers: its title names the segment it reads.
pub(super) fn progress_of(pid: Pid) -> String {
    titles_of_children(pid.as_raw_nonzero().get(), false)
        .into_iter()
        .map(|(_, title)| title)
        .find(|title| title.contains("startup"))
        .unwrap_or_default()
}

/// Pids and process titles of a process's children. Only the exact way never misses one; the fast
/// way may when another child ends at the same time (proc(5), `children`).
pub(super) fn titles_of_children(parent: i32, exact: bool) -> Vec<(i32, String)> {
    let titled = |pid: i32| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&title).trim_end_matches('\0').to_owned()))
    };
    children_of(parent, exact).into_iter().filter_map(titled).collect()
}

/// From the kernel's list, or by looking at every process there is.
fn children_of(parent: i32, exact: bool) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    if let (Ok(list), false) = (list, exact) {
        return list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = |&pid: &i32| pgherd_guard::stat(pid).is_some_and(|seen| seen.parent == parent);
    pids.filter(child).collect()
}

/// Between two looks at the children.
pub(super) const CHILDREN_POLL: Duration = Duration::from_millis(5);
