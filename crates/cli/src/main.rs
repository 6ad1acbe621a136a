//! The pgherd binary. Who this process is to be is decided here, before any thread exists.

mod args;
mod commands;
mod confirm;
mod ctl;
mod first;
mod live;
mod lock;
mod log;
mod output;
mod privilege;
mod secret;
mod settings;
mod sources;
mod table;
mod topology;
mod up;
mod yaml_text;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    // A guard allocates little, starts no thread and must not depend on anything below.
    if words.first().is_some_and(|name| name == pgherd_guard::ARGV0) {
        return pgherd_guard::main(words);
    }
    if words.get(1).map(OsString::as_os_str) == Some(OsStr::new("guard")) {
        return pgherd_guard::main(words.split_off(1));
    }
    if first::applies(&words) {
        return first::run(&words).unwrap_or_else(|failure| output::finish(Err(failure)));
    }
    let cli = Cli::parse_from(words);
    output::finish(run(cli.command))
}

fn run(command: Command) -> output::Outcome {
    match command {
        Command::Up(args) => up::run(&args),
        Command::Ctl(args) => ctl::run(args),
        Command::Agent(args) => commands::agent::run(&args),
        Command::Router(args) => commands::router::run(&args),
        Command::Store(args) => commands::store::run(&args),
        Command::Init(args) => commands::init::run(&args),
        Command::Health(args) => commands::health::run(&args),
        Command::Exporter(args) => commands::exporter::run(args),
        Command::CheckConfig(args) => commands::check_config::run(&args),
        Command::ExplainConfig(args) => commands::explain_config::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Version => commands::version(),
    }
}
