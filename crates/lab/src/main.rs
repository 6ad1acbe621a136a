//! `cargo lab`: clusters of real PostgreSQL and etcd, each node a machine of its own in network
//! namespaces, with faults, clients that remember, and a checker. For people and CI; not shipped.
//! Everything below `scenarios/lab` can be run; results are written to `target/lab`.

#![expect(clippy::print_stdout, reason = "a tool for the terminal; its output is its product")]

mod check;
mod clock;
mod crowd;
mod faults;
mod history;
mod machine;
mod operator;
mod report;
mod runner;
mod sandbox;
mod scenario;
mod site;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use runner::Runner;
use sandbox::Sandbox;
use scenario::Scenario;
use site::Ground;
use workload::Load;

/// Real clusters in network namespaces, with faults. Needs root; says so and does nothing otherwise.
#[derive(Parser)]
#[command(name = "lab")]
struct Arguments {
    /// `all`, `ci`, `goals`, `list`, or names of texts in scenarios/lab.
    #[arg(required = true)]
    what: Vec<String>,
    /// How often each round is run.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// An optimised build of pgherd; always so for `goals`.
    #[arg(long)]
    release: bool,
    /// The program under test, instead of one that is built.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keeps the logs of scenarios that pass, too; then each has a cluster of its own.
    #[arg(long)]
    keep: bool,
    /// How long pgbench runs where a text says `load`, in seconds, instead of what is written there.
    #[arg(long)]
    length: Option<u64>,
    /// Where clusters lie while they run.
    #[arg(long, default_value = "/var/tmp")]
    below: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match std::env::var(sandbox::INSIDE) {
        Ok(given) if std::process::id() == 1 => sandbox::init(&given),
        Ok(given) => inside(&arguments, &given),
        Err(_) => outside(&arguments),
    };
    done.unwrap_or_else(|error| {
        say(&format!("lab: {error:#}"));
        ExitCode::FAILURE
    })
}

/// For whoever watches.
pub(crate) fn say(words: &str) {
    println!("{words}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn chosen(arguments: &Arguments) -> Result<Vec<Scenario>> {
    let all = read_all(&root().join("scenarios/lab"))?;
    let named = |scenario: &Scenario| arguments.what.contains(&scenario.name);
    for name in &arguments.what {
        let known = ["all", "ci", "goals", "list"].contains(&name.as_str());
        ensure!(
            known || all.iter().any(|scenario| scenario.name == *name),
            "no scenario is called '{name}'; `cargo lab list` shows them"
        );
    }
    let what = |word: &str| arguments.what.iter().any(|name| name == word);
    let mut chosen: Vec<Scenario> = all
        .into_iter()
        .filter(|s| {
            named(s)
                || what("all")
                || what("list")
                || what("ci") && s.ci
                || what("goals") && s.goal.is_some()
        })
        .collect();
    // Neighbours of one kind use one cluster.
    chosen.sort_by_key(|s| format!("{:?} {}", s.cluster, s.name));
    Ok(chosen)
}

fn read_all(dir: &Path) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        scenarios.push(Scenario::parse(&name, &text)?);
    }
    Ok(scenarios)
}

fn goals(arguments: &Arguments) -> bool {
    arguments.what.iter().any(|name| name == "goals")
}

fn release(arguments: &Arguments) -> bool {
    arguments.release || goals(arguments)
}

fn outside(arguments: &Arguments) -> Result<ExitCode> {
    let scenarios = chosen(arguments)?;
    if arguments.what.iter().any(|name| name == "list") {
        for scenario in &scenarios {
            let ci = if scenario.ci { "ci" } else { "" };
            say(&format!("{:<28} {ci:<3} {}", scenario.name, scenario.about));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(reason) = sandbox::missing() {
        say(&format!("SKIPPED: the lab did not run: {reason}"));
        say("0 passed, 0 failed, 1 skipped");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.binary.is_none() {
        let profile: &[&str] = if release(arguments) { &["--release"] } else { &[] };
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--locked", "--package", "pgherd-cli", "--bin", "pgherd"]);
        let status = cargo.args(profile).current_dir(root()).status().context("cargo")?;
        ensure!(status.success(), "pgherd does not build");
    }
    sandbox::enter(&arguments.below, arguments.length)
}

fn inside(arguments: &Arguments, given: &str) -> Result<ExitCode> {
    let sandbox = Sandbox::open(given)?;
    let profile = if release(arguments) { "release" } else { "debug" };
    let built = || target().join(profile).join("pgherd");
    // How a binary that was given is built nobody knows here.
    let given = arguments.binary.as_ref().map(|binary| binary.display().to_string());
    let build = given.unwrap_or_else(|| format!("{profile} build"));
    let binary = arguments.binary.clone().unwrap_or_else(built);
    let ground = Ground::new(sandbox, binary)?;
    let at = target().join("lab");
    let load = if goals(arguments) { Load::Light } else { Load::Full };
    let mut runner = Runner::new(&ground, at.join("logs"), arguments.keep);
    let mut results = Vec::new();
    for scenario in chosen(arguments)? {
        results.push(runner.run(&scenario, arguments.rounds, load));
        // After each, so that a run that is interrupted has said something.
        report::write(&at, &build, &results)?;
    }
    let failed = results.iter().filter(|result| !result.passed()).count();
    say(&format!("the report: {}", at.join("report.md").display()));
    // CI counts this line.
    say(&format!("{} passed, {failed} failed, 0 skipped", results.len() - failed));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_scenario_can_be_read() {
        let all = super::read_all(&super::root().join("scenarios/lab")).expect("they are right");
        assert!(all.iter().any(|scenario| scenario.ci));
        assert!(all.iter().all(|scenario| !scenario.about.is_empty()));
    }
}
