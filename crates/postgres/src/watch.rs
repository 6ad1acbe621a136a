//! The kernel's watchdog as a leader uses it: whether it runs before PostgreSQL may be a primary.
//! Leaves feeding it to the guard, and what follows from a refusal to the core.

use std::time::{Duration, Instant};

use pgherd_core::postgres::PgFailureKind;
use pgherd_guard::WatchdogState;
pub use pgherd_guard::{Driver, Watchdog};

use crate::PgError;
use crate::life::Life;
use crate::server::Core;

/// The guard looks each 20 ms; a device is opened in less.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// What is wanted of the watchdog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchPlan {
    /// Which; a guard that runs keeps the one that it has.
    pub watchdog: Watchdog,
    /// Seconds without a confirmed belief after which the machine is reset; `None`: it isn't used,
    /// or the settings leave no room for it.
    pub timeout: Option<u64>,
    /// Without it, PostgreSQL is no primary here.
    pub required: bool,
}

impl Core {
    /// Before PostgreSQL becomes a primary: its guard is armed, and so feeds the watchdog.
    pub(crate) async fn ask_watchdog(&self, life: &Life) -> Result<(), PgError> {
        let Some(plan) = self.fence.watch_plan() else { return Ok(()) };
        let device = plan.watchdog.device.display();
        let refused = |why: String| {
            let words = format!("the watchdog {device} is required, and {why}");
            Err(PgError::failed(PgFailureKind::Refused, words))
        };
        let Some(timeout) = plan.timeout else {
            return if plan.required {
                refused(
                    "watchdog.safety_margin leaves it no time that fits the ttl; write -1, or a \
                     greater ttl"
                        .to_owned(),
                )
            } else {
                Ok(())
            };
        };
        let begin = Instant::now();
        loop {
            match life.guard.watchdog() {
                WatchdogState::Running => {
                    tracing::info!(%device, timeout, "the watchdog runs");
                    return Ok(());
                }
                WatchdogState::Failed(errno) if plan.required => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    return refused(format!("can't be used: {error}"));
                }
                WatchdogState::Failed(_) => return Ok(()),
                WatchdogState::Off if !plan.required => return Ok(()),
                WatchdogState::Off if begin.elapsed() > PATIENCE => {
                    return refused(
                        "does not run; is PostgreSQL's guard older than it?".to_owned(),
                    );
                }
                WatchdogState::Off => tokio::time::sleep(LOOK).await,
            }
        }
    }
}
