//! A node's own CLOCK_BOOTTIME: another offset and up to 1 % another rate than the world's time.
//! Nothing else translates between the two.

use pgherd_core::Time;

/// World time: virtual microseconds since the seed began.
pub(crate) type Micros = u64;

/// The clock of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it showed when the world began; a hypervisor's hold makes it smaller.
    pub(crate) offset: i64,
    /// How much faster than the world's it goes, in millionths.
    pub(crate) ppm: i64,
}

impl Clock {
    /// What this clock shows at a world time.
    pub(crate) fn at(&self, now: Micros) -> Time {
        let now = now as i64;
        Time((self.offset + now + now * self.ppm / 1_000_000).max(0) as u64)
    }

    /// The first world time at which this clock shows `time` or more.
    pub(crate) fn world(&self, time: Time) -> Micros {
        if time == Time::NEVER || time.0 > 1 << 52 {
            return Micros::MAX;
        }
        let wanted = time.0 as i64 - self.offset;
        if wanted <= 0 {
            return 0;
        }
        let whole = i128::from(wanted) * 1_000_000 / i128::from(1_000_000 + self.ppm);
        let mut guess = (whole as u64).saturating_sub(2);
        while self.at(guess) < time {
            guess += 1;
        }
        guess
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use pgherd_core::Time;

    #[test]
    fn there_and_back() {
        for ppm in [-10_000, -3, 0, 7, 10_000] {
            let clock = Clock { offset: 5_000_000, ppm };
            for now in [0, 1, 999, 1_000_000, 123_456_789] {
                let shown = clock.at(now);
                let back = clock.world(shown);
                assert!(back <= now && clock.at(back) >= shown, "{ppm} {now}");
            }
        }
        assert_eq!(Clock { offset: 0, ppm: 0 }.world(Time::NEVER), u64::MAX);
    }
}
