//! A PostgreSQL that only this agent reaches: it finishes a new data directory (recovery from a
//! backup, roles, the user's script) before the cluster exists. It has no guard because nobody can
//! commit anything there that somebody was promised: no TCP, and a socket in a private directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pgherd_core::postgres::{PgFailureKind, SyncNames};
use rustix::process::{Pid, Signal};
use tokio::process::Command;

use super::POLL;
use super::start::{PROGRESS, progress_of, says_ready};
use crate::conf::Shape;
use crate::durable::{remove_durable, write_durable};
use crate::facts::blocking;
use crate::server::Core;
use crate::tool::{Group, postmaster_environment};
use crate::{PgError, files};

/// Overrides for the private server. Nothing that carries a password's verifier is logged.
const PRIVATE: [&str; 9] = [
    "listen_addresses=",
    "synchronous_standby_names=",
    "logging_collector=off",
    // Recovery needn't have the parameters that the backup's primary had.
    "hot_standby=off",
    "log_statement=none",
    "log_min_error_statement=panic",
    "log_min_duration_statement=-1",
    "primary_conninfo=",
    "primary_slot_name=",
];
/// The parameters of which PostgreSQL accepts one.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// How a restored directory recovers.
pub(super) enum Recovery<'a> {
    /// As it stands: a complete directory, or one whose tool has configured the recovery.
    AsItStands,
    /// From the archive, with these parameters.
    Archive(&'a BTreeMap<String, String>),
}

/// It runs, and takes connections of this agent only.
pub(super) struct PrivateServer {
    core: Arc<Core>,
    group: Group,
    pid: Pid,
}

impl Core {
    /// Starts it on a directory, recovers, and waits until it is a primary.
    pub(super) async fn start_privately(
        self: &Arc<Self>,
        data_dir: &Path,
        recovery: Recovery<'_>,
    ) -> Result<PrivateServer, PgError> {
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "the configuration could not be tried; the last one is used");
        }
        let confs = self.confs();
        let line = confs.primary.command_line.iter();
        let mut options: Vec<String> =
            line.map(|(name, value)| format!("{name}={value}")).collect();
        // Of two the later one counts.
        options.extend(PRIVATE.iter().map(|&option| option.to_owned()));
        let archive = matches!(recovery, Recovery::Archive(_));
        if let Recovery::Archive(parameters) = recovery {
            options.extend(recovery_options(parameters)?);
        }
        let hba = self.settings.run_dir.join("bootstrap_hba.conf");
        options.push(format!("hba_file={}", hba.display()));
        self.empty_lock_file_is_old().await;
        let core = Arc::clone(self);
        let (data_dir, place) = (data_dir.to_owned(), data_dir.to_owned());
        let (log, log_from) = blocking(move || core.prepare(&place, &hba, archive)).await??;

        let settings = &self.settings;
        let mut command = Command::new(settings.bin.program("postgres"));
        command.arg("-D").arg(&data_dir).env_clear().envs(postmaster_environment());
        for option in &options {
            command.arg("-c").arg(option);
        }
        let failed = |error: std::io::Error| {
            let words = format!("postgres can't be run: {error}");
            PgError::failed(PgFailureKind::ToolFailed, words)
        };
        let second = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(second).process_group(0);
        let child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or(PgError::Cancelled)?;
        let mut server = PrivateServer { core: Arc::clone(self), group: Group::new(child), pid };
        server.wait_ready(&data_dir, log_from).await?;
        Ok(server)
    }

    fn prepare(&self, data_dir: &Path, hba: &Path, archive: bool) -> Result<(File, u64), PgError> {
        let settings = &self.settings;
        files::make_private(&settings.socket_dir)?;
        // The socket's directory is ours alone, and what was restored may have other passwords.
        write_durable(hba, b"local all all trust\n")?;
        remove_durable(&data_dir.join("postmaster.pid"))?;
        files::remove_stale_socket(settings, data_dir)?;
        let shape = Shape { names: SyncNames::default(), standby: None };
        files::write_conf_in(settings, data_dir, &self.confs().primary, &shape)?;
        if archive {
            remove_durable(&data_dir.join("standby.signal"))?;
            write_durable(&data_dir.join("recovery.signal"), b"")?;
        }
        let path = &settings.log_file;
        let log = File::options().create(true).append(true).open(path);
        let log = log.map_err(PgError::io("opening", path))?;
        let log_from = log.metadata().map_or(0, |log| log.len());
        Ok((log, log_from))
    }
}

fn recovery_options(parameters: &BTreeMap<String, String>) -> Result<Vec<String>, PgError> {
    if parameters.get("recovery_target_action").is_some_and(|action| action != "promote") {
        let words = "recovery_target_action must be promote (or left out): a cluster is founded \
            with a primary";
        return Err(PgError::failed(PgFailureKind::ToolFailed, words));
    }
    // What an earlier life left in postgresql.auto.conf must not be a second target.
    let mut all: Vec<_> = TARGETS
        .iter()
        .filter(|name| !parameters.contains_key(**name))
        .map(|name| format!("{name}="))
        .collect();
    for (name, value) in
        [("recovery_target_timeline", "latest"), ("recovery_target_action", "promote")]
    {
        if !parameters.contains_key(name) {
            all.push(format!("{name}={value}"));
        }
    }
    all.extend(parameters.iter().map(|(name, value)| format!("{name}={value}")));
    Ok(all)
}

impl PrivateServer {
    /// Recovery can take long, standing still can't.
    async fn wait_ready(&mut self, data_dir: &Path, log_from: u64) -> Result<(), PgError> {
        let mut seen = String::new();
        let (mut looked, mut moved) = (Instant::now(), Instant::now());
        while !says_ready(data_dir, self.pid) {
            if !matches!(self.group.child.try_wait(), Ok(None)) {
                self.group.ended = true;
                return Err(self.core.start_failed(log_from));
            }
            if looked.elapsed() > PROGRESS {
                let now = progress_of(self.pid);
                looked = Instant::now();
                if now != seen {
                    (seen, moved) = (now, Instant::now());
                }
            }
            if moved.elapsed() > self.core.settings.start_bound {
                let words = format!("recovery shows no progress for {:?}", moved.elapsed());
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A fast shutdown: its checkpoint is the end of the new cluster's WAL so far.
    pub(super) async fn stop(mut self) -> Result<(), PgError> {
        // ESRCH: it ended by itself, and its status says how.
        let _ = rustix::process::kill_process(self.pid, Signal::INT);
        let ended = tokio::time::timeout(self.core.settings.stop_bound, self.group.child.wait());
        match ended.await {
            Ok(Ok(status)) if status.success() => {
                self.group.ended = true;
                Ok(())
            }
            Ok(result) => {
                self.group.ended = true;
                let how =
                    result.map_or_else(|error| error.to_string(), |status| status.to_string());
                let words = format!("postgres: the new cluster did not stop cleanly: {how}");
                Err(PgError::failed(PgFailureKind::ToolFailed, words))
            }
            Err(_) => {
                let words = "postgres: the new cluster did not stop in time";
                Err(PgError::failed(PgFailureKind::TimedOut, words))
            }
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if !self.group.ended {
            // Its children lead groups of their own: the next operation looks for them.
            self.core.fence.unguarded.store(true, Ordering::SeqCst);
        }
    }
}
