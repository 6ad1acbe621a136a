//! What this node wants of the kernel's watchdog: a function of its settings and the cluster's ttl.
//! Leaves feeding it to the guard, and asking for it before a promotion to `pgherd-postgres`.

use pgherd_config::{Settings, WatchdogMode, WatchdogSettings};
use pgherd_core::{Duration, Tags};
use pgherd_postgres::{Driver, WatchPlan, Watchdog};

/// What is wanted as long as this ttl holds.
pub(crate) fn plan(settings: &WatchdogSettings, ttl: Duration) -> WatchPlan {
    let driver = if settings.testing { Driver::Testing } else { Driver::Kernel };
    let used = settings.mode != WatchdogMode::Off;
    WatchPlan {
        watchdog: Watchdog { device: settings.device.clone(), driver },
        timeout: settings.timeout(ttl).filter(|_| used),
        required: settings.mode == WatchdogMode::Required,
    }
}

/// What this node is fit for. Who would be refused before the promotion doesn't stand for election.
pub(crate) fn tags(settings: &Settings) -> Tags {
    let mut tags = pgherd_config::tags::meaning(&settings.tags);
    let watchdog = &settings.watchdog;
    // Opening the device would start it.
    let writable = || rustix::fs::access(&watchdog.device, rustix::fs::Access::WRITE_OK);
    if watchdog.mode == WatchdogMode::Required
        && let Err(error) = writable()
    {
        let device = watchdog.device.display();
        tracing::error!(
            %device, %error,
            "the watchdog is required and can't be used: this node does not lead"
        );
        tags.failover_priority = 0;
    }
    tags
}
