//! Bringing another configuration to the server: tried, written, read again. Never a restart.
//! Leaves trying to `vet`, texts to `conf`, and when to do it to the caller.

use std::sync::{Arc, PoisonError};

use pgherd_core::postgres::{PgFailureKind, SyncNames};
use rustix::process::Signal;

use super::QUICK;
use crate::conf::{Follows, Role, Shape, users_lines};
use crate::facts::blocking;
use crate::server::Core;
use crate::sql::Sql;
use crate::vet::{Confs, vet};
use crate::{PgError, names};

/// PostgreSQL's own reading of the file on disk, whatever it has loaded.
const HBA_ERRORS: &str = "SELECT string_agg(format('line %s: %s', line_number, error), '; ') \
    FROM pg_hba_file_rules WHERE error IS NOT NULL";

impl Core {
    /// Has PostgreSQL take what is wanted now. Gives what it can't take.
    pub(crate) async fn bring(self: &Arc<Self>) -> Result<Vec<String>, PgError> {
        let mut kills = self.fence.kills();
        kills.mark_unchanged();
        let applied = tokio::select! {
            biased;
            _ = kills.changed() => Err(PgError::Cancelled),
            applied = async { self.settle().await?; self.apply().await } => applied,
        };
        // What is on the command line may differ though no file does.
        self.news.send_modify(|news| *news += 1);
        applied?;
        Ok(self.confs().problems.clone())
    }

    /// Tries what is wanted, unless that was done.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), PgError> {
        let _one = self.trying.lock().await;
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = self.confs();
        if last.tried && last.wanted == wanted {
            return Ok(());
        }
        let confs = vet(&self.settings, &last, wanted).await?;
        confs.problems.iter().for_each(|words| tracing::warn!("the configuration: {words}"));
        self.use_confs(confs);
        Ok(())
    }

    fn use_confs(&self, confs: Confs) {
        *self.confs.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(confs);
    }

    /// Writes what is different and has the running server read it. A server that doesn't run gets
    /// it when it starts.
    async fn apply(self: &Arc<Self>) -> Result<(), PgError> {
        let running = || self.fence.life().filter(|life| life.is_running());
        if running().is_none() {
            return Ok(());
        }
        let sql = self.sql().await?;
        let _turn = self.turn.lock().await;
        let Some(life) = running() else { return Ok(()) };
        let shape = self.shape_now(&sql).await?;
        let hba = self.settings.hba_file();
        let before = blocking(move || crate::read_durable(&hba)).await??.unwrap_or_default();
        let changed = self.write_conf(shape.clone()).await?;
        if changed.hba {
            let wrong = sql.cell("checking pg_hba.conf", HBA_ERRORS, QUICK).await?;
            if !wrong.is_empty() {
                self.keep_hba(&shape, &String::from_utf8_lossy(&before), &wrong).await?;
            }
        }
        if changed.any() {
            let signalled = life.guard.signal_postmaster(Signal::HUP);
            signalled.map_err(|error| {
                PgError::failed(PgFailureKind::ToolFailed, format!("reload: {error}"))
            })?;
            tracing::info!(?changed, "PostgreSQL reads its configuration again");
        }
        Ok(())
    }

    /// The lines that were there go on: a server that restarts with wrong ones would not start.
    async fn keep_hba(
        self: &Arc<Self>,
        shape: &Shape,
        before: &str,
        wrong: &str,
    ) -> Result<(), PgError> {
        let words = format!("pg_hba: {wrong}; the former lines stay");
        tracing::warn!("the configuration: {words}");
        let mut confs = Confs::clone(&self.confs());
        let lines = users_lines(&self.settings, before);
        confs.primary.hba.clone_from(&lines);
        confs.standby.hba = lines;
        confs.problems.push(words);
        self.use_confs(confs);
        self.write_conf(shape.clone()).await.map(|_| ())
    }

    /// What was written last; of a server that an earlier life of the agent started, what it shows.
    async fn shape_now(&self, sql: &Sql) -> Result<Shape, PgError> {
        let known = self.shape.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut shape) = known {
            if matches!(shape.standby, Some(Follows::Remote(_)))
                && let Ok(remote) = self.remote()
            {
                shape.standby = Some(Follows::Remote(remote));
            }
            return Ok(shape);
        }
        let query = "SELECT pg_is_in_recovery()";
        if sql.cell("reading the role", query, QUICK).await? == "t" {
            let standby = Some(self.follows_as_it_is(sql).await?);
            return Ok(Shape { names: SyncNames::nobody(), standby });
        }
        let query = "SELECT current_setting('synchronous_standby_names')";
        let text = sql.cell("reading the list", query, QUICK).await?;
        let users = self.confs().of(Role::Primary).standby_names.as_ref() == Some(&text);
        let names = if users { SyncNames::default() } else { names::parse(&text) };
        Ok(Shape { names, standby: None })
    }
}
