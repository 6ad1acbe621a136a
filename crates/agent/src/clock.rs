//! The node's clocks: CLOCK_BOOTTIME for everything that is decided, the wall clock for readers.

use std::time::{SystemTime, UNIX_EPOCH};

use pgherd_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock of all decisions.
pub(crate) fn now() -> Time {
    let at = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    Time(seconds * 1_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000)
}

/// Now, in unix milliseconds. For display and schedules only.
pub(crate) fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
