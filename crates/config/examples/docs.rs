//! Prints `docs/configuration.md`:
//! `cargo run -p pgherd-config --example docs > docs/configuration.md`.

#![expect(clippy::print_stdout, reason = "its output is its product")]

fn main() {
    print!("{}", pgherd_config::docs::markdown());
}
