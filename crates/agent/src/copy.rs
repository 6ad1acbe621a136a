//! This node's copy of the cluster's settings: `patroni.dynamic.json` in the data directory (contract
//! 3.5). It says what holds when the store can't be asked, and a leader writes it back when somebody
//! has wiped the store's (contract 4.1, row 5).

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgherd_api::Cluster;
use pgherd_core::cluster::{Initialize, Key};
use pgherd_core::{Revision, Time};
use pgherd_store::{Client, Compare, Op, Txn};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;

const NAME: &str = "patroni.dynamic.json";
const STORE_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts of the same: a data directory comes and goes, a store answers again.
const AGAIN: pgherd_core::Duration = pgherd_core::Duration::secs(2);

/// Keeps the copy, and gives it back.
pub(crate) struct DynamicCopy {
    data_dir: PathBuf,
    client: Client,
    /// The latest settings that could be read.
    known: Map<String, Value>,
    /// The revision that is on the disk.
    written: Arc<AtomicU64>,
    writing: Option<JoinHandle<()>>,
    restoring: Option<JoinHandle<()>>,
    tried: Time,
}

/// What the last agent here knew, if it left it.
pub(crate) fn load(data_dir: &Path) -> Option<Map<String, Value>> {
    let text = std::fs::read_to_string(data_dir.join(NAME)).ok()?;
    match serde_json::from_str(&text) {
        Ok(settings) => Some(settings),
        Err(error) => {
            tracing::warn!(%error, "{NAME} can't be read, and is made anew");
            None
        }
    }
}

impl DynamicCopy {
    /// `known` is what the cluster is founded with, or what [`load`] found.
    pub(crate) fn new(data_dir: PathBuf, client: Client, known: Map<String, Value>) -> Self {
        let written = Arc::default();
        let (writing, restoring, tried) = (None, None, Time(0));
        Self { data_dir, client, known, written, writing, restoring, tried }
    }

    /// Another directory may be in the data directory's place.
    pub(crate) fn forget(&self) {
        self.written.store(0, Ordering::Relaxed);
    }

    /// Called each turn: writes what has changed, and as the leader gives back what was wiped.
    pub(crate) fn look(&mut self, cluster: &Cluster, leads: bool, now: Time) {
        let Some(config) = cluster.config() else {
            if leads && self.may_try(now) {
                self.restore(cluster);
            }
            return;
        };
        let revision = config.modified.0;
        if self.written.load(Ordering::Relaxed) == revision {
            return;
        }
        if self.known != config.json {
            self.known.clone_from(&config.json);
        } else if !self.may_try(now) {
            return;
        }
        if self.writing.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (dir, settings) = (self.data_dir.clone(), self.known.clone());
        let written = Arc::clone(&self.written);
        self.writing = Some(tokio::task::spawn_blocking(move || match write(&dir, &settings) {
            Ok(true) => written.store(revision, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "{NAME} can't be written"),
        }));
    }

    fn may_try(&mut self, now: Time) -> bool {
        let may = self.tried + AGAIN <= now;
        if may {
            self.tried = now;
        }
        may
    }

    /// Nobody may have led or written in between.
    fn restore(&mut self, cluster: &Cluster) {
        let view = cluster.view();
        let founded = view.initialize.as_ref();
        let founded = founded.is_some_and(|i| matches!(i.value, Initialize::Done(_)));
        let busy = self.restoring.as_ref().is_some_and(|task| !task.is_finished());
        let (true, false, Some(leader)) = (founded, busy, &view.leader) else { return };
        let Ok(value) = serde_json::to_vec(&self.known) else { return };
        let keys = cluster.keys();
        let known = view.config.as_ref().map_or(Revision(0), |config| config.modified);
        let compare = vec![
            Compare::mod_revision(keys.path(&Key::Config), known.0),
            Compare::mod_revision(keys.path(&Key::Leader), leader.modified.0),
        ];
        let then = vec![Op::put(keys.path(&Key::Config), value)];
        let txn = Txn { compare, then, otherwise: Vec::new() };
        let client = self.client.clone();
        tracing::warn!("the cluster's settings are gone from the store, or can't be read there");
        self.restoring = Some(tokio::spawn(async move {
            match client.txn(txn, STORE_LIMIT).await {
                Ok(reply) if reply.succeeded => {
                    tracing::info!("the cluster's settings are back in the store, from {NAME}");
                }
                Ok(_) => tracing::info!("the cluster's settings were written meanwhile"),
                Err(error) => tracing::warn!(%error, "the settings could not be given back"),
            }
        }));
    }

    /// Waits for what was begun.
    pub(crate) async fn finish(self) {
        for task in [self.writing, self.restoring].into_iter().flatten() {
            // Each ends within its limit, and reports by itself.
            let _ = task.await;
        }
    }
}

/// Replaces the copy as a whole; false when there is no data directory that is complete. The mode is
/// that of PostgreSQL's own files there.
fn write(data_dir: &Path, settings: &Map<String, Value>) -> std::io::Result<bool> {
    if !data_dir.join("PG_VERSION").exists() {
        return Ok(false);
    }
    let mode = std::fs::metadata(data_dir)?.permissions().mode() & 0o666;
    let temporary = data_dir.join(format!("{NAME}.new"));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(&serde_json::to_vec(settings)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, data_dir.join(NAME))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_copy_is_read_back_and_a_broken_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let settings = json!({"ttl": 20}).as_object().cloned().unwrap();
        assert!(!write(dir.path(), &settings).unwrap(), "there is no PostgreSQL's data");
        std::fs::write(dir.path().join("PG_VERSION"), "17\n").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(write(dir.path(), &settings).unwrap());
        assert_eq!(load(dir.path()), Some(settings));
        let mode = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        std::fs::write(dir.path().join(NAME), "[").unwrap();
        assert_eq!(load(dir.path()), None);
    }
}
