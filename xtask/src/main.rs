//! Workspace chores: `cargo xtask tidy` checks the tree, `cargo xtask ci` runs what CI runs.
//! Changes no file, and knows nothing of what the crates do.

#![expect(clippy::print_stdout, reason = "a tool for the terminal; its output is its product")]

mod ci;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask tidy              check the rules that the compiler can't (also a test of this package)
cargo xtask ci                run every step of CI in order, go on after a failure, sum up
cargo xtask ci STEP...        run only these steps
cargo xtask ci --list         show the steps";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let succeeded = match words.as_slice() {
        ["tidy"] => tidy::run(&root()),
        ["ci", "--list"] => ci::list(),
        ["ci", steps @ ..] => ci::run(&root(), steps),
        _ => {
            println!("{USAGE}");
            matches!(words.as_slice(), ["help" | "--help" | "-h"])
        }
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The workspace's directory: the parent of this package's.
fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().map_or_else(|| package.clone(), PathBuf::from)
}
