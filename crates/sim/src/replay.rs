//! `cargo sim replay FILE`: a record of a real agent through the same core that the simulation uses.
//! Leaves the record's form, and comparing, to the core.

use std::process::ExitCode;

use pgherd_core::record::replay;

use crate::report;

/// Exit codes as the command's: 1, the record was changed or decisions differ; 2, nothing to read.
pub(crate) fn command(files: &[String]) -> ExitCode {
    let [file] = files else {
        report::error("replay wants one file: the record of an agent (pgherd.record)");
        return ExitCode::from(2);
    };
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            report::error(&format!("{file}: {error}"));
            return ExitCode::from(2);
        }
    };
    let parse = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
    let found = replay(&text, parse, |decision| {
        let term = decision.term.map_or_else(String::new, |term| format!(" (term {term})"));
        let at = decision.at.0;
        report::line(&format!("{at:>14}  {}: {}{term}", decision.situation, decision.reason));
    });
    match found {
        Ok(summary) => {
            report::line(&summary.to_string());
            ExitCode::SUCCESS
        }
        Err(flaw) => {
            report::error(&format!("{file}: {flaw}"));
            ExitCode::FAILURE
        }
    }
}
