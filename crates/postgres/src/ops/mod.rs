//! The operations, one file each, and what several of them need.
//! Leaves when to do which to the core.

mod apply;
mod archive;
mod clone;
pub(crate) mod diverged;
mod follow;
mod init;
mod private;
mod promote;
mod rewind;
mod roles;
mod room;
mod set_names;
mod slots;
mod start;
mod stop;

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pgherd_core::NodeName;
use pgherd_core::postgres::{PgFailureKind, PgOp, SyncNames};
use rustix::process::Signal;

use crate::conf::{Role, Shape, list_text};
use crate::facts::{blocking, too_many_connections};
use crate::files::Changed;
use crate::life::Life;
use crate::server::Core;
use crate::settings::Address;
use crate::sql::{Sql, literal};
use crate::vet::Confs;
use crate::{PgError, files};

/// One query on the local server, when nothing is wrong.
const QUICK: Duration = Duration::from_secs(5);
/// Between two looks at something that changes within milliseconds.
const POLL: Duration = Duration::from_millis(3);

impl Core {
    /// One operation. `kills_seen`: the count of kills when it was asked for.
    pub(crate) async fn run(self: &Arc<Self>, op: &PgOp, kills_seen: u64) -> Result<(), PgError> {
        match op {
            PgOp::Init => self.init().await,
            PgOp::StartPrimary { names } => self.start_primary(names, kills_seen).await,
            PgOp::StartReplica { upstream } => {
                self.start_replica(upstream.as_ref(), kills_seen).await
            }
            PgOp::Follow { upstream } => self.follow(upstream.as_ref()).await,
            PgOp::Promote { names } => self.promote(names).await,
            PgOp::Stop => self.stop().await,
            // It waits for no turn: Server::execute.
            PgOp::Kill => Ok(()),
            PgOp::Rewind { source } => self.rewind(source).await,
            PgOp::Clone { source } => self.copy_from(source).await,
            PgOp::SetNames { names } => self.set_names(names).await,
            PgOp::EnsureSlots { nodes } => self.ensure_slots(nodes).await,
        }
    }

    /// The life that an operation on a running server needs.
    fn running(&self) -> Result<Arc<Life>, PgError> {
        let life = self.fence.life().filter(|life| life.is_running());
        life.ok_or_else(|| PgError::failed(PgFailureKind::ToolFailed, "PostgreSQL isn't running"))
    }

    /// Where clients have taken all the others, the few reserved slots are the agent's: what it looks
    /// with has left its slot in a moment.
    async fn sql(&self) -> Result<Sql, PgError> {
        let begin = Instant::now();
        loop {
            match Sql::local(&self.settings, QUICK).await {
                Err(error) if too_many_connections(&error) && begin.elapsed() < QUICK => {
                    tokio::time::sleep(POLL).await;
                }
                result => return result,
            }
        }
    }

    pub(crate) fn address(&self, node: &NodeName) -> Result<Address, PgError> {
        (self.peers)(node).ok_or_else(|| {
            let words = format!("the address of {node} isn't known");
            PgError::failed(PgFailureKind::SourceUnreachable, words)
        })
    }

    async fn write_conf(self: &Arc<Self>, shape: Shape) -> Result<Changed, PgError> {
        let core = Arc::clone(self);
        blocking(move || core.write_files(shape)).await?
    }

    /// Blocks.
    fn write_files(&self, shape: Shape) -> Result<Changed, PgError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let confs = self.confs();
        let conf = confs.of(shape.role());
        let changed = files::write_conf(&self.settings, conf, &shape);
        // Whatever was written of it: the next writing is of this shape too.
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner) = Some(shape);
        changed
    }

    /// The configurations in use.
    pub(crate) fn confs(&self) -> Arc<Confs> {
        Arc::clone(&self.confs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The text of a list.
    fn list_text(&self, names: &SyncNames, role: Role) -> String {
        list_text(self.confs().of(role), names)
    }

    /// Has the postmaster read its files again, and waits until a new connection shows `value`: the
    /// postmaster tells its children before it forks the next one.
    async fn reload(&self, life: &Life, name: &str, value: &str) -> Result<(), PgError> {
        self.ask_reload(life)?;
        let begin = Instant::now();
        let query = format!("SELECT current_setting({})", literal(name));
        loop {
            let sql = self.sql().await?;
            if sql.cell("reading a setting", &query, QUICK).await? == value {
                return Ok(());
            }
            if begin.elapsed() > QUICK {
                let query = "SELECT string_agg(name || ': ' || error, '; ') \
                    FROM pg_file_settings WHERE error IS NOT NULL";
                let why = sql.cell("reading file errors", query, QUICK).await?;
                let words = format!("reload: {name} did not become '{value}' ({why})");
                return Err(PgError::failed(PgFailureKind::TimedOut, words));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has the postmaster read its files again.
    fn ask_reload(&self, life: &Life) -> Result<(), PgError> {
        let signalled = life.guard.signal_postmaster(Signal::HUP);
        signalled
            .map_err(|error| PgError::failed(PgFailureKind::ToolFailed, format!("reload: {error}")))
    }

    /// A lock file that was made just now and is empty may be that of a postmaster that lives.
    async fn empty_lock_file_is_old(&self) {
        if let Some(age) = files::empty_lock_file(&self.settings) {
            tokio::time::sleep(files::EMPTY_FOR.saturating_sub(age)).await;
        }
    }

    /// Makes sure that nothing of PostgreSQL lives, killing what no guard knows.
    async fn nothing_lives(self: &Arc<Self>) -> Result<(), PgError> {
        let busy = |words| Err(PgError::failed(PgFailureKind::ToolFailed, words));
        match self.fence.life() {
            Some(life) if life.is_running() => return busy("PostgreSQL is running"),
            Some(life) => {
                let begin = Instant::now();
                while !life.is_empty() {
                    if begin.elapsed() > QUICK {
                        return busy("processes of the last PostgreSQL are still there");
                    }
                    tokio::time::sleep(POLL).await;
                }
                self.fence.bury(&life);
            }
            None => {}
        }
        let core = Arc::clone(self);
        blocking(move || core.fence.look_for_unguarded()).await?;
        if self.fence.sweep_unguarded(QUICK).await {
            return Ok(());
        }
        let words = "processes live in the data directory and can't be killed";
        Err(PgError::failed(PgFailureKind::TimedOut, words))
    }
}

/// Runs until done or late.
async fn within<T>(
    bound: Duration,
    what: &str,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    match tokio::time::timeout(bound, work).await {
        Ok(result) => result,
        Err(_) => {
            let words = format!("{what}: not within {bound:?}");
            Err(PgError::failed(PgFailureKind::TimedOut, words))
        }
    }
}
