//! Pointing a running replica at another upstream, or at none (a pledge).

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pgherd_core::postgres::{PgFailureKind, SyncNames, Upstream};
use rustix::process::{Pid, Signal};

use super::QUICK;
use super::start::{CHILDREN_POLL, titles_of_children};
use crate::PgError;
use crate::conf::{Follows, Shape, upstream_of};
use crate::life::Life;
use crate::server::Core;
use crate::sql::Sql;
use crate::wanted::Remote;

/// How long a WAL receiver may take to end after SIGTERM; one in state D takes longer, and then
/// there is no pledge.
const RECEIVER_BOUND: Duration = Duration::from_secs(10);
/// How long none may be seen before "gone" is said: a receiver that the startup process asked for
/// before it knew the new configuration is forked within this.
const QUIET: Duration = Duration::from_millis(20);

impl Core {
    pub(super) async fn follow(
        self: &Arc<Self>,
        upstream: Option<&Upstream>,
    ) -> Result<(), PgError> {
        let life = self.running()?;
        let follows = self.follows(upstream)?;
        let streams =
            matches!(follows, Follows::Server(..) | Follows::Remote(Remote { at: Some(_), .. }));
        let shape = Shape { names: SyncNames::nobody(), standby: Some(follows) };
        let wanted = shape.conninfo(&self.settings);
        self.write_conf(shape).await?;
        let before = receivers(&life, false);
        self.reload(&life, "primary_conninfo", &wanted).await?;
        // The startup process ends the receiver itself, but not while replay waits or is paused.
        if streams {
            // One that has come since has the new upstream, and would be missed for as long as
            // `wal_retrieve_retry_interval`.
            let now = receivers(&life, false);
            before.into_iter().filter(|pid| now.contains(pid)).for_each(terminate);
            Ok(())
        } else {
            self.no_receiver(&life).await
        }
    }

    /// Ends every WAL receiver until there is none and none comes back.
    async fn no_receiver(&self, life: &Life) -> Result<(), PgError> {
        let begin = Instant::now();
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            let mut there = receivers(life, false);
            if there.is_empty() && quiet_since.elapsed() + 2 * CHILDREN_POLL > QUIET {
                // What the answer will rest on.
                there = receivers(life, true);
            }
            if !there.is_empty() {
                there.into_iter().for_each(terminate);
                quiet_since = Instant::now();
            }
            if begin.elapsed() > RECEIVER_BOUND {
                let words = "the WAL receiver doesn't end (state D, most likely)";
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(CHILDREN_POLL).await;
        }
        Ok(())
    }

    /// An upstream with its address, for `primary_conninfo`.
    pub(super) fn follows(&self, upstream: Option<&Upstream>) -> Result<Follows, PgError> {
        let Some(upstream) = upstream else { return Ok(Follows::Nobody) };
        match upstream {
            Upstream::Leader(node)
            | Upstream::StandbyLeader(node)
            | Upstream::Member { node, .. } => {
                Ok(Follows::Server(upstream.clone(), self.address(node)?))
            }
            Upstream::Remote => Ok(Follows::Remote(self.remote()?)),
            Upstream::Archive => Ok(Follows::Archive),
        }
    }

    /// The cluster that this one follows, as it is wanted now.
    pub(super) fn remote(&self) -> Result<Remote, PgError> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.remote.clone().ok_or_else(|| {
            let words = "where the other cluster is isn't known (standby_cluster)";
            PgError::failed(PgFailureKind::SourceUnreachable, words)
        })
    }

    /// Whom this replica follows now, where a mistake would cut it off: an upstream whose address
    /// isn't known is an error.
    pub(super) async fn follows_as_it_is(&self, sql: &Sql) -> Result<Follows, PgError> {
        let (conninfo, upstream) = self.upstream_read(sql).await?;
        if upstream.is_none() && !conninfo.is_empty() {
            let words = "primary_conninfo is somebody else's";
            return Err(PgError::failed(PgFailureKind::ToolFailed, words));
        }
        self.follows(upstream.as_ref())
    }

    /// Whom this replica follows now. One whose address isn't known any more: nobody.
    pub(super) async fn follows_now(&self, sql: &Sql) -> Result<Follows, PgError> {
        let (_, upstream) = self.upstream_read(sql).await?;
        Ok(self.follows(upstream.as_ref()).unwrap_or(Follows::Nobody))
    }

    pub(crate) async fn upstream_read(
        &self,
        sql: &Sql,
    ) -> Result<(String, Option<Upstream>), PgError> {
        let query =
            "SELECT current_setting('primary_conninfo'), current_setting('primary_slot_name')";
        let rows = sql.rows("reading the upstream", query, QUICK).await?;
        let mut cells = rows.into_iter().flatten().map(Option::unwrap_or_default);
        let conninfo = cells.next().unwrap_or_default();
        let upstream = upstream_of(&conninfo, &cells.next().unwrap_or_default());
        Ok((conninfo, upstream))
    }
}

/// The WAL receivers of this postmaster: there is one at most, but one may go while another comes.
fn receivers(life: &Life, exact: bool) -> Vec<i32> {
    let Some(postmaster) = life.guard.postmaster_pid() else { return Vec::new() };
    // `postgres: CLUSTER_NAME: walreceiver ...`; a cluster name can hold nearly anything.
    let children = titles_of_children(postmaster.as_raw_nonzero().get(), exact);
    let receiver = |title: &str| {
        let last = title.rsplit(": ").next().unwrap_or_default();
        last.starts_with("walreceiver")
    };
    children.into_iter().filter(|(_, title)| receiver(title)).map(|(pid, _)| pid).collect()
}

fn terminate(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // ESRCH: it is gone.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}
