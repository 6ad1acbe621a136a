//! Scenarios: text files that tell a cluster's story to a stranger and to the test suite alike.
//!
//! A file begins with `# ` lines that say what it shows. Then blocks: one or more lines with a verb
//! (`verbs.rs`), `----`, and what came of it, up to an empty line. The output is golden:
//! `cargo sim scenarios --update` writes it anew, `cargo test` compares.

mod verbs;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::report;
use verbs::Stage;

/// One block of a file: its commands, and the output that the file shows.
struct Block {
    commands: Vec<String>,
    output: String,
}

struct Scenario {
    comments: String,
    blocks: Vec<Block>,
}

fn parse(text: &str) -> Scenario {
    let mut scenario = Scenario { comments: String::new(), blocks: Vec::new() };
    let mut commands = Vec::new();
    let mut output: Option<String> = None;
    for line in text.lines().chain([""]) {
        match (&mut output, line) {
            (Some(shown), "") => {
                let shown = std::mem::take(shown);
                scenario
                    .blocks
                    .push(Block { commands: std::mem::take(&mut commands), output: shown });
                output = None;
            }
            (Some(shown), line) => {
                shown.push_str(line);
                shown.push('\n');
            }
            (None, "----") => output = Some(String::new()),
            (None, "") => {}
            (None, line) if line.starts_with('#') && commands.is_empty() => {
                scenario.comments.push_str(line);
                scenario.comments.push('\n');
            }
            (None, line) => commands.push(line.to_owned()),
        }
    }
    if !commands.is_empty() {
        scenario.blocks.push(Block { commands, output: String::new() });
    }
    scenario
}

/// What a run of a file came to.
struct Played {
    /// The file as it should be.
    text: String,
    /// Blocks whose output is another one, expectations that failed, broken invariants.
    complaints: Vec<String>,
}

fn play(text: &str) -> Played {
    let scenario = parse(text);
    let mut stage = Stage::default();
    let mut played = Played { text: scenario.comments.clone(), complaints: Vec::new() };
    if !scenario.comments.starts_with("# ") {
        played.complaints.push("it doesn't begin with '# ' and what it shows".to_owned());
    }
    for block in &scenario.blocks {
        let mut output = String::new();
        for command in &block.commands {
            match stage.perform(command) {
                Ok(lines) => {
                    for line in lines {
                        let _ = writeln!(output, "{line}");
                    }
                }
                Err(why) => {
                    let _ = writeln!(output, "FAILED {command}: {why}");
                    played.complaints.push(format!("{command}: {why}"));
                }
            }
        }
        if output != block.output {
            played.complaints.push(difference(&block.commands, &block.output, &output));
        }
        let _ = write!(played.text, "\n{}\n----\n{output}", block.commands.join("\n"));
    }
    played
}

fn difference(commands: &[String], golden: &str, now: &str) -> String {
    let mut words = format!("after '{}':", commands.join("; "));
    let (mut old, mut new) = (golden.lines(), now.lines());
    loop {
        match (old.next(), new.next()) {
            (None, None) => return words,
            (was, is) if was == is => {}
            (was, is) => {
                let _ = write!(words, "\n  - {}", was.unwrap_or("(nothing)"));
                let _ = write!(words, "\n  + {}", is.unwrap_or("(nothing)"));
                return words;
            }
        }
    }
}

/// The folder `scenarios` of the workspace.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    files
}

fn play_file(path: &Path, update: bool) -> Vec<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let played = play(&text);
    if update && played.text != text {
        if let Err(error) = std::fs::write(path, &played.text) {
            return vec![format!("{name}: {error}")];
        }
        report::line(&format!("{name}: written anew"));
        return play_file(path, false);
    }
    played.complaints.into_iter().map(|c| format!("{name}: {c}")).collect()
}

/// `sim scenarios`.
pub(crate) fn command(chosen: &[String], update: bool) -> ExitCode {
    let all = if chosen.is_empty() { files() } else { chosen.iter().map(PathBuf::from).collect() };
    let mut complaints = 0;
    for path in &all {
        for complaint in play_file(path, update) {
            complaints += 1;
            report::line(&complaint);
        }
    }
    report::line(&format!("{} scenarios, {complaints} complaints", all.len()));
    if complaints == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `cargo test` complains about.
#[cfg(test)]
pub(crate) fn complaints() -> Vec<String> {
    files().iter().flat_map(|path| play_file(path, false)).collect()
}
