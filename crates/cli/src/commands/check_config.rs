//! `pgherd check-config [FILE|DIR]`: every mistake at once, with its place and what to write.
//! Exits with 2 when the agent would not start.

use std::path::Path;

use pgherd_config::{Local, Origin, Problem, Severity, check as checks};
use serde_json::{Map, Value, json};

use crate::args::{CheckConfigArgs, Report};
use crate::output::{Failure, Outcome, Printer};
use crate::settings::node::{Resolved, resolve};
use crate::sources;

/// The node's copy of the cluster's settings, in the data directory (contract 3.5).
pub(super) const CACHE: &str = "patroni.dynamic.json";

/// Runs the command.
pub(crate) fn run(args: &CheckConfigArgs) -> Outcome {
    check(args.file.as_deref(), args.output)
}

/// Says everything that is to be said.
pub(crate) fn check(file: Option<&Path>, report: Report) -> Outcome {
    let sources = sources::gather(file)?;
    if sources.is_empty() {
        let words = "nothing to check; name a settings file, or set PATRONI_SCOPE and the other \
                     variables (docs/configuration.md)";
        return Err(Failure::refused("check-config", words));
    }
    let (local, _) = sources.read();
    let mut problems = match resolve(&sources) {
        Ok(Resolved { warnings, .. }) => warnings,
        Err(problems) => problems,
    };
    if let Some(config) = cached(&local) {
        problems.extend(checks::founded_otherwise(&local, &config));
    }
    match report {
        Report::Pretty => pretty(&problems)?,
        Report::Json => {
            let list: Vec<Value> = problems.iter().map(json_of).collect();
            Printer::new()
                .line(serde_json::to_string_pretty(&list).map_err(anyhow::Error::from)?)?;
        }
    }
    let wrong = problems.iter().any(|problem| problem.severity == Severity::Error);
    if wrong { Err(Failure::Wrong) } else { Ok(()) }
}

/// What the cluster's settings were when this node last saw them, where its data can be read.
pub(super) fn cached(local: &Local) -> Option<Map<String, Value>> {
    let data = local.get(&["postgresql", "data_dir"])?.scalar()?;
    let text = std::fs::read_to_string(Path::new(&data).join(CACHE)).ok()?;
    serde_json::from_str(&text).ok()
}

fn pretty(problems: &[Problem]) -> Outcome {
    let mut printer = Printer::new();
    let of = |severity| problems.iter().filter(move |problem| problem.severity == severity);
    for problem in of(Severity::Error) {
        printer.line(format_args!("error: {problem}"))?;
    }
    for problem in of(Severity::Warning) {
        printer.line(format_args!("warning: {problem}"))?;
    }
    let count = |number: usize, one: &str| match number {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    let (errors, warnings) = (of(Severity::Error).count(), of(Severity::Warning).count());
    let verdict = if errors == 0 { "the agent would start" } else { "the agent would not start" };
    let words = format!("{}, {}: {verdict}", count(errors, "error"), count(warnings, "warning"));
    Ok(printer.line(words)?)
}

fn json_of(problem: &Problem) -> Value {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "severity": severity,
        "key": problem.place,
        "message": problem.words,
        "source": problem.origin.as_ref().map(place_of),
    })
}

/// A place, for programs.
pub(super) fn place_of(origin: &Origin) -> Value {
    let kind = origin.kind();
    match origin {
        Origin::Default | Origin::Dynamic => json!({ "kind": kind }),
        Origin::File { name, line } => json!({ "kind": kind, "name": &**name, "line": line }),
        Origin::Environment(name) | Origin::Spilo(name) => json!({ "kind": kind, "name": &**name }),
    }
}
