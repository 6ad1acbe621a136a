//! `synchronous_standby_names`: changing it so that every part of PostgreSQL follows (docs/protocol.md,
//! "The list"). Leaves which names, and the order against the store, to the core.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgherd_core::postgres::{PgFailureKind, SyncNames};

use super::{POLL, QUICK, within};
use crate::PgError;
use crate::conf::{Role, Shape};
use crate::life::Life;
use crate::server::Core;
use crate::sql::Sql;

/// A commit of nothing: it writes a commit record and no data.
const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'pgherd', '')";
/// Between two looks at what a signal changes.
const LOOK: Duration = Duration::from_millis(1);
/// A reload that shows nothing for this long has failed, most likely.
const SHOWN: Duration = Duration::from_millis(500);
/// Walsenders answer each flush at once; one that doesn't within this is ended by
/// `wal_sender_timeout` (5 s).
const WALSENDERS: Duration = Duration::from_secs(12);

impl Core {
    pub(super) async fn set_names(self: &Arc<Self>, wanted: &SyncNames) -> Result<(), PgError> {
        let life = self.running()?;
        let sql = self.sql().await?;
        let query = "SELECT current_setting('synchronous_standby_names') FROM \
            (SELECT 1 WHERE NOT pg_is_in_recovery()) AS primary_only";
        let rows = sql.rows("reading the list", query, QUICK).await?;
        let Some(now) = rows.into_iter().next().and_then(|row| row.into_iter().next()?) else {
            let words = "the list of a replica is pgherd's own: it is set when it is promoted";
            return Err(PgError::failed(PgFailureKind::QueryFailed, words));
        };
        let before = replies(&sql).await?;
        let (waited, waits) = (!now.trim().is_empty(), !wanted.names.is_empty());
        if waits && !(waited && life.waits_proven.load(Ordering::SeqCst)) {
            self.write_names(&life, &SyncNames::nobody()).await?;
            let probe = self.probe().await?;
            self.put_names_in_force(&life, &sql, probe, wanted).await?;
        } else {
            self.write_names(&life, wanted).await?;
        }
        if !waits {
            life.waits_proven.store(false, Ordering::SeqCst);
            if !self.list_text(wanted, Role::Primary).is_empty() {
                // The user's own list, which is nobody's promise.
                return Ok(());
            }
            return within(QUICK, "commits that wait for nobody", self.see_no_wait()).await;
        }
        if waited && crate::names::parse(&now).is_nobody() {
            // Who still goes by the list that nobody satisfies releases nothing.
            return Ok(());
        }
        self.walsenders_have_loaded(&sql, &before).await
    }

    /// With the impossible list in the files: sees a commit wait, then puts the real one there.
    pub(super) async fn put_names_in_force(
        self: &Arc<Self>,
        life: &Life,
        sql: &Sql,
        probe: Sql,
        wanted: &SyncNames,
    ) -> Result<(), PgError> {
        within(QUICK, "a commit that waits", see_a_wait(sql, &probe)).await?;
        // Its slot is needed for who looks whether the list is there, when clients have all the others.
        drop(probe);
        life.waits_proven.store(true, Ordering::SeqCst);
        if wanted.is_nobody() {
            return Ok(());
        }
        // Whoever goes by the impossible list a moment longer releases nothing, so that it is enough
        // when this connection shows the real one: a new one takes longer, beside everything else.
        let text = self.list_text(wanted, Role::Primary);
        self.write_conf(Shape { names: wanted.clone(), standby: None }).await?;
        self.ask_reload(life)?;
        let begin = Instant::now();
        let query = "SELECT current_setting('synchronous_standby_names')";
        while sql.cell("reading the list", query, QUICK).await? != text {
            if begin.elapsed() > SHOWN {
                // It says why.
                return self.reload(life, "synchronous_standby_names", &text).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Writes the list and waits until a new connection shows it.
    pub(super) async fn write_names(
        self: &Arc<Self>,
        life: &Life,
        wanted: &SyncNames,
    ) -> Result<(), PgError> {
        let text = self.list_text(wanted, Role::Primary);
        self.write_conf(Shape { names: wanted.clone(), standby: None }).await?;
        self.reload(life, "synchronous_standby_names", &text).await
    }

    /// A connection whose commits wait where any do.
    pub(super) async fn probe(&self) -> Result<Sql, PgError> {
        let probe = self.sql().await?;
        probe.rows("a probe commit", "SET synchronous_commit = on", QUICK).await?;
        Ok(probe)
    }

    /// Commits nothing until that waits for nobody.
    async fn see_no_wait(&self) -> Result<(), PgError> {
        let probe = self.probe().await?;
        // The checkpointer releases whoever still waits.
        probe.rows("a probe commit", COMMIT, QUICK).await.map(|_| ())
    }

    /// A walsender releases commits by the list it has loaded. Between two answers of its standby it
    /// has gone through its loop, which loads what SIGHUP announced; an ended one releases nothing.
    async fn walsenders_have_loaded(
        &self,
        sql: &Sql,
        before: &HashMap<String, String>,
    ) -> Result<(), PgError> {
        let mut last = before.clone();
        let mut answers: HashMap<String, u32> = HashMap::new();
        let begin = Instant::now();
        loop {
            // Something to send, so that there is something to answer.
            sql.rows("a message", COMMIT, QUICK).await?;
            let now = replies(sql).await?;
            for (pid, at) in &now {
                if last.insert(pid.clone(), at.clone()).is_some_and(|before| before != *at) {
                    *answers.entry(pid.clone()).or_default() += 1;
                }
            }
            let loaded = |pid: &String| !now.contains_key(pid) || answers.get(pid) >= Some(&2);
            if before.keys().all(loaded) {
                return Ok(());
            }
            if begin.elapsed() > WALSENDERS {
                let words = "a standby doesn't answer its walsender, which may use the old list";
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Commits nothing until a commit is seen to wait, then ends that wait.
async fn see_a_wait(watcher: &Sql, probe: &Sql) -> Result<(), PgError> {
    let pid = probe.cell("a probe commit", "SELECT pg_backend_pid()", QUICK).await?;
    let waiting =
        format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
    loop {
        let commit = probe.rows("a probe commit", COMMIT, QUICK);
        let seen = async {
            while watcher.cell("watching a commit", &waiting, QUICK).await?.is_empty() {
                tokio::time::sleep(POLL).await;
            }
            let cancel = format!("SELECT pg_cancel_backend({pid})");
            watcher.cell("ending a probe commit", &cancel, QUICK).await
        };
        tokio::pin!(commit);
        tokio::select! {
            biased;
            // It didn't wait: the checkpointer hasn't seen the list yet.
            done = &mut commit => { done?; }
            seen = seen => {
                seen?;
                commit.await?;
                return Ok(());
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Streaming walsenders and when their standby last answered.
async fn replies(sql: &Sql) -> Result<HashMap<String, String>, PgError> {
    let query = "SELECT pid, reply_time FROM pg_stat_replication WHERE state = 'streaming'";
    let rows = sql.rows("reading walsenders", query, QUICK).await?;
    let pair = |row: Vec<Option<String>>| {
        let mut cells = row.into_iter();
        Some((cells.next()??, cells.next()?.unwrap_or_default()))
    };
    Ok(rows.into_iter().filter_map(pair).collect())
}
