//! What an idle agent costs: memory, threads, processor time, beside the real Patroni's, on the same
//! machine at the same time. Three clusters of three nodes, each with an etcd; a table and JSON.
//!
//! `cargo build --release -p pgherd-cli && cargo run --release -p pgherd-cli --example footprint -- [SECONDS]`

#![expect(dead_code, reason = "shares its helpers with the end-to-end tests")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that can't go on fails")]

#[path = "../../store/tests/it/certificates.rs"]
mod certificates;
#[path = "../tests/e2e/herd.rs"]
mod herd;
#[path = "../tests/e2e/many.rs"]
mod many;
#[path = "../tests/e2e/mixed.rs"]
mod mixed;
#[path = "../tests/e2e/processes.rs"]
mod processes;
#[path = "../tests/e2e/writer.rs"]
mod writer;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mixed::{Agent, Mixed};

/// After the start: copies, first elections, caches of allocators.
const SETTLE: Duration = Duration::from_secs(30);

/// A kind of agent, at these times.
struct Kind {
    name: &'static str,
    agent: Agent,
    /// ttl, `loop_wait`, `retry_timeout`.
    times: [u32; 3],
    /// How often its leader proves that it lives.
    renews: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind { name: "Patroni", agent: Agent::Patroni, times: [30, 10, 10], renews: "10 s" },
    Kind { name: "pgherd", agent: Agent::Pgherd, times: [30, 10, 10], renews: "6 s" },
    Kind { name: "pgherd", agent: Agent::Pgherd, times: [10, 2, 3], renews: "2 s" },
];

/// One process at one time.
#[derive(Clone, Debug)]
struct Look {
    pid: i32,
    part: &'static str,
    rss_kib: u64,
    pss_kib: u64,
    private_kib: u64,
    locked_kib: u64,
    threads: u64,
    cpu_ms: u64,
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(60, |word| word.parse().expect("seconds"));
    let window = Duration::from_secs(seconds);
    let mut sites = Vec::new();
    for kind in &KINDS {
        // Ports are free until somebody listens: one site after the other.
        let Some(mut site) = Mixed::with_times(&kind.times, "    synchronous_mode: quorum\n")
        else {
            return;
        };
        for name in ["node1", "node2", "node3"] {
            site.start(name, kind.agent);
            if name == "node1" {
                site.wait_leader(|leader| leader == "node1");
            }
        }
        site.wait_whole(2);
        sites.push(site);
    }
    std::thread::sleep(SETTLE);
    let before: Vec<Vec<Look>> = sites.iter().flat_map(looks).collect();
    let begin = Instant::now();
    std::thread::sleep(window);
    let after: Vec<Vec<Look>> = sites.iter().flat_map(looks).collect();
    let took = begin.elapsed();
    report(&before, &after, took);
}

/// The processes of each node of a site that are no PostgreSQL's.
fn looks(site: &Mixed) -> Vec<Vec<Look>> {
    let node = |dir: &std::path::PathBuf| {
        let pids = processes::living_below(dir).into_iter();
        pids.filter_map(|pid| look(pid, part(pid)?)).collect()
    };
    site.node_dirs().iter().map(node).collect()
}

/// Which part of an agent it is; none for PostgreSQL's own.
fn part(pid: i32) -> Option<&'static str> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = program.file_name()?.to_str()?.to_owned();
    let words = processes::words(pid);
    match name.as_str() {
        "pgherd" if words.iter().any(|word| word == "agent") => Some("agent"),
        "pgherd" => Some("guard"),
        python if python.starts_with("python") => Some("Patroni"),
        _ => None,
    }
}

fn look(pid: i32, part: &'static str) -> Option<Look> {
    let proc = Path::new("/proc").join(pid.to_string());
    let rollup = fs::read_to_string(proc.join("smaps_rollup")).ok()?;
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    let number = |text: &str, name: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum()
    };
    let private = number(&rollup, "Private_Clean") + number(&rollup, "Private_Dirty");
    let after_name: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    // In hundredths of a second: user, system.
    let ticks: u64 = after_name[11].parse::<u64>().ok()? + after_name[12].parse::<u64>().ok()?;
    Some(Look {
        pid,
        part,
        rss_kib: number(&rollup, "Rss"),
        pss_kib: number(&rollup, "Pss"),
        private_kib: private,
        locked_kib: number(&status, "VmLck"),
        threads: number(&status, "Threads"),
        cpu_ms: ticks * 10,
    })
}

/// Means over the three nodes of each kind, part by part and together.
fn report(before: &[Vec<Look>], after: &[Vec<Look>], took: Duration) {
    let mut rows = Vec::new();
    say(
        "| agent | ttl, renews each | process | RSS MiB | PSS MiB | private MiB | locked MiB | threads | CPU % of a core |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    for (kind, (before, after)) in KINDS.iter().zip(before.chunks(3).zip(after.chunks(3))) {
        let mut parts: Vec<&str> = after.iter().flatten().map(|look| look.part).collect();
        parts.sort_unstable();
        parts.dedup();
        let each = parts.len() > 1;
        for part in parts.into_iter().map(Some).chain(each.then_some(None)) {
            let wanted = |look: &&Look| part.is_none_or(|part| look.part == part);
            let of = |all: &[Vec<Look>], value: fn(&Look) -> u64| {
                let sum: u64 = all.iter().flatten().filter(wanted).map(value).sum();
                #[expect(clippy::cast_precision_loss, reason = "kilobytes and milliseconds")]
                let sum = sum as f64;
                sum / 3.0
            };
            let mib = |value: fn(&Look) -> u64| of(after, value) / 1024.0;
            let (rss, pss) = (mib(|l| l.rss_kib), mib(|l| l.pss_kib));
            let (private, locked) = (mib(|l| l.private_kib), mib(|l| l.locked_kib));
            let threads = of(after, |l| l.threads);
            let spent = of(after, |l| l.cpu_ms) - of(before, |l| l.cpu_ms);
            let cpu = spent / took.as_secs_f64() / 10.0;
            let (ttl, name) = (kind.times[0], part.unwrap_or("together"));
            say(&format!(
                "| {} | {ttl} s, {} | {name} | {rss:.1} | {pss:.1} | {private:.1} | {locked:.1} | {threads:.0} | {cpu:.2} |",
                kind.name, kind.renews
            ));
            rows.push(serde_json::json!({
                "agent": kind.name, "ttl": ttl, "part": name, "rss_mib": rss, "pss_mib": pss,
                "private_mib": private, "locked_mib": locked, "threads": threads, "cpu_percent": cpu,
                "seconds": took.as_secs_f64(),
            }));
        }
    }
    say(&serde_json::Value::Array(rows).to_string());
}

fn say(words: &str) {
    // Nobody to tell when standard output is gone.
    let _ = writeln!(std::io::stdout(), "{words}");
}
