//! A planned stop: checkpoint, fast shutdown, and the guard when that takes too long.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal};

use super::{POLL, QUICK};
use crate::facts::blocking;
use crate::script::{NO_ARGUMENTS, run_command};
use crate::server::Core;
use crate::{PgError, files};

impl Core {
    pub(super) async fn stop(self: &Arc<Self>) -> Result<(), PgError> {
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let bound = self.settings.stop_bound;
        let Some(life) = self.fence.life() else { return self.stop_unguarded().await };
        if life.is_running() {
            self.tell_before_stop().await;
            // While clients still work, so that the shutdown's own checkpoint has little to write.
            if let Ok(sql) = self.sql().await {
                let _ = sql.rows("the checkpoint before the stop", "CHECKPOINT", bound / 2).await;
            }
            // ESRCH: it ended by itself.
            let _ = life.guard.signal_postmaster(Signal::INT);
        }
        let begin = Instant::now();
        while !life.is_empty() && life.guard.is_alive() && begin.elapsed() < bound {
            tokio::time::sleep(POLL).await;
        }
        if !life.is_empty() {
            tracing::warn!("fast shutdown not done within {bound:?}: killing the process tree");
            life.guard.kill();
            self.fence.killed().await;
        }
        self.memory.forget().await;
        self.fence.empty().await;
        Ok(())
    }

    /// The user's script; only its end is waited for, and not for ever.
    async fn tell_before_stop(&self) {
        let hooks = self.hooks();
        let Some(command) = &hooks.before_stop else { return };
        let bound = Some(self.settings.stop_bound);
        if let Err(error) = run_command(command, "before_stop", NO_ARGUMENTS, &[], bound).await {
            tracing::warn!("{error}; PostgreSQL is stopped all the same");
        }
    }

    /// A PostgreSQL that somebody else started in our directory.
    async fn stop_unguarded(self: &Arc<Self>) -> Result<(), PgError> {
        let core = Arc::clone(self);
        let living = blocking(move || core.fence.look_for_unguarded()).await?;
        if let Some(pid) = self.postmaster_of(&living) {
            // ESRCH: it is gone.
            let _ = rustix::process::kill_process(pid, Signal::INT);
            let begin = Instant::now();
            while self.fence.unguarded.load(Ordering::SeqCst)
                && begin.elapsed() < self.settings.stop_bound
            {
                tokio::time::sleep(POLL).await;
                let core = Arc::clone(self);
                blocking(move || core.fence.look_for_unguarded()).await?;
            }
        }
        self.fence.sweep_unguarded(QUICK).await;
        let core = Arc::clone(self);
        blocking(move || files::remove_stale_pid_file(&core.settings)).await?
    }

    fn postmaster_of(&self, living: &[i32]) -> Option<Pid> {
        let text = std::fs::read_to_string(self.settings.data_dir.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        living.contains(&pid).then_some(pid).and_then(Pid::from_raw)
    }
}
