//! Ending recovery: the list first, then the promotion, then a checkpoint that nobody waits for.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pgherd_core::postgres::{PgFailureKind, SyncNames};

use super::QUICK;
use crate::PgError;
use crate::conf::{Role, Shape};
use crate::script::{NO_ARGUMENTS, run_command};
use crate::server::Core;
use crate::sql::{Sql, Task};

/// Between two looks at pg_is_in_recovery(); pg_promote's own wait looks every 100 ms.
const LOOK: Duration = Duration::from_millis(5);
/// A checkpoint of a large server takes long, and nobody waits for it.
const CHECKPOINT: Duration = Duration::from_secs(3600);

impl Core {
    pub(super) async fn promote(self: &Arc<Self>, wanted: &SyncNames) -> Result<(), PgError> {
        let life = self.running()?;
        self.ask_watchdog(&life).await?;
        self.ask_pre_promote().await?;
        let sql = self.sql().await?;
        let waits = !wanted.names.is_empty();
        let first = if waits { SyncNames::nobody() } else { SyncNames::default() };
        let query = "SELECT current_setting('synchronous_standby_names')";
        let now = sql.cell("reading the list", query, QUICK).await?;
        let value = self.list_text(&first, Role::Standby);
        if now != value {
            // Still a standby: its upstream stays as it is until the recovery has ended.
            let standby = Some(self.follows_now(&sql).await?);
            self.write_conf(Shape { names: first, standby }).await?;
            self.reload(&life, "synchronous_standby_names", &value).await?;
        }
        sql.rows("promoting", "SELECT pg_promote(false)", QUICK).await?;
        // Who will probe comes in meanwhile.
        let probe = async { if waits { self.probe().await.map(Some) } else { Ok(None) } };
        let (promoted, probe) = tokio::join!(self.until_promoted(&sql), probe);
        promoted?;
        self.memory.forget_timeline();
        match probe? {
            Some(probe) => self.put_names_in_force(&life, &sql, probe, wanted).await?,
            None => self.write_names(&life, wanted).await?,
        }
        // Only now: its writing would slow down what everybody waits for.
        self.checkpoint_soon();
        Ok(())
    }

    /// The user's script, while this is still a standby. A script that never ends would hold the
    /// leader key for nothing: its bound is the start's.
    async fn ask_pre_promote(&self) -> Result<(), PgError> {
        let hooks = self.hooks();
        let Some(command) = &hooks.pre_promote else { return Ok(()) };
        let bound = Some(self.settings.start_bound);
        match run_command(command, "pre_promote", NO_ARGUMENTS, &[], bound).await {
            Ok(()) => Ok(()),
            Err(PgError::Failed(failure)) => {
                Err(PgError::failed(PgFailureKind::Refused, failure.detail))
            }
            Err(error) => Err(error),
        }
    }

    async fn until_promoted(&self, sql: &Sql) -> Result<(), PgError> {
        let begin = Instant::now();
        let query = "SELECT pg_is_in_recovery()";
        while sql.cell("waiting for the promotion", query, QUICK).await? != "f" {
            if begin.elapsed() > self.settings.start_bound {
                let words = format!("still in recovery after {:?}", begin.elapsed());
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// pg_rewind on others needs this server's pg_control to name the new timeline.
    fn checkpoint_soon(self: &Arc<Self>) {
        let core = Arc::clone(self);
        let task = Task::spawn(async move {
            let sql = match core.sql().await {
                Ok(sql) => sql,
                Err(error) => return tracing::warn!("no checkpoint after the promotion: {error}"),
            };
            if let Err(error) = sql.rows("a checkpoint", "CHECKPOINT", CHECKPOINT).await {
                tracing::warn!("the checkpoint after the promotion: {error}");
            }
        });
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}
