//! The command line: names, defaults and help. Leaves checking and doing to the commands.

mod ctl;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use ctl::*;

/// PostgreSQL as a herd: a few servers that stay one database.
#[derive(Parser, Debug)]
#[command(name = "pgherd", version, propagate_version = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine, in the foreground
    Up(UpArgs),
    /// Look at a cluster and change it
    Ctl(CtlArgs),
    /// Run the agent of one node
    Agent(AgentArgs),
    /// Run the router: write port, read port, dashboard
    Router(FileArgs),
    /// Run the embedded store
    Store(StoreArgs),
    /// Run a directory of SQL files through the router, once
    Init(crate::commands::init::InitArgs),
    /// Ask the agent, router or exporter of this machine whether it is well
    Health(crate::commands::health::HealthArgs),
    /// Serve metrics of one PostgreSQL, as postgres_exporter does
    Exporter(crate::commands::exporter::ExporterArgs),
    /// Name every mistake in a node's configuration, and what has no effect
    CheckConfig(CheckConfigArgs),
    /// Say for every effective setting where it came from
    ExplainConfig(ExplainConfigArgs),
    /// Take every decision of an agent's record again
    Replay(ReplayArgs),
    /// Say which version this is
    Version,
}

#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// The settings file (YAML), or a directory of such; the environment alone when not given
    pub(crate) file: Option<PathBuf>,
    /// As root: whom to become
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub(crate) user: String,
    /// Only name the mistakes in the settings, like 'pgherd check-config'
    #[arg(long)]
    pub(crate) validate_config: bool,
    /// Only print an example of a settings file
    #[arg(long, conflicts_with = "validate_config")]
    pub(crate) generate_sample_config: bool,
    /// Only make a settings file out of a PostgreSQL that runs: FILE, or standard output
    #[arg(long, conflicts_with_all = ["validate_config", "generate_sample_config"])]
    pub(crate) generate_config: bool,
    /// That PostgreSQL, and its superuser: 'host=... port=... user=... password=...'; what isn't
    /// there comes from PGHOST, PGPORT, PGUSER, PGPASSWORD
    #[arg(long, value_name = "DSN", requires = "generate_config")]
    pub(crate) dsn: Option<String>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// The record: 'record' or 'record.1' in the node's run_dir (see pgherd.record)
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct CheckConfigArgs {
    /// The settings file (YAML), or a directory of such; the environment alone when not given
    pub(crate) file: Option<PathBuf>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = Report::Pretty)]
    pub(crate) output: Report,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainConfigArgs {
    /// The settings file (YAML) or a directory of such, and the settings to show (all when none is
    /// named), like ttl or postgresql.parameters
    #[arg(value_name = "FILE|KEY")]
    pub(crate) words: Vec<String>,
    /// In which role
    #[arg(short, long, value_enum, default_value_t = NodeRole::Primary)]
    pub(crate) role: NodeRole,
    /// Don't ask the store, but take the cluster's settings from the node's copy
    #[arg(long)]
    pub(crate) offline: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = Report::Pretty)]
    pub(crate) output: Report,
}

/// Forms of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Report {
    Pretty,
    Json,
}

/// A node's part in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum NodeRole {
    Primary,
    Replica,
    StandbyLeader,
}

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Where the cluster lives [default: /var/lib/pgherd as root, else ~/.local/share/pgherd]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How many PostgreSQL servers [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) nodes: Option<u8>,
    /// Where clients write [default: 5432]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) write_port: Option<u16>,
    /// Where clients read from replicas [default: 5433]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) read_port: Option<u16>,
    /// Where the dashboard is [default: 7000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) http_port: Option<u16>,
    /// Where PostgreSQL's programs are [default: the newest of Debian's places and PATH]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// Who must have a commit before it is acknowledged [default: quorum]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// The cluster's name [default: pgherd]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) name: Option<String>,
    /// As root: whom PostgreSQL runs as
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub(crate) user: String,
}

/// Synchronous replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Nobody else: fast, and a failover can lose the last commits
    Async,
    /// One chosen replica
    Sync,
    /// Any one of the replicas
    Quorum,
}

#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// The settings file (YAML)
    pub(crate) file: PathBuf,
    /// As root: whom to become
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub(crate) user: String,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Where the store keeps its journal
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A TCP address to serve on, like 127.0.0.1:2379
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Stop after these locks are free when the starter vanished
    #[arg(long, value_name = "LOCK", hide = true)]
    pub(crate) outlive: Vec<PathBuf>,
    /// A Unix socket to serve on
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// As root: whom to become
    #[arg(long, value_name = "USER", default_value = "postgres")]
    pub(crate) user: String,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const DOCUMENTED: &str = include_str!("../../../docs/configuration.md");

    #[test]
    fn flags_and_variables_of_programs_without_a_file_are_documented() {
        let command = Cli::command();
        for name in ["exporter", "init", "health", "store"] {
            let program = command.find_subcommand(name).unwrap();
            let title = format!("### `pgherd {name}`");
            let section = DOCUMENTED.split_once(&title).unwrap().1;
            let section = section.split("\n### ").next().unwrap();
            // '--user' is said once of all.
            let shown = program.get_arguments().filter(|argument| {
                !argument.is_hide_set() && !["help", "user"].contains(&argument.get_id().as_str())
            });
            for argument in shown {
                let flag = argument.get_long().map(|long| format!("`--{long}`"));
                let variable = argument.get_env().map(|name| format!("`{}`", name.display()));
                for word in flag.into_iter().chain(variable) {
                    assert!(section.contains(&word), "{name}: {word}");
                }
            }
        }
    }
}
