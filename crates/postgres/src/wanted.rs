//! What PostgreSQL's configuration should be, as its user wants it (contract 3.5, 3.6): plain values
//! that the caller fills, one set for each role, because a promotion changes them at once.
//! Leaves merging them from files and the store to the caller, and checking them to `vet`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::settings::Address;

/// The configuration for each role.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// While it is primary.
    pub primary: Configuration,
    /// While it is in recovery.
    pub standby: Configuration,
    /// The cluster that this one follows, where it does.
    pub remote: Option<Remote>,
}

/// Another cluster, which the leader of this one follows (`standby_cluster`, contract 3.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remote {
    /// Where its PostgreSQL is; several hosts are separated by commas. `None`: only its archive is.
    pub at: Option<Address>,
    /// The slot there; whoever runs that cluster made it.
    pub slot: Option<String>,
    /// Recovery settings of the leader alone (`restore_command`, ...).
    pub recovery: BTreeMap<String, String>,
    /// Names of the replica methods that make the leader's first data; empty: pg_basebackup.
    pub methods: Vec<String>,
}

impl Wanted {
    /// The same for both roles.
    #[must_use]
    pub fn same(configuration: Configuration) -> Self {
        Self { primary: configuration.clone(), standby: configuration, remote: None }
    }
}

/// One role's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// `postgresql.conf`. Those that pgherd sets itself are ignored ([`crate::CONTROLLED`]), and those
    /// of [`COMMAND_LINE`] too: they come from `command_line` only. `unix_socket_directories` are
    /// further ones, beside the agent's own.
    pub parameters: BTreeMap<String, String>,
    /// What goes to the command line, so that nothing overrides it: a subset of
    /// [`COMMAND_LINE`]. What is absent has its default there.
    pub command_line: BTreeMap<String, String>,
    /// `synchronous_standby_names` where pgherd's own list is empty; only while no synchronous mode is
    /// on, for then the list is pgherd's.
    pub standby_names: Option<String>,
    /// Lines of `pg_hba.conf` behind the agent's own; `None` for the generated default.
    pub hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf`; `None` leaves the file alone.
    pub ident: Option<Vec<String>>,
    /// Recovery settings of a standby (`restore_command`, ...); targets and the upstream are pgherd's.
    pub recovery: BTreeMap<String, String>,
    /// Included instead of `postgresql.base.conf`; relative to the configuration's directory.
    pub custom_conf: Option<PathBuf>,
    /// Whether members stream through slots of their own (`use_slots`).
    pub member_slots: MemberSlots,
}

/// `use_slots`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemberSlots {
    /// Each member has one wherever it may stream from.
    #[default]
    Used,
    /// Nobody has one: what a member that is away needs, only `wal_keep_size` or the archive keeps.
    Unused,
}

/// Parameters that travel on the command line, with Patroni's defaults (contract 3.6): nothing in a
/// file or of `ALTER SYSTEM` overrides them, so that all nodes have the same and a standby can start.
pub const COMMAND_LINE: &[(&str, &str)] = &[
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_replication_slots", "10"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("track_commit_timestamp", "off"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
];

impl Configuration {
    /// The user's values for the command line, with the defaults. Names are in lower case.
    pub(crate) fn on_command_line(&self) -> BTreeMap<&'static str, String> {
        let value = |name: &str| {
            let mut all = self.command_line.iter();
            all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        let entry = |&(name, default): &(&'static str, &str)| {
            (name, value(name).unwrap_or_else(|| default.to_owned()))
        };
        COMMAND_LINE.iter().map(entry).collect()
    }

    /// Socket directories beside the agent's own.
    pub(crate) fn socket_directories(&self) -> Option<&str> {
        let mut all = self.parameters.iter();
        let found = all.find(|(name, _)| name.eq_ignore_ascii_case("unix_socket_directories"));
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// The user's part of `postgresql.conf`: what pgherd doesn't set itself. Names in lower case.
    pub(crate) fn in_file(&self) -> BTreeMap<String, String> {
        let pairs = self.parameters.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone()));
        let users = |name: &str| is_name(name) && !is_controlled(name) && !is_on_command_line(name);
        pairs.filter(|(name, _)| users(name)).collect()
    }

    /// The user's recovery settings.
    pub(crate) fn in_recovery(&self) -> BTreeMap<String, String> {
        let pairs = self.recovery.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone()));
        pairs.filter(|(name, _)| is_name(name) && !is_controlled(name)).collect()
    }

    /// Names that no parameter can have.
    pub(crate) fn no_names(&self) -> impl Iterator<Item = &str> {
        let all = self.parameters.keys().chain(self.recovery.keys());
        all.map(String::as_str).filter(|name| !is_name(name))
    }
}

/// Whether a parameter may be called so (guc-file.l): anything else would be read as another line.
fn is_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.'))
}

/// Whether pgherd sets it itself, in the file.
pub(crate) fn is_controlled(name: &str) -> bool {
    crate::CONTROLLED.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Whether it travels on the command line.
pub(crate) fn is_on_command_line(name: &str) -> bool {
    COMMAND_LINE.iter().any(|(ours, _)| name.eq_ignore_ascii_case(ours))
}
