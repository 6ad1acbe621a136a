//! Asks an agent for its health so many times a second, as load balancers do, and says what that
//! cost it.
//!
//! ```text
//! cargo run --release -p pgherd-api --example checks -- 127.0.0.1:8008 [RATE [SECONDS [PATH]]] [--close] [--pid PID]
//! ```
//!
//! `--close` opens a connection for each check, as HAProxy does; without it 16 connections are kept.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

const WORKERS: u32 = 16;

#[derive(Clone)]
struct Plan {
    address: String,
    request: String,
    close: bool,
    every: Duration,
    until: Instant,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let close =
        words.iter().position(|word| word == "--close").map(|at| words.remove(at)).is_some();
    let pid =
        words.iter().position(|word| word == "--pid").map(|at| words.drain(at..at + 2).next_back());
    let pid = pid.flatten();
    let mut words = words.into_iter();
    let address = words.next().ok_or("usage: checks HOST:PORT [RATE [SECONDS [PATH]]]")?;
    let rate: f64 = words.next().map_or(Ok(1_000.0), |word| word.parse())?;
    let seconds: u64 = words.next().map_or(Ok(10), |word| word.parse())?;
    let path = words.next().unwrap_or_else(|| "/primary".to_owned());
    let end = if close { "Connection: close\r\n" } else { "" };
    let plan = Plan {
        request: format!("OPTIONS {path} HTTP/1.1\r\nHost: {address}\r\n{end}\r\n"),
        address,
        close,
        every: Duration::from_secs_f64(f64::from(WORKERS) / rate),
        until: Instant::now() + Duration::from_secs(seconds),
    };
    let before = pid.as_deref().and_then(cpu);
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(plan.clone()));
    }
    let mut times = Vec::new();
    while let Some(done) = workers.join_next().await {
        times.extend(done??);
    }
    let took = begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let at =
        |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("{:.0} checks a second over {took:.0} s", times.len() as f64 / took);
    println!("median {:?}, 99 % {:?}, 99.9 % {:?}", at(0.5), at(0.99), at(0.999));
    if let (Some(before), Some(after)) = (before, pid.as_deref().and_then(cpu)) {
        println!("{:.1} % of one core in the agent", (after - before) / took * 100.0);
    }
    Ok(())
}

async fn work(plan: Plan) -> std::io::Result<Vec<Duration>> {
    let mut ticks = interval(plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut kept: Option<TcpStream> = None;
    let mut times = Vec::new();
    let mut buffer = [0; 4096];
    while Instant::now() < plan.until {
        ticks.tick().await;
        let begin = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&plan.address).await?,
        };
        stream.set_nodelay(true)?;
        stream.write_all(plan.request.as_bytes()).await?;
        // No body: the answer fits one segment. A connection that was idle for long is closed.
        let answered = stream.read(&mut buffer).await? > 0;
        if answered {
            times.push(begin.elapsed());
        }
        kept = (answered && !plan.close).then_some(stream);
    }
    Ok(times)
}

/// Seconds of CPU that a process has used (proc(5), fields 14 and 15, in hundredths).
fn cpu(pid: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
