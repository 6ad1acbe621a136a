//! A copy of the leader by pg_basebackup: made beside the data directory, put in its place when it
//! is whole. What was there is moved aside, never removed before the copy stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgherd_core::NodeName;
use pgherd_core::postgres::PgFailureKind;

use super::QUICK;
use crate::conf::conninfo;
use crate::durable::{beside, remove_durable, rename_durable};
use crate::facts::blocking;
use crate::server::{Core, Progress};
use crate::settings::{Address, Settings};
use crate::sql::{Sql, literal};
use crate::tool::Tool;
use crate::{PgError, files};

impl Core {
    pub(super) async fn copy_from(self: &Arc<Self>, source: &NodeName) -> Result<(), PgError> {
        self.nothing_lives().await?;
        let at = self.address(source)?;
        let copy = beside(&self.settings.data_dir, ".clone");
        let place = copy.clone();
        blocking(move || remove_tree(&place)).await??;

        let slot = self.free_slot(&at).await;
        let result = self.base_backup(&at, &copy, slot.as_deref()).await;
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
        result?;
        let core = Arc::clone(self);
        blocking(move || put_in_place(&core.settings, &copy)).await?
    }

    async fn base_backup(
        &self,
        at: &Address,
        copy: &Path,
        slot: Option<&str>,
    ) -> Result<(), PgError> {
        let settings = &self.settings;
        let passfile = settings.passfile();
        let source = conninfo(at, &settings.replication.username, &passfile.to_string_lossy());
        let tool = Tool::new(settings, "pg_basebackup")
            .args(["-X", "stream", "--checkpoint=fast", "--progress", "--no-password", "-D"])
            .arg(copy)
            .arg("-d")
            .arg(format!("{source} application_name=pgherd_clone"));
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

    /// This node's slot on the source, if it is there and nobody uses it: then the WAL between copy
    /// and streaming can't be lost.
    async fn free_slot(&self, at: &Address) -> Option<String> {
        let slot = self.settings.node.slot_name();
        let sql = Sql::remote(at, &self.settings.rewind, QUICK).await.ok()?;
        let query = format!(
            "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active \
             AND restart_lsn IS NOT NULL AND slot_name = {}",
            literal(&slot)
        );
        let found = sql.cell("looking for a slot", &query, QUICK).await.ok()?;
        (found == slot).then_some(slot)
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

/// Old directory aside, copy in its place; a crash in between leaves no data directory, and the next
/// clone begins anew.
fn put_in_place(settings: &Settings, copy: &Path) -> Result<(), PgError> {
    let data = &settings.data_dir;
    // Whatever starts it by mistake must not make a primary of it.
    files::write_signal(copy, true)?;
    let mut aside = None;
    if !files::is_empty(data)? {
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let place = beside(data, &format!(".old-{seconds}"));
        rename_durable(data, &place)?;
        aside = Some(place);
    }
    files::renew_instance(settings)?;
    rename_durable(copy, data)?;
    remove_durable(&settings.rewinding_mark())?;
    // The copy has none of the source's slots.
    remove_durable(&settings.slots_file())?;
    for old in older_ones(data) {
        if aside.as_ref() != Some(&old) {
            tracing::info!("removing {}: one earlier directory is kept", old.display());
            remove_tree(&old)?;
        }
    }
    Ok(())
}

/// The directories that earlier clones moved aside.
fn older_ones(data_dir: &Path) -> Vec<PathBuf> {
    let prefix = beside(data_dir, ".old-");
    let Some(entries) = data_dir.parent().and_then(|parent| fs::read_dir(parent).ok()) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    let old = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.strip_prefix(&*prefix.to_string_lossy()).is_some_and(digits)
    };
    paths.filter(old).collect()
}

fn remove_tree(path: &Path) -> Result<(), PgError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PgError::io("removing", path)(error))
        }
        _ => Ok(()),
    }
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
