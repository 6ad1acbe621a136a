//! A new copy of the leader's data: the methods in their order until one succeeds. pg_basebackup
//! makes it beside the data directory, a command of the user's in its place (contract 3.8).
//! Leaves making room, and putting in place, to `room`.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pgherd_config::lifecycle::{CustomReplica, ReplicaMethod};
use pgherd_core::postgres::{PgFailureKind, Source};

use super::{QUICK, room};
use crate::conf::{Wanted, conninfo_to};
use crate::durable::beside;
use crate::facts::blocking;
use crate::script::run_command;
use crate::server::{Core, Progress};
use crate::settings::Address;
use crate::sql::{Sql, literal};
use crate::tool::Tool;
use crate::wanted::Remote;
use crate::{PgError, read_control};

/// Between the two tries of pg_basebackup (contract 3.8).
const PAUSE: Duration = Duration::from_secs(5);

/// Its name in `create_replica_methods`.
const BASEBACKUP: &str = "basebackup";

/// A server whose data is copied.
struct Origin {
    at: Address,
    wanted: Wanted,
    /// The slot there that keeps WAL for this node.
    slot: Option<String>,
}

impl Core {
    /// A copy of `source`; of a backup, by the methods that need no leader.
    pub(super) async fn copy_from(self: &Arc<Self>, source: &Source) -> Result<(), PgError> {
        self.nothing_lives().await?;
        let at = self.origin(source)?;
        let methods = self.methods(source)?;
        let mut last = None;
        for method in &methods {
            let made = match (method, &at) {
                (ReplicaMethod::BaseBackup, Some(at)) => self.by_base_backup(at).await,
                (ReplicaMethod::Custom(method), at) if at.is_some() || method.no_leader => {
                    self.by_command(method, at.as_ref()).await
                }
                (ReplicaMethod::BaseBackup | ReplicaMethod::Custom(_), _) => continue,
            };
            *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match made {
                Ok(()) => return Ok(()),
                Err(PgError::Cancelled) => return Err(PgError::Cancelled),
                Err(error) => {
                    tracing::warn!("making a replica by {}: {error}", name(method));
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            let words = "no method makes a replica without a leader (no_leader)";
            PgError::failed(PgFailureKind::SourceUnreachable, words)
        }))
    }

    fn origin(&self, source: &Source) -> Result<Option<Origin>, PgError> {
        let slot = Some(self.settings.node.slot_name());
        Ok(match source {
            Source::Leader(node) => {
                Some(Origin { at: self.address(node)?, wanted: Wanted::Primary, slot })
            }
            Source::Member(node) => {
                Some(Origin { at: self.address(node)?, wanted: Wanted::Any, slot })
            }
            Source::Remote => {
                let Remote { at, slot, .. } = self.remote()?;
                at.map(|at| Origin { at, wanted: Wanted::Any, slot })
            }
            Source::Backup => None,
        })
    }

    /// The user's methods; those of a cluster that follows another one are named by its own settings.
    fn methods(&self, source: &Source) -> Result<Vec<ReplicaMethod>, PgError> {
        let mut methods = self.hooks().create_replica.clone();
        if *source == Source::Remote {
            let names = self.remote()?.methods;
            methods.retain(|method| names.iter().any(|wanted| wanted == name(method)));
            if names.iter().any(|wanted| wanted == BASEBACKUP)
                && !methods.contains(&ReplicaMethod::BaseBackup)
            {
                methods.push(ReplicaMethod::BaseBackup);
            }
        }
        if methods.is_empty() {
            methods.push(ReplicaMethod::BaseBackup);
        }
        Ok(methods)
    }

    // === pg_basebackup ===

    async fn by_base_backup(self: &Arc<Self>, from: &Origin) -> Result<(), PgError> {
        let copy = beside(&self.settings.data_dir, ".clone");
        let needed = self.size_of(&from.at).await;
        let mut again = true;
        loop {
            let (core, place) = (Arc::clone(self), copy.clone());
            blocking(move || {
                room::remove_tree(&place)?;
                room::make(&core.settings, needed)
            })
            .await??;
            let slot = self.free_slot(from).await;
            match self.base_backup(from, &copy, slot.as_deref()).await {
                Ok(()) => break,
                // Who isn't there now is asked again by the plan, with its own patience.
                Err(PgError::Failed(failure))
                    if again && failure.kind == PgFailureKind::ToolFailed =>
                {
                    again = false;
                    tracing::warn!("pg_basebackup is tried once more: {}", failure.detail);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        let core = Arc::clone(self);
        blocking(move || room::put_in_place(&core.settings, &copy)).await?
    }

    async fn base_backup(
        &self,
        from: &Origin,
        copy: &Path,
        slot: Option<&str>,
    ) -> Result<(), PgError> {
        let settings = &self.settings;
        let tool = Tool::new(settings, "pg_basebackup")
            .args(["-X", "stream", "--checkpoint=fast", "--progress", "--no-password"])
            .args(&self.hooks().basebackup)
            .arg("-D")
            .arg(copy)
            .arg("-d")
            .arg(format!("{} application_name=pgherd_clone", self.connstring(from)));
        let tool = match slot {
            Some(slot) => tool.arg("-S").arg(slot),
            None => tool,
        };
        let output = tool.run(|line| {
            if let Some(progress) = progress(line) {
                *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
            }
        });
        let output = output.await?;
        if output.success {
            return Ok(());
        }
        let away = [
            "connection to server",
            "could not connect",
            "could not receive",
            "could not read COPY data",
            "server closed the connection",
        ];
        let unreachable = away.iter().any(|words| output.said(words));
        let kind =
            if unreachable { PgFailureKind::SourceUnreachable } else { PgFailureKind::ToolFailed };
        Err(output.failure("pg_basebackup", kind))
    }

    fn connstring(&self, from: &Origin) -> String {
        let passfile = &self.settings.passfile;
        let user = &self.settings.replication;
        conninfo_to(&from.at, user, &passfile.to_string_lossy(), from.wanted)
    }

    /// This node's slot on the source, if it is there and nobody uses it: then the WAL between copy
    /// and streaming can't be lost.
    async fn free_slot(&self, from: &Origin) -> Option<String> {
        let slot = from.slot.clone()?;
        let sql = Sql::remote(&from.at, &self.settings.rewind, QUICK).await.ok()?;
        let query = format!(
            "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active \
             AND restart_lsn IS NOT NULL AND slot_name = {}",
            literal(&slot)
        );
        let found = sql.cell("looking for a slot", &query, QUICK).await.ok()?;
        (found == slot).then_some(slot)
    }

    /// How many bytes the source's databases have, where that can be asked.
    async fn size_of(&self, at: &Address) -> Option<u64> {
        let sql = Sql::remote(at, &self.settings.rewind, QUICK).await.ok()?;
        let query = "SELECT sum(pg_database_size(oid)) FROM pg_database WHERE datallowconn";
        sql.cell("asking the source's size", query, QUICK).await.ok()?.parse().ok()
    }

    // === a command of the user's ===

    /// In the data directory's own place, where tools expect it; a mark says that it isn't whole.
    async fn by_command(
        self: &Arc<Self>,
        method: &CustomReplica,
        from: Option<&Origin>,
    ) -> Result<(), PgError> {
        let settings = &self.settings;
        let needed = match from {
            Some(from) if !method.keep_data => self.size_of(&from.at).await,
            _ => None,
        };
        let (core, keep) = (Arc::clone(self), method.keep_data);
        blocking(move || room::begin_in_place(&core.settings, keep, needed)).await??;
        let what = format!("replica method {}", method.name);
        let connstring = from.map(|from| format!("{} dbname=postgres", self.connstring(from)));
        let args = method.run.for_replica(
            &settings.cluster_name,
            &settings.data_dir,
            connstring.as_deref().unwrap_or_default(),
        );
        let env = [("PGPASSFILE", settings.passfile.clone().into_os_string())];
        let mut ran = run_command(&method.run.command, &what, args, &env, None).await;
        if ran.is_ok()
            && let Err(error) = read_control(&settings.data_dir)
        {
            let words = format!("{what} ended well but left no data directory: {error}");
            ran = Err(PgError::failed(PgFailureKind::ToolFailed, words));
        }
        let (core, whole) = (Arc::clone(self), ran.is_ok());
        blocking(move || room::end_in_place(&core.settings, whole, keep)).await??;
        ran
    }
}

fn name(method: &ReplicaMethod) -> &str {
    match method {
        ReplicaMethod::BaseBackup => BASEBACKUP,
        ReplicaMethod::Custom(method) => &method.name,
    }
}

/// `  12345/67890 kB (18%), 0/1 tablespace`
fn progress(line: &str) -> Option<Progress> {
    // Not at a terminal, pg_basebackup ends its lines as usual; older ones return the carriage.
    let (done, rest) = line.rsplit('\r').next()?.trim().split_once('/')?;
    let (total, rest) = rest.split_once(' ')?;
    rest.starts_with("kB").then_some(())?;
    Some(Progress {
        done: done.parse::<u64>().ok()? * 1024,
        total: total.parse::<u64>().ok()? * 1024,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn progress_lines() {
        let progress = super::progress("  2048/4096 kB (50%), 0/1 tablespace").unwrap();
        assert_eq!((progress.done, progress.total), (2048 * 1024, 4096 * 1024));
        assert_eq!(super::progress("waiting for checkpoint"), None);
    }
}
