//! What waits for a restart: as PostgreSQL says of its files, and by comparison for the command line,
//! of which it knows nothing. Asked once after each reload; leaves publishing it to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::PgError;
use crate::conf::Role;
use crate::control::read_control;
use crate::facts::blocking;
use crate::server::Core;
use crate::sql::{Row, Sql, literal};

/// Parameters by name, and what a restart would change about each.
pub type Pending = BTreeMap<String, PendingChange>;

/// One parameter that waits for a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingChange {
    /// In force now.
    pub old: Option<String>,
    /// In force after a restart; `None` when no file says it any more.
    pub new: Option<String>,
}

const BOUND: Duration = Duration::from_secs(5);
/// After a question without an answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Parameters of the files. A promotion takes the recovery's away, which PostgreSQL marks as pending though a
/// primary never reads them.
const FILES: &str = "SELECT s.name, current_setting(s.name), f.setting FROM pg_settings AS s \
    LEFT JOIN (SELECT DISTINCT ON (name) lower(name) AS name, setting FROM pg_file_settings \
               ORDER BY name, seqno DESC) AS f ON f.name = lower(s.name) \
    WHERE s.pending_restart AND (pg_is_in_recovery() OR s.name NOT LIKE 'recovery\\_target%')";

impl Core {
    pub(crate) async fn pending_restart(self: &Arc<Self>, seen: &AtomicU64) -> Pending {
        let mut news = self.news.subscribe();
        loop {
            let known = seen.load(Ordering::SeqCst);
            // The sender lives in self: no error is possible.
            let Ok(now) = news.wait_for(|now| *now > known).await.map(|now| *now) else {
                return Pending::new();
            };
            match self.ask_pending().await {
                Ok(pending) => {
                    seen.store(now, Ordering::SeqCst);
                    return pending;
                }
                Err(error) => {
                    tracing::debug!(%error, "what waits for a restart isn't known yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A new connection has loaded what the postmaster has; it is forked after the postmaster did.
    async fn ask_pending(self: &Arc<Self>) -> Result<Pending, PgError> {
        let sql = Sql::local(&self.settings, BOUND).await?;
        let query = "SELECT pg_is_in_recovery()";
        let standby = sql.cell("reading the role", query, BOUND).await? == "t";
        let role = if standby { Role::Standby } else { Role::Primary };
        if standby {
            self.end_a_hopeless_pause(&sql).await?;
        }
        let confs = self.confs();
        let wanted = &confs.of(role).command_line;
        let mut pending = Pending::new();
        for row in sql.rows("reading what waits for a restart", FILES, BOUND).await? {
            let Some((name, old, new)) = cells(row) else { continue };
            // A file that says something else than the command line changes nothing at a restart,
            // and PostgreSQL marks it nevertheless.
            if !wanted.contains_key(name.as_str()) {
                pending.insert(name, PendingChange { old, new });
            }
        }
        let names: Vec<_> = wanted.keys().map(|name| literal(name)).collect();
        let query = format!(
            "SELECT name, current_setting(name), NULL FROM pg_settings WHERE name IN ({})",
            names.join(",")
        );
        for row in sql.rows("reading the command line's", &query, BOUND).await? {
            let Some((name, Some(old), _)) = cells(row) else { continue };
            let Some(new) = wanted.get(name.as_str()) else { continue };
            if !same(&old, new) {
                let change = PendingChange { old: Some(old), new: Some(new.clone()) };
                pending.insert(name, change);
            }
        }
        Ok(pending)
    }
}

impl Core {
    /// Since PostgreSQL 14 a standby that has too little of what its primary has pauses replay, and
    /// would for ever; resumed, it ends, and starts again with as much (contract 4.5).
    async fn end_a_hopeless_pause(&self, sql: &Sql) -> Result<(), PgError> {
        let query = "SELECT pg_is_wal_replay_paused()";
        if sql.cell("asking whether replay is paused", query, BOUND).await? != "t" {
            return Ok(());
        }
        let data_dir = self.settings.data_dir.clone();
        for (name, least) in blocking(move || read_control(&data_dir)).await??.least {
            let query = format!("SELECT current_setting({})", literal(name));
            let now = sql.cell("reading a setting", &query, BOUND).await?;
            if now.parse().is_ok_and(|now: u32| now < least) {
                tracing::warn!(
                    parameter = name,
                    here = now,
                    primary = least,
                    "replay stands still: less than the primary has; starting again with as much"
                );
                sql.rows("resuming replay", "SELECT pg_wal_replay_resume()", BOUND).await?;
                return Ok(());
            }
        }
        Ok(())
    }
}

fn cells(row: Row) -> Option<(String, Option<String>, Option<String>)> {
    let mut cells = row.into_iter();
    Some((cells.next()??, cells.next()?, cells.next()?))
}

/// Whether two texts are the same value of one parameter, as far as the command line has them:
/// integers, booleans, words.
fn same(running: &str, wanted: &str) -> bool {
    let (running, wanted) = (running.trim(), wanted.trim());
    let word = |text: &str| match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" | "on" => "on".to_owned(),
        "false" | "no" | "0" | "off" => "off".to_owned(),
        // Before 9.6; still taken as input.
        "hot_standby" | "archive" => "replica".to_owned(),
        other => other.to_owned(),
    };
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(running), number(wanted)) {
        (Some(running), Some(wanted)) => running == wanted,
        (Some(_), None) | (None, Some(_)) | (None, None) => word(running) == word(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn spellings_of_one_value() {
        assert!(same("100", " 100") && same("on", "true") && same("off", "0"));
        assert!(same("replica", "hot_standby") && same("logical", "LOGICAL"));
        assert!(!same("100", "101") && !same("on", "off") && !same("replica", "logical"));
    }
}
