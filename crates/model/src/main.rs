//! `cargo model [--big]`: explores, prints a table and each mutant's trace; fails if a law breaks,
//! a mutant is missed or something that must be possible is not reached.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    pgherd_model::main(&words)
}
