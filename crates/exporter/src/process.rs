//! The exporter's own process, under the names of Prometheus' client libraries.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::page::{Kind, Page};

/// Adds `process_*`, as far as `/proc` tells.
pub(crate) fn put(page: &mut Page, started: SystemTime) {
    if let Some(seconds) = cpu_seconds() {
        let help = "Total user and system CPU time spent in seconds.";
        page.one("process_cpu_seconds_total", Kind::Counter, help, seconds);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        page.one("process_open_fds", Kind::Gauge, help, open.count());
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        let help = "Maximum number of open file descriptors.";
        page.one("process_max_fds", Kind::Gauge, help, limit);
    }
    if let Some((size, resident)) = memory() {
        let help = "Virtual memory size in bytes.";
        page.one("process_virtual_memory_bytes", Kind::Gauge, help, size);
        let help = "Resident memory size in bytes.";
        page.one("process_resident_memory_bytes", Kind::Gauge, help, resident);
    }
    let since = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let help = "Start time of the process since unix epoch in seconds.";
    page.one("process_start_time_seconds", Kind::Gauge, help, since);
}

/// Virtual and resident size in bytes.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').map_while(|word| word.parse::<u64>().ok());
    let size = u64::try_from(rustix::param::page_size()).ok()?;
    Some((pages.next()? * size, pages.next()? * size))
}

fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold blanks: fields 14 and 15 are user and system time in ticks.
    let (_, rest) = text.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map_while(|word| word.parse::<u32>().ok());
    let ticks = f64::from(times.next()?) + f64::from(times.next()?);
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some(ticks / f64::from(per_second))
}
