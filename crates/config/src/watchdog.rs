//! `watchdog` (contract 3.3, 4.12): whether the kernel's watchdog is used, which, and for how long.
//! Leaves feeding it to the guard.

use std::path::PathBuf;

use pgherd_core::Duration;

use crate::parse;
use crate::section::Section;

/// What `watchdog` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchdogSettings {
    /// Whether it is used.
    pub mode: WatchdogMode,
    /// Which.
    pub device: PathBuf,
    /// Seconds between its reset and the lease's end; `None`: half of the lease.
    pub safety_margin: Option<u64>,
    /// The device is a file that gets everything in writing.
    pub testing: bool,
}

/// `watchdog.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchdogMode {
    /// Never.
    Off,
    /// Where it can be.
    Automatic,
    /// Who can't use it doesn't lead.
    Required,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self {
            mode: WatchdogMode::Automatic,
            device: "/dev/watchdog".into(),
            safety_margin: Some(5),
            testing: false,
        }
    }
}

impl WatchdogSettings {
    /// After how many seconds without a confirmed belief the machine is reset. `None` when there is
    /// no such number: it must leave room for two renewals, and a renewal's way before the belief's
    /// end.
    #[must_use]
    pub fn timeout(&self, ttl: Duration) -> Option<u64> {
        let ttl_seconds = ttl.0 / 1_000_000;
        let timeout = match self.safety_margin {
            Some(margin) => ttl_seconds.checked_sub(margin)?,
            None => ttl_seconds / 2,
        };
        let micros = timeout * 1_000_000;
        let least = ttl.0 / 5 * 2;
        let most = ttl.0 / 10 * 9;
        (timeout > 0 && micros >= least && micros <= most).then_some(timeout)
    }
}

/// Reads the section.
pub(crate) fn watchdog(section: &Section<'_>) -> WatchdogSettings {
    let default = WatchdogSettings::default();
    let mode = |text: &str| match text.to_ascii_lowercase().as_str() {
        "off" | "false" => Ok(WatchdogMode::Off),
        "automatic" | "auto" | "true" | "on" => Ok(WatchdogMode::Automatic),
        "required" => Ok(WatchdogMode::Required),
        _ => Err("off, automatic or required".to_owned()),
    };
    let margin = |text: &str| match parse::integer(text)? {
        -1 => Ok(None),
        seconds => u64::try_from(seconds)
            .map(Some)
            .map_err(|_| "a number of seconds, or -1 for half of the ttl".to_owned()),
    };
    let driver = |text: &str| match text.to_ascii_lowercase().as_str() {
        "default" => Ok(false),
        "testing" => Ok(true),
        _ => Err("default or testing".to_owned()),
    };
    WatchdogSettings {
        mode: section.optional("mode", mode).unwrap_or(default.mode),
        device: section.optional("device", parse::absolute).unwrap_or(default.device),
        safety_margin: section.optional("safety_margin", margin).unwrap_or(default.safety_margin),
        testing: section.optional("driver", driver).unwrap_or(default.testing),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    #[test]
    fn the_reset_leaves_room_for_renewals() {
        let with = |safety_margin| WatchdogSettings { safety_margin, ..Default::default() };
        for (ttl, margin, expected) in [
            (30, Some(5), Some(25)),
            (30, None, Some(15)),
            (20, Some(5), Some(15)),
            // No renewal would come early enough.
            (30, Some(0), None),
            // Two renewals would not fit.
            (30, Some(25), None),
            (5, Some(5), None),
            (5, Some(9), None),
            (5, None, Some(2)),
            (2, None, Some(1)),
        ] {
            assert_eq!(with(margin).timeout(Duration::secs(ttl)), expected, "{ttl} {margin:?}");
        }
    }

    #[test]
    fn it_is_read_in_patronis_words() {
        let read = |text: &str| {
            let document = crate::yaml::Node::parse(text).unwrap();
            let problems = std::cell::RefCell::new(Vec::new());
            let read = watchdog(&Section::root(&document, &problems));
            (read, problems.into_inner().len())
        };
        assert_eq!(read("{}"), (WatchdogSettings::default(), 0));
        let (found, problems) =
            read("{mode: required, device: /w, safety_margin: -1, driver: testing}");
        let device = PathBuf::from("/w");
        let mode = WatchdogMode::Required;
        let expected = WatchdogSettings { mode, device, safety_margin: None, testing: true };
        assert_eq!((found, problems), (expected, 0));
        assert_eq!(read("{mode: off}").0.mode, WatchdogMode::Off);
        assert_eq!(read("{mode: maybe, device: w, safety_margin: -2}").1, 3);
    }
}
