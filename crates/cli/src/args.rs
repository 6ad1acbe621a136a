//! The command line: names, defaults and help. Leaves checking and doing to the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    Agent(FileArgs),
    /// Run the router: write port, read port, dashboard
    Router(FileArgs),
    /// Run the embedded store
    Store(StoreArgs),
    /// Run a directory of SQL files through the router, once
    Init(crate::commands::init::InitArgs),
    /// Serve metrics of one PostgreSQL, as postgres_exporter does
    Exporter(crate::commands::exporter::ExporterArgs),
    /// Say which version this is
    Version,
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

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// A node's settings file, or one with scope, etcd3 and restapi.authentication
    #[arg(short, long, value_name = "FILE", env = "PATRONICTL_CONFIG_FILE", global = true)]
    pub(crate) config_file: Option<PathBuf>,
    /// The store's address, like etcd3://10.0.0.1:2379/namespace
    #[arg(short, long = "dcs-url", visible_alias = "dcs", env = "DCS_URL", global = true)]
    pub(crate) dcs_url: Option<String>,
    /// The directory of a cluster made by 'pgherd up'
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CtlCommand {
    /// List the members of the cluster
    List(ListArgs),
    /// Show the members as a tree of who streams from whom
    Topology(TopologyArgs),
    /// Move the leader's role to another member, in order
    Switchover(SwitchoverArgs),
    /// Make a named member the leader, also when there is none
    Failover(FailoverArgs),
    /// Show the timelines and why each ended
    History(HistoryArgs),
    /// Stop managing: nothing is promoted, demoted, started or stopped
    Pause(PauseArgs),
    /// Manage again
    Resume(PauseArgs),
    /// Show the cluster-wide settings
    ShowConfig(ClusterArg),
    /// Change the cluster-wide settings
    EditConfig(EditConfigArgs),
    /// Give a replica a new copy of the leader's data
    Reinit(ReinitArgs),
    /// Print a connection string
    Dsn(DsnArgs),
    /// Say what each member does now, and why
    Explain(ExplainArgs),
    /// Say which versions run
    Version(VersionArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ClusterArg {
    /// The cluster's name, when the settings don't say it
    pub(crate) cluster: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Show every column
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// Print the time first
    #[arg(short, long)]
    pub(crate) timestamp: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TopologyArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Print again each 2 seconds
    #[arg(short = 'W')]
    pub(crate) watch_2: bool,
    /// Print again each so many seconds
    #[arg(short = 'w', long = "watch", value_name = "SECS")]
    pub(crate) watch: Option<f64>,
}

/// Forms of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    Pretty,
    Tsv,
    Json,
    #[value(alias = "yml")]
    Yaml,
}

#[derive(Args, Debug)]
pub(crate) struct SwitchoverArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// The leader to be relieved
    #[arg(long, visible_alias = "primary", value_name = "MEMBER")]
    pub(crate) leader: Option<String>,
    /// Who follows; anyone fit when not given
    #[arg(long, value_name = "MEMBER")]
    pub(crate) candidate: Option<String>,
    /// When; only 'now' yet
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Who becomes leader
    #[arg(long, value_name = "MEMBER")]
    pub(crate) candidate: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Return only when every member knows
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EditConfigArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Say nothing about what changes
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// A setting, like ttl=10 or postgresql.parameters.work_mem=8MB; null removes
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// A PostgreSQL parameter, like work_mem=8MB; null removes
    #[arg(short = 'p', long = "pg", value_name = "NAME=VALUE")]
    pub(crate) pg: Vec<String>,
    /// A YAML file whose keys are merged into the settings; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) apply: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReinitArgs {
    /// The cluster's name, when the settings don't say it, and the members
    #[arg(value_name = "MEMBER", required = true)]
    pub(crate) members: Vec<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
    /// Return only when the copy is done
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DsnArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Of a member with this role
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Of this member
    #[arg(short, long, value_name = "MEMBER", conflicts_with = "role")]
    pub(crate) member: Option<String>,
}

/// Roles as patronictl names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    Leader,
    Primary,
    Replica,
    Standby,
    Any,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Only this member
    pub(crate) member: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// The cluster's name, when the settings don't say it
    pub(crate) cluster: Option<String>,
}
