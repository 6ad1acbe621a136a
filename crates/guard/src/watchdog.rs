//! The kernel's watchdog, which resets the machine when nobody feeds it: the fence behind the fence,
//! for a machine on which not even the guard runs any more. It is fed once for each confirmed
//! belief, and given back when nothing is left to fence.
//! Leaves whether it is used, and for how long, to the agent; killing in time to `watch`.
//!
//! A thread of its own: a device that hangs holds up no kill. Why the guard and not the agent does
//! this: docs/decisions/016-watchdog-in-the-guard.md.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::event::Timespec;

use crate::process::boottime_micros;
use crate::shared::{NEVER, Phase, Shared};

/// Between two looks at the page.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// `_IOWR('W', 6, int)` (linux/watchdog.h).
const WDIOC_SETTIMEOUT: libc::c_ulong = 0xC004_5706;
/// How the argument of a guard begins that names the device.
const ARGUMENT: [(&str, Driver); 2] =
    [("--watchdog=", Driver::Kernel), ("--testing-watchdog=", Driver::Testing)];

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// Where.
    pub device: PathBuf,
    /// What it is.
    pub driver: Driver,
}

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// The kernel's, with its calls.
    Kernel,
    /// A file or a pipe that gets everything in writing: Patroni's way to try it (contract 4.12).
    Testing,
}

/// How it is with the watchdog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchdogState {
    /// It doesn't run: nothing is armed, or nobody wants it.
    Off,
    /// It resets the machine unless it is fed.
    Running,
    /// It can't be used: the system's answer.
    Failed(i32),
}

impl Watchdog {
    /// As a guard's argument.
    pub(crate) fn argument(&self) -> std::ffi::OsString {
        let known = ARGUMENT.iter().find(|(_, driver)| *driver == self.driver);
        let mut word = std::ffi::OsString::from(known.map_or("", |(prefix, _)| prefix));
        word.push(&self.device);
        word
    }

    /// The device that an argument names.
    pub(crate) fn of_argument(word: &std::ffi::OsStr) -> Option<Self> {
        let word = word.to_str()?;
        ARGUMENT.iter().find_map(|(prefix, driver)| {
            let device = PathBuf::from(word.strip_prefix(prefix)?);
            Some(Self { device, driver: *driver })
        })
    }

    /// Feeds the device until nothing is left to fence.
    pub(crate) fn feed(&self, page: &Shared) {
        let mut open: Option<Open> = None;
        // The belief that was fed last, or that could not be.
        let mut known = NEVER;
        loop {
            let phase = page.status().phase;
            let timeout = page.watchdog_timeout.load(Ordering::SeqCst);
            let deadline = page.deadline.load(Ordering::SeqCst);
            // Whoever has SIGKILL pending acknowledges nothing any more.
            if phase >= Phase::Killed || timeout == 0 || deadline == NEVER {
                if let Some(device) = open.take() {
                    device.give_back();
                }
                page.watchdog_limit.store(0, Ordering::SeqCst);
                page.set_watchdog(WatchdogState::Off);
                known = NEVER;
                if phase >= Phase::Killed {
                    page.watchdog_over.store(1, Ordering::SeqCst);
                    return;
                }
            } else if phase <= Phase::Running && deadline != known {
                known = deadline;
                if is_fresh(boottime_micros(), timeout, deadline) {
                    let fed = self.feed_once(&mut open, timeout, page);
                    page.set_watchdog(match fed {
                        Ok(()) => WatchdogState::Running,
                        Err(error) => WatchdogState::Failed(error.raw_os_error().unwrap_or(0)),
                    });
                }
            }
            let _ = rustix::event::poll(&mut [], Some(&LOOK));
        }
    }

    fn feed_once(&self, open: &mut Option<Open>, timeout: u64, page: &Shared) -> io::Result<()> {
        // Before: from the last moment that it can't have been fed.
        let now = boottime_micros();
        let device = match open {
            Some(device) => device,
            None => open.insert(Open::new(&self.device, self.driver)?),
        };
        if device.timeout != timeout
            && let Err(error) = device.set_timeout(timeout)
        {
            // It runs already, for a time that nobody chose.
            if let Some(device) = open.take() {
                device.give_back();
            }
            page.watchdog_limit.store(0, Ordering::SeqCst);
            return Err(error);
        }
        device.write(b"1")?;
        let micros = timeout * 1_000_000;
        // A quarter, a second at most, for killing before the reset.
        let limit = now + micros - (micros / 4).min(1_000_000);
        page.watchdog_limit.store(limit, Ordering::SeqCst);
        Ok(())
    }
}

/// A belief can be fed when the reset comes no later than its end. One that was confirmed too long
/// ago isn't; the next one will be.
fn is_fresh(now: u64, timeout: u64, deadline: u64) -> bool {
    now.saturating_add(timeout.saturating_mul(1_000_000)) <= deadline
}

struct Open {
    file: File,
    driver: Driver,
    /// Seconds; 0 while nobody has said.
    timeout: u64,
}

impl Open {
    fn new(path: &Path, driver: Driver) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().write(true).open(path)?, driver, timeout: 0 })
    }

    fn set_timeout(&mut self, timeout: u64) -> io::Result<()> {
        match self.driver {
            Driver::Testing => self.file.write_all(format!("Ctimeout={timeout}\n").as_bytes())?,
            Driver::Kernel => {
                let wanted = libc::c_int::try_from(timeout).unwrap_or(libc::c_int::MAX);
                let mut seconds = wanted;
                #[expect(unsafe_code, reason = "no safe wrapper for this call")]
                // SAFETY: the call reads and writes one int, which lives until it returns.
                let answer = unsafe {
                    libc::ioctl(self.file.as_raw_fd(), WDIOC_SETTIMEOUT, &raw mut seconds)
                };
                if answer != 0 {
                    return Err(io::Error::last_os_error());
                }
                // Some can count only in large steps; a later reset would be too late.
                if seconds > wanted {
                    return Err(io::Error::from_raw_os_error(libc::EDOM));
                }
            }
        }
        self.timeout = timeout;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// The magic close: without it, closing resets the machine.
    fn give_back(mut self) {
        // What can't be given back resets the machine, which is what it is for.
        let _ = self.write(b"V");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_never_comes_after_the_belief() {
        assert!(is_fresh(0, 25, 29_600_000));
        assert!(is_fresh(4_600_000, 25, 29_600_000));
        assert!(!is_fresh(4_600_001, 25, 29_600_000));
        assert!(!is_fresh(1, u64::MAX, NEVER - 1));
    }

    #[test]
    fn an_argument_names_device_and_driver() {
        for driver in [Driver::Kernel, Driver::Testing] {
            let watchdog = Watchdog { device: "/dev/x y".into(), driver };
            assert_eq!(Watchdog::of_argument(&watchdog.argument()), Some(watchdog));
        }
        assert_eq!(Watchdog::of_argument("/usr/bin/postgres".as_ref()), None);
    }
}
