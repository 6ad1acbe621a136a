//! How long is nothing acknowledged? Runs rounds of each fault on one cluster and prints the
//! longest gap between acknowledged inserts: minimum, median, maximum, and everything as JSON.
//!
//! `cargo run --release --example outage -- [ROUNDS [FAULT...]]`

#![expect(dead_code, reason = "shares its helpers with the end-to-end tests")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that can't go on fails")]

#[path = "../tests/e2e/herd.rs"]
mod herd;
#[path = "../tests/e2e/processes.rs"]
mod processes;
#[path = "../tests/e2e/round.rs"]
mod round;
#[path = "../tests/e2e/writer.rs"]
mod writer;

use std::io::Write;

use herd::{Fault, Herd};

fn main() {
    let mut words = std::env::args().skip(1);
    let rounds: usize = words.next().map_or(10, |word| word.parse().expect("a number of rounds"));
    let named: Vec<String> = words.collect();
    let wanted = |fault: &Fault| named.is_empty() || named.iter().any(|n| n == fault.name());
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(wanted).collect();
    let program = herd::program_beside();
    let mut herd = Herd::new(&program);
    let started = herd.start();
    say(&format!("{}: whole after {} ms", program.display(), started.as_millis()));
    round::make_table(&herd);
    let mut first = 1;
    let mut results = serde_json::Map::new();
    let mut table = format!("{:<30} {:>7} {:>7} {:>7}  ms\n", "fault", "min", "median", "max");
    for fault in faults {
        let mut gaps = Vec::new();
        for number in 1..=rounds {
            let outcome = round::round(&mut herd, fault, first);
            first += 1_000_000;
            let gap = u64::try_from(outcome.longest_gap.as_millis()).unwrap_or(u64::MAX);
            say(&format!(
                "{} {number}/{rounds}: {gap} ms, {} -> {}, whole after {} ms",
                fault.name(),
                outcome.leader_before,
                outcome.leader_after,
                outcome.whole_after.as_millis()
            ));
            gaps.push(gap);
        }
        let mut sorted = gaps.clone();
        sorted.sort_unstable();
        let (min, median, max) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        table.push_str(&format!("{:<30} {min:>7} {median:>7} {max:>7}\n", fault.name()));
        results.insert(fault.name().to_owned(), serde_json::json!(gaps));
    }
    say(&table);
    say(&serde_json::Value::Object(results).to_string());
}

fn say(words: &str) {
    // Nobody to tell when standard output is gone.
    let _ = writeln!(std::io::stdout(), "{words}");
}
