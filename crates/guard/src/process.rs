//! What `/proc` says about processes, read without allocating.
//! Leaves killing to `tree` and `sweep`.

use std::ffi::CStr;
use std::io::{self, Write as _};

use rustix::fs::{Mode, OFlags};
pub use rustix::process::Pid;
use rustix::time::ClockId;

/// Now, in microseconds of CLOCK_BOOTTIME.
#[must_use]
pub fn boottime_micros() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}

/// Field 3 of `/proc/PID/stat`, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcessState {
    /// It exists.
    Alive,
    /// It has ended and waits for its parent (Z or X).
    Dead,
}

/// Fields of `/proc/PID/stat` (proc(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessStat {
    /// Field 3.
    pub state: ProcessState,
    /// Field 4, the parent.
    pub parent: i32,
    /// Field 7, the controlling terminal; 0 for none.
    pub terminal: i32,
    /// Field 22: start time in clock ticks since boot. With the pid it identifies a process.
    pub start: u64,
}

/// The stat of a process, `None` when there is no such process (or `/proc` can't be read).
#[must_use]
pub fn stat(pid: i32) -> Option<ProcessStat> {
    let mut buffer = [0; 1024];
    let text = read_file(path(&mut [0; 64], format_args!("/proc/{pid}/stat")), &mut buffer)?;
    // The command name, in parentheses, may hold anything: fields count from the last ')'.
    let after = &text[text.iter().rposition(|&byte| byte == b')')? + 1..];
    let mut fields = after.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let state = match fields.next()? {
        b"Z" | b"X" => ProcessState::Dead,
        _ => ProcessState::Alive,
    };
    let parent = number(fields.next()?)?;
    let terminal = number(fields.nth(2)?)?;
    let start = number(fields.nth(14)?)?;
    Some(ProcessStat {
        state,
        parent: i32::try_from(parent).ok()?,
        terminal: i32::try_from(terminal).ok()?,
        start: start.cast_unsigned(),
    })
}

/// A decimal number, with an optional sign.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

/// Writes a path into `buffer`; the empty path when it doesn't fit, which no open finds.
pub(crate) fn path<'a>(buffer: &'a mut [u8; 64], words: std::fmt::Arguments<'_>) -> &'a CStr {
    let room = buffer.len() - 1;
    let mut rest = &mut buffer[..room];
    if rest.write_fmt(words).is_err() {
        return c"";
    }
    let used = room - rest.len();
    buffer[used] = 0;
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// Reads as much of a file as fits into `buffer`.
pub(crate) fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut used = 0;
    loop {
        match rustix::io::read(&fd, &mut buffer[used..]) {
            Ok(0) => return Some(&buffer[..used]),
            Ok(count) => used += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if used == buffer.len() {
            return Some(buffer);
        }
    }
}

/// Which boot this is: a pid and start time of another one mean nothing.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
