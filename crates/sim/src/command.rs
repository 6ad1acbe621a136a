//! The `sim` command: its words, its exit codes (0 fine, 1 an invariant is broken, 2 bad usage).

use std::process::ExitCode;
use std::time::Duration;

use pgherd_core::mutant::Mutant;

use crate::report;
use crate::run::{Outcome, Wanted, seed};
use crate::scenario;
use crate::stats::Stats;
use crate::world::Violation;

const HELP: &str = "\
Simulates clusters under faults, and says when an invariant is broken.

cargo sim                      one seed at random, printed first
cargo sim SEED [--trace]       the same run again, event by event
cargo sim --seeds N [--from S] so many seeds, from S (default 1)
cargo sim --minutes M          as many seeds as fit
   --nodes N                   that many nodes (2 to 5) instead of a drawn number
   --patroni                   some of the nodes have a Patroni instead of ours
   --all                       go on after a violation, one line for each
   --mutant NAME               with one law broken on purpose
   --by-model                  only the model's rules are asked (docs/protocol.md, The model)
cargo sim mutants [--most N]   each broken law must be noticed within N seeds (default 3000)
cargo sim scenarios [--update] [FILES]
cargo sim replay FILE          an agent's record (pgherd.record) through the same core
cargo sim bench                events per second on one core

Exit codes: 0 fine, 1 an invariant is broken or a golden output differs, 2 bad usage.";

/// What only the process can know: nothing of it reaches a simulated world but the first seed.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Wall-clock time since the process began, for speeds.
    pub elapsed: fn() -> Duration,
    /// A number at random, for a run without a seed.
    pub random: u64,
}

#[derive(Default)]
struct Words {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: Option<u64>,
    minutes: Option<u64>,
    most: Option<u64>,
    update: bool,
    all: bool,
    verb: Option<String>,
    files: Vec<String>,
    wanted: Wanted,
}

/// Runs the command; what it prints goes to standard output.
#[must_use]
pub fn main(words: &[String], outside: Outside) -> ExitCode {
    if words.iter().any(|w| w == "--help" || w == "-h") {
        report::line(HELP);
        return ExitCode::SUCCESS;
    }
    match parse(words) {
        Ok(words) => run(&words, outside),
        Err(mistake) => {
            report::error(&format!("{mistake}\n\n{HELP}"));
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[String]) -> Result<Words, String> {
    let mut out = Words::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut number = || -> Result<u64, String> {
            let value = rest.next().ok_or(format!("{word} wants a number"))?;
            value.parse().map_err(|_| format!("{word} wants a number, not '{value}'"))
        };
        match word.as_str() {
            "--patroni" => out.wanted.patroni = true,
            "--trace" => out.wanted.trace = true,
            "--all" => out.all = true,
            "--by-model" => out.wanted.by_model = true,
            "--update" => out.update = true,
            "--seeds" => out.seeds = Some(number()?),
            "--from" => out.from = Some(number()?),
            "--minutes" => out.minutes = Some(number()?),
            "--most" => out.most = Some(number()?),
            "--nodes" => {
                let nodes = number()? as usize;
                if !(1..=crate::pg::MAX_NODES).contains(&nodes) {
                    return Err(format!("--nodes wants 1 to {}", crate::pg::MAX_NODES));
                }
                out.wanted.nodes = Some(nodes);
            }
            "--mutant" => {
                let name = rest.next().ok_or("--mutant wants a name")?;
                out.wanted.mutant = Some(mutant(name)?);
            }
            "mutants" | "scenarios" | "bench" | "replay" => out.verb = Some(word.clone()),
            other if matches!(out.verb.as_deref(), Some("scenarios" | "replay")) => {
                out.files.push(other.to_owned());
            }
            other => {
                let seed =
                    other.parse().map_err(|_| format!("'{other}' is not a seed or an option"))?;
                out.seed = Some(seed);
            }
        }
    }
    Ok(out)
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let known = || Mutant::ALL.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>().join(", ");
    Mutant::ALL
        .into_iter()
        .find(|m| format!("{m:?}").eq_ignore_ascii_case(name))
        .ok_or_else(|| format!("no mutant '{name}'; there are {}", known()))
}

fn run(words: &Words, outside: Outside) -> ExitCode {
    match words.verb.as_deref() {
        Some("mutants") => mutants(words),
        Some("scenarios") => scenario::command(&words.files, words.update),
        Some("replay") => crate::replay::command(&words.files),
        Some("bench") => bench(words, outside),
        _ => match (words.seed, words.seeds, words.minutes) {
            (Some(one), None, None) => one_seed(one, words, outside),
            (None, None, None) => {
                let one = outside.random >> 16;
                report::line(&format!("seed {one}"));
                one_seed(one, words, outside)
            }
            _ => many(words, outside),
        },
    }
}

fn one_seed(number: u64, words: &Words, outside: Outside) -> ExitCode {
    if words.wanted.trace {
        report::line(report::LEGEND);
    }
    let started = (outside.elapsed)();
    let outcome = seed(number, words.wanted);
    report::violation(&outcome);
    if outcome.violation.is_some() {
        return ExitCode::FAILURE;
    }
    report::line(&outcome.world);
    report::summary(&outcome.stats, (outside.elapsed)() - started);
    ExitCode::SUCCESS
}

fn many(words: &Words, outside: Outside) -> ExitCode {
    let first = words.from.unwrap_or(1);
    let started = (outside.elapsed)();
    let limit = words.minutes.map(|m| Duration::from_secs(m * 60));
    let count = words.seeds.unwrap_or(u64::MAX);
    let mut sums = Stats::default();
    let mut broken = 0;
    for number in first..first.saturating_add(count) {
        if limit.is_some_and(|limit| (outside.elapsed)() - started > limit) {
            break;
        }
        let outcome = seed(number, words.wanted);
        sums.add(&outcome.stats);
        if let (Some(v), true) = (&outcome.violation, words.all) {
            broken += 1;
            report::line(&format!("seed {number} step {} {}: {}", v.step, v.invariant, v.found));
        } else if outcome.violation.is_some() {
            report::progress("");
            report::violation(&outcome);
            report::summary(&sums, (outside.elapsed)() - started);
            return ExitCode::FAILURE;
        }
        if number.is_multiple_of(10) {
            report::progress(&format!("seed {number}, {} failovers", sums.failovers));
        }
    }
    report::progress("");
    report::summary(&sums, (outside.elapsed)() - started);
    if broken == 0 {
        return ExitCode::SUCCESS;
    }
    report::line(&format!("{broken} seeds broke an invariant"));
    ExitCode::FAILURE
}

fn bench(words: &Words, outside: Outside) -> ExitCode {
    let started = (outside.elapsed)();
    let mut sums = Stats::default();
    for number in 1..=words.seeds.unwrap_or(50) {
        let outcome: Outcome = seed(number, words.wanted);
        sums.add(&outcome.stats);
    }
    report::summary(&sums, (outside.elapsed)() - started);
    ExitCode::SUCCESS
}

fn mutants(words: &Words) -> ExitCode {
    let most = words.most.unwrap_or(3_000);
    let mut missed = 0;
    let mut row = |mutant: Mutant, by: &str, wanted: Wanted| {
        let caught = catch(mutant, wanted, words.from.unwrap_or(1), most);
        let name = format!("{mutant:?}{by}");
        if let Some((number, v)) = caught {
            report::line(&format!("{name:<38} {:<32} {number:>8} {:>10}", v.invariant, v.step));
        } else {
            missed += 1;
            report::line(&format!("{name:<38} {:<32} {most:>8} {:>10}", "NOT CAUGHT", "-"));
        }
    };
    report::line(&format!("{:<38} {:<32} {:>8} {:>10}", "mutant", "caught by", "seed", "step"));
    let chosen = |mutant: &Mutant| words.wanted.mutant.is_none_or(|only| only == *mutant);
    for mutant in Mutant::ALL.into_iter().filter(chosen) {
        if !words.wanted.by_model {
            row(mutant, "", words.wanted);
        }
    }
    // The model must notice by itself what breaks a rule of its own.
    for mutant in crate::refine::NOTICES.into_iter().filter(chosen) {
        row(mutant, ", by the model", Wanted { by_model: true, ..words.wanted });
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed that notices.
fn catch(mutant: Mutant, wanted: Wanted, first: u64, most: u64) -> Option<(u64, Violation)> {
    let broken = Wanted { mutant: Some(mutant), ..wanted };
    let caught = (first..=most).find_map(|number| {
        report::progress(&format!("{mutant:?}: seed {number}"));
        let violation = seed(number, broken).violation?;
        // Another run than before may get stuck for reasons of its own.
        let slow = violation.invariant == "liveness" && mutant != Mutant::NeverRewinds;
        if slow {
            return None;
        }
        // What the laws as they are break too proves nothing.
        let sound = Wanted { mutant: None, ..wanted };
        seed(number, sound).violation.is_none().then_some((number, violation))
    });
    report::progress("");
    caught
}
