//! `cargo sim`: see `cargo sim --help`. Everything is in the library.

fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    pgherd_sim::main(&words)
}
