//! pg_rewind: makes a former primary's directory a replica's again. Marked outside the directory
//! while it may be half done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgherd_core::NodeName;
use pgherd_core::postgres::PgFailureKind;

use super::QUICK;
use crate::conf::conninfo;
use crate::durable::{remove_durable, write_durable};
use crate::facts::blocking;
use crate::server::Core;
use crate::settings::Address;
use crate::sql::Sql;
use crate::tool::{Output, Tool};
use crate::{PgError, files};

/// How long the source's first checkpoint on its timeline may take.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// pg_rewind says this before it changes anything (pg_rewind.c, with --progress).
const BEGINS: &str = "need to copy";

impl Core {
    pub(super) async fn rewind(self: &Arc<Self>, source: &NodeName) -> Result<(), PgError> {
        self.nothing_lives().await?;
        let at = self.address(source)?;
        let sql = self.source_is_ready(&at).await?;
        // What an interrupted rewind has touched is no evidence.
        if !self.settings.rewinding_mark().exists() {
            self.keep_diverged(&sql).await;
        }
        self.archive_pending().await;
        let core = Arc::clone(self);
        let again = blocking(move || core.begin_rewind(&core.settings)).await??;

        let settings = &self.settings;
        let passfile = &settings.passfile;
        let source = conninfo(&at, &settings.rewind, &passfile.to_string_lossy());
        let tool = Tool::new(settings, "pg_rewind")
            .arg("--progress")
            .arg("-D")
            .arg(&settings.data_dir)
            .arg("--source-server")
            .arg(format!("{source} dbname=postgres application_name=pgherd_rewind"))
            .args(&self.hooks().rewind);
        let output = tool.run(|_| ()).await?;
        let untouched = !again && !output.success && !output.said(BEGINS);
        let success = output.success;
        let core = Arc::clone(self);
        blocking(move || core.end_rewind(success, untouched)).await??;
        if success { Ok(()) } else { Err(output.failure("pg_rewind", class(&output))) }
    }

    /// The source must be a primary whose pg_control names the timeline that it writes: until the
    /// first checkpoint after its promotion pg_rewind would take it for the old one.
    async fn source_is_ready(&self, at: &Address) -> Result<Sql, PgError> {
        let unreachable =
            |error: PgError| PgError::failed(PgFailureKind::SourceUnreachable, error.to_string());
        let sql = Sql::remote(at, &self.settings.rewind, QUICK).await.map_err(unreachable)?;
        let query = "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' \
            WHEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int \
                 = (SELECT timeline_id FROM pg_control_checkpoint()) THEN 'ready' ELSE 'early' END";
        let begin = Instant::now();
        let mut asked = false;
        loop {
            match sql
                .cell("looking at the source", query, QUICK)
                .await
                .map_err(unreachable)?
                .as_str()
            {
                "ready" => return Ok(sql),
                "standby" => {
                    let words = format!("{}:{} is a standby", at.host, at.port);
                    return Err(PgError::failed(PgFailureKind::SourceUnreachable, words));
                }
                _ if begin.elapsed() > CHECKPOINT => {
                    let words = "the source has made no checkpoint on its timeline";
                    return Err(PgError::failed(PgFailureKind::TimedOut, words));
                }
                // Before 15 only a superuser may; its own, after the promotion, comes anyway.
                _ if !asked => {
                    asked = true;
                    let _ = sql.rows("a checkpoint on the source", "CHECKPOINT", CHECKPOINT).await;
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Marks the directory. True when an earlier rewind was interrupted.
    fn begin_rewind(&self, settings: &crate::Settings) -> Result<bool, PgError> {
        let mark = settings.rewinding_mark();
        let again = mark.exists();
        files::remove_stale_pid_file(settings)?;
        write_durable(&mark, b"pg_rewind is at work, or was interrupted\n")?;
        // pg_rewind recovers an unclean directory in single-user mode, which refuses standbys.
        files::write_signal(&settings.data_dir, false)?;
        Ok(again)
    }

    fn end_rewind(&self, success: bool, untouched: bool) -> Result<(), PgError> {
        if !success && !untouched {
            return Ok(());
        }
        if success {
            files::renew_instance(&self.settings)?;
        }
        // Whatever starts it by mistake must not make a primary of it.
        files::write_signal(&self.settings.data_dir, true)?;
        remove_durable(&self.settings.rewinding_mark())
    }
}

fn class(output: &Output) -> PgFailureKind {
    let said = |all: &[&str]| all.iter().any(|words| output.said(words));
    // Words of pg_rewind.c, parsexlog.c and libpq_source.c, 13 to 18.
    let impossible = [
        "could not find common ancestor",
        "could not find previous WAL record",
        "could not read WAL record",
        "could not open file",
        "different systems",
        "not compatible",
        "needs to use either data checksums",
        "must be shut down cleanly",
    ];
    let away = ["connection to server", "could not connect", "server closed", "could not receive"];
    if said(&away) {
        PgFailureKind::SourceUnreachable
    } else if said(&impossible) {
        PgFailureKind::RewindImpossible
    } else {
        PgFailureKind::ToolFailed
    }
}
