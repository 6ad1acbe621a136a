//! The arguments of `pgherd ctl`: patronictl's (contract 5.1, 5.2), and where a cluster is.
//! Leaves what they mean for a cluster to `ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

/// Where the cluster is, and how to be allowed to change it.
#[derive(Args, Debug)]
pub(crate) struct PlaceArgs {
    /// A node's settings file, or one with scope, etcd3 and ctl [default: the cluster of
    /// 'pgherd up', else ~/.config/patroni/patronictl.yaml]
    #[arg(short, long, value_name = "FILE", env = "PATRONICTL_CONFIG_FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// The store's address, like etcd3://10.0.0.1:2379/namespace
    #[arg(short, long = "dcs-url", visible_alias = "dcs", value_name = "URL", env = "DCS_URL")]
    pub(crate) dcs_url: Option<String>,
    /// Any agent's address, like http://10.0.0.1:8008: it is asked instead of the store
    #[arg(long, value_name = "URL", global = true)]
    pub(crate) agent: Option<String>,
    /// Take an agent's certificate without looking at it
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,
    /// The directory of a cluster made by 'pgherd up'
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) dir: Option<PathBuf>,
    /// A Citus group; taken for patronictl's sake, and of no effect
    #[arg(long, value_name = "N", global = true, hide = true)]
    pub(crate) group: Option<u32>,
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
    /// Restart PostgreSQL on members
    Restart(RestartArgs),
    /// Give replicas a new copy of the leader's data
    Reinit(ReinitArgs),
    /// Let agents read their settings again
    Reload(ReloadArgs),
    /// Take back a planned restart or switchover
    Flush(FlushArgs),
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
    /// Ask a member's PostgreSQL
    Query(QueryArgs),
    /// Print a connection string
    Dsn(DsnArgs),
    /// Remove all that the store knows of a cluster; data directories stay
    Remove(RemoveArgs),
    /// Say what each member does now, and why
    Explain(ExplainArgs),
    /// Make this cluster follow another one
    DemoteCluster(DemoteClusterArgs),
    /// Make a cluster that follows another one stand for itself
    PromoteCluster(PromoteClusterArgs),
    /// Say which versions run
    Version(VersionArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ClusterArg {
    /// The cluster's name, when the settings don't say it
    pub(crate) cluster: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ClustersArg {
    /// The clusters' names, when the settings don't say it
    #[arg(value_name = "CLUSTER")]
    pub(crate) clusters: Vec<String>,
}

/// patronictl's `CLUSTER [MEMBER]...`; the name can be left out when the settings say it.
#[derive(Args, Debug)]
pub(crate) struct MembersArg {
    /// The cluster's name, when the settings don't say it, and the members
    #[arg(value_name = "[CLUSTER] MEMBER")]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) clusters: ClustersArg,
    /// Show every column
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// Print the time first
    #[arg(short, long)]
    pub(crate) timestamp: bool,
    /// How to print
    #[arg(short, long, visible_short_alias = 'o', value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TopologyArgs {
    #[command(flatten)]
    pub(crate) clusters: ClustersArg,
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
    /// When: now, or a moment like 2026-11-22T18:00 or 2026-11-22T18:00+01:00
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
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) members: MembersArg,
    /// Only members with this role
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Only one of them, whichever
    #[arg(long)]
    pub(crate) any: bool,
    /// When: now, or a moment like 2026-11-22T18:00 or 2026-11-22T18:00+01:00
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Only where PostgreSQL is older than this, like 15.18
    #[arg(long, value_name = "VERSION")]
    pub(crate) pg_version: Option<String>,
    /// Only where a setting waits for a restart
    #[arg(long)]
    pub(crate) pending: bool,
    /// What the start may take before it counts as failed, like 60 or 2min
    #[arg(long, value_name = "SECS")]
    pub(crate) timeout: Option<String>,
    /// Ask nothing; takes the place of a restart that is planned already
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) members: MembersArg,
    /// Only members with this role
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FlushArgs {
    /// The cluster's name, when the settings don't say it, members, and what is taken back:
    /// restart or switchover
    #[arg(value_name = "[CLUSTER] MEMBER... restart|switchover", required = true)]
    pub(crate) words: Vec<String>,
    /// Only members with this role
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// How to print
    #[arg(short, long, visible_short_alias = 'o', value_enum, default_value_t = Format::Pretty)]
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
    #[arg(long, value_name = "FILE", conflicts_with = "replace")]
    pub(crate) apply: Option<PathBuf>,
    /// A YAML file that takes the settings' place; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) replace: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ReinitArgs {
    #[command(flatten)]
    pub(crate) members: MembersArg,
    /// Ask nothing, and break off what the member does at the moment
    #[arg(long)]
    pub(crate) force: bool,
    /// Copy from the leader, whatever the settings say about other sources
    #[arg(long)]
    pub(crate) from_leader: bool,
    /// Return only when the copy is done
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// The SQL
    #[arg(
        short,
        long,
        value_name = "SQL",
        conflicts_with = "file",
        required_unless_present = "file"
    )]
    pub(crate) command: Option<String>,
    /// A file with the SQL; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Tsv)]
    pub(crate) format: Format,
    /// What stands between columns of tsv [default: a tabulator]
    #[arg(long, value_name = "TEXT")]
    pub(crate) delimiter: Option<String>,
    /// PostgreSQL's user
    #[arg(short = 'U', long, value_name = "NAME", env = "PGUSER")]
    pub(crate) username: Option<String>,
    /// PostgreSQL's database
    #[arg(short, long, value_name = "NAME", env = "PGDATABASE")]
    pub(crate) dbname: Option<String>,
    /// Ask for the password [default: PGPASSWORD, else a password file, else none]
    #[arg(long)]
    pub(crate) password: bool,
    /// A member with this role [default: leader]
    #[arg(short, long, value_enum)]
    pub(crate) role: Option<Role>,
    /// This member
    #[arg(short, long, value_name = "MEMBER", conflicts_with = "role")]
    pub(crate) member: Option<String>,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
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

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The cluster's name
    pub(crate) cluster: String,
    /// How to print the members that it has
    #[arg(short, long, visible_short_alias = 'o', value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct DemoteClusterArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// The address of the cluster to follow
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Its port
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// A command that fetches its WAL
    #[arg(long, value_name = "COMMAND")]
    pub(crate) restore_command: Option<String>,
    /// A replication slot over there
    #[arg(long, value_name = "NAME")]
    pub(crate) primary_slot_name: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PromoteClusterArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArg,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

/// Roles as patronictl names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    Leader,
    Primary,
    StandbyLeader,
    Replica,
    Standby,
    Any,
}

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Only this member
    pub(crate) member: Option<String>,
    /// How to print
    #[arg(short, long, visible_short_alias = 'o', value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
}

#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    pub(crate) members: MembersArg,
}
