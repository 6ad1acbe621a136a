//! Results: JSON for programs, a page for people. Leaves judging to `check` and `runner`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result as Outcome};
use serde::Serialize;

use crate::check::Findings;
use crate::scenario::{Client, Goal, Scenario};

/// One round's longest times without an acknowledged write, and without an answered read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outages {
    pub(crate) write: Duration,
    pub(crate) read: Duration,
}

/// What became of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Result {
    name: String,
    about: String,
    goal: Option<Goal>,
    pub(crate) rounds: Vec<Outages>,
    /// Why it failed; it passed when there is none.
    pub(crate) failures: Vec<String>,
    pub(crate) findings: Findings,
    pub(crate) counts: Vec<(String, usize)>,
    pub(crate) seconds: f64,
    /// Where its logs are, when they were kept.
    pub(crate) logs: Option<String>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Distribution {
    rounds: usize,
    min: u128,
    median: u128,
    p99: u128,
    max: u128,
}

impl Distribution {
    fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<u128> = times.map(|time| time.as_millis()).collect();
        times.sort_unstable();
        let (min, max) = (*times.first()?, *times.last()?);
        let rounds = times.len();
        // The smallest time that 99 of 100 don't exceed.
        let p99 = times[(rounds * 99).div_ceil(100) - 1];
        let median = (times[(rounds - 1) / 2] + times[rounds / 2]) / 2;
        Some(Self { rounds, min, median, p99, max })
    }
}

impl Result {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            name: scenario.name.clone(),
            about: scenario.about.clone(),
            goal: scenario.goal.clone(),
            rounds: Vec::new(),
            failures: Vec::new(),
            findings: Findings::default(),
            counts: Vec::new(),
            seconds: 0.0,
            logs: None,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn outages(&self, client: Client) -> Option<Distribution> {
        Distribution::of(self.rounds.iter().map(|round| match client {
            Client::Writer => round.write,
            Client::Reader => round.read,
        }))
    }

    fn median_of(&self, client: Client) -> String {
        self.outages(client).map_or_else(|| "-".into(), |d| format!("{} ms", d.median))
    }

    /// For the terminal.
    pub(crate) fn line(&self) -> String {
        let word = if self.passed() { "passed" } else { "FAILED" };
        let (write, read) = (self.median_of(Client::Writer), self.median_of(Client::Reader));
        let mut line = format!("{word} in {:.0} s: writes {write}, reads {read}", self.seconds);
        for failure in &self.failures {
            let _ = write!(line, "\n  {failure}");
        }
        line
    }

    fn json(&self) -> serde_json::Value {
        let counts: serde_json::Map<_, _> =
            self.counts.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
        let each = |of: fn(&Outages) -> Duration| {
            self.rounds.iter().map(|round| of(round).as_millis()).collect::<Vec<_>>()
        };
        serde_json::json!({
            "scenario": self.name,
            "about": self.about,
            "passed": self.passed(),
            "failures": self.failures,
            "goal": self.goal.as_ref().map(|goal| serde_json::json!({
                "row": goal.row, "ms": goal.limit.as_millis(), "met": self.meets(goal),
            })),
            "write_ms": self.outages(Client::Writer),
            "read_ms": self.outages(Client::Reader),
            "rounds": {"write_ms": each(|r| r.write), "read_ms": each(|r| r.read)},
            "findings": self.findings,
            "counts": counts,
            "seconds": self.seconds,
        })
    }

    fn meets(&self, goal: &Goal) -> Option<bool> {
        // A client that writes each 10 ms on a busy machine doesn't see a goal of nothing exactly.
        let limit = goal.limit.max(Duration::from_millis(100)).as_millis();
        self.outages(goal.client).map(|distribution| distribution.median <= limit)
    }
}

/// Writes `report.json` and `report.md`.
pub(crate) fn write(at: &Path, build: &str, results: &[Result]) -> Outcome<()> {
    fs::create_dir_all(at).with_context(|| format!("{}", at.display()))?;
    let all: Vec<serde_json::Value> = results.iter().map(Result::json).collect();
    let json = serde_json::json!({"build": build, "scenarios": all});
    let json = serde_json::to_string_pretty(&json).context("the report")?;
    fs::write(at.join("report.json"), json).context("report.json")?;
    fs::write(at.join("report.md"), page(build, results)).context("report.md")
}

fn page(build: &str, results: &[Result]) -> String {
    let failed = results.iter().filter(|result| !result.passed()).count();
    let mut page = format!(
        "# The lab's report\n\n{} scenarios, {failed} failed; {build}. All times in \
         milliseconds: the longest between two acknowledged single-row inserts sent each 10 ms through \
         the router (or two answered reads), from the fault until everything is whole again.\n",
        results.len()
    );
    goals(&mut page, results);
    page.push_str("\n## Scenarios\n\n| scenario | result | writes: rounds, min / median / p99 / max | reads |\n|---|---|---|---|\n");
    for result in results {
        let word = if result.passed() { "passed" } else { "**FAILED**" };
        let (write, read) = (result.outages(Client::Writer), result.outages(Client::Reader));
        let _ = writeln!(page, "| {} | {word} | {} | {} |", result.name, cell(write), cell(read));
    }
    for result in results {
        let _ = writeln!(page, "\n### {}\n\n{}\n", result.name, result.about);
        for failure in &result.failures {
            let _ = writeln!(page, "```text\n{failure}\n```");
        }
        let counts = result.counts.iter().map(|(name, count)| format!("{count} {name}"));
        let _ = writeln!(page, "{}.", counts.collect::<Vec<_>>().join(", "));
        let waived = &result.findings.overlap_waived;
        if waived.count > 0 {
            let _ = writeln!(
                page,
                "Two primaries for clients who waived the replicas: {}.",
                waived.count
            );
        }
        if let Some(logs) = &result.logs {
            let _ = writeln!(page, "Logs: `{logs}`.");
        }
    }
    page
}

fn goals(page: &mut String, results: &[Result]) {
    let rows: Vec<(&Result, &Goal)> =
        results.iter().filter_map(|result| Some((result, result.goal.as_ref()?))).collect();
    if rows.is_empty() {
        return;
    }
    page.push_str("\n## Goals\n\n| fault | goal (median) | rounds, min / median / p99 / max | met | acknowledged and lost |\n|---|---|---|---|---|\n");
    for (result, goal) in rows {
        let met = match result.meets(goal) {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let (times, lost) = (cell(result.outages(goal.client)), result.findings.lost.count);
        let limit = goal.limit.as_millis();
        let _ = writeln!(page, "| {} | {limit} | {times} | {met} | {lost} |", goal.row);
    }
    page.push_str(
        "\nA goal of 0 counts as met up to 100 ms: what a busy machine makes without any fault.\n",
    );
}

fn cell(distribution: Option<Distribution>) -> String {
    distribution.map_or_else(
        || "-".into(),
        |d| format!("{}: {} / {} / {} / {}", d.rounds, d.min, d.median, d.p99, d.max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_of_what_was_measured() {
        let times = [30, 10, 20, 90].map(Duration::from_millis);
        let found = Distribution::of(times.into_iter());
        assert_eq!(found, Some(Distribution { rounds: 4, min: 10, median: 25, p99: 90, max: 90 }));
        assert_eq!(Distribution::of([].into_iter()), None);
    }
}
