//! `pgherd replay FILE`: takes every decision of an agent's record again, and says them as explain
//! does. Exits with 1 when the record was changed, or when this pgherd decides otherwise.

use anyhow::Context;
use pgherd_core::record::{Flaw, replay};
use pgherd_core::{Decision, Time};

use crate::args::ReplayArgs;
use crate::output::{Failure, Outcome, Printer};

/// Runs the command.
pub(crate) fn run(args: &ReplayArgs) -> Outcome {
    let path = &args.file;
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut printer = Printer::new();
    let mut begin: Option<Time> = None;
    let mut broken = None;
    let parse = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
    let found = replay(&text, parse, |decision| {
        let begin = *begin.get_or_insert(decision.at);
        if let Err(error) = printer.line(words(decision, begin)) {
            broken.get_or_insert(error);
        }
    });
    if let Some(error) = broken {
        return Err(error.into());
    }
    match found {
        Ok(summary) => Ok(printer.line(summary)?),
        Err(flaw @ (Flaw::Empty | Flaw::NoHead | Flaw::Format { .. })) => {
            Err(Failure::refused(path.display().to_string(), flaw.to_string()))
        }
        Err(flaw @ (Flaw::Changed { .. } | Flaw::Unreadable { .. } | Flaw::Differs { .. })) => {
            Err(Failure::Failed(anyhow::Error::new(flaw).context(path.display().to_string())))
        }
    }
}

/// Since the first, situation, reason, term.
fn words(decision: &Decision, begin: Time) -> String {
    let micros = decision.at.since(begin).0;
    let (seconds, millis) = (micros / 1_000_000, micros / 1_000 % 1_000);
    let term = decision.term.map_or_else(String::new, |term| format!(" (term {term})"));
    let situation = decision.situation.to_string();
    format!("{seconds:>8}.{millis:03}  {situation:<10}  {}{term}", decision.reason)
}
