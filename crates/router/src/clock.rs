//! Reading the clocks. Leaves comparing times to those who hold them.

use pgherd_core::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on CLOCK_BOOTTIME, which [`crate::Topology::fresh_at`] counts on too.
#[must_use]
pub fn boottime() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
    Time(u64::try_from(micros).unwrap_or(0))
}
