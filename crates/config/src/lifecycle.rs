//! What the user wants done at the turns of PostgreSQL's life: how the first data is made, how a
//! replica's, and what runs when something happens (contract 3.3, 3.8).
//! Leaves running anything to the agent and `pgherd-postgres`.

mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

pub use read::{bootstrap, hooks, merged};

/// The words of a command: a program and its arguments, split as a shell would. No shell reads them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command(Vec<String>);

/// The user's methods and hooks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lifecycle {
    /// How a new cluster begins. Read at start only.
    pub bootstrap: Bootstrap,
    /// What may change while the agent runs.
    pub hooks: Hooks,
}

/// How a new cluster begins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bootstrap {
    /// How its first data directory is made.
    pub method: FirstData,
    /// Lines of `pg_hba.conf`, where `postgresql.pg_hba` has none.
    pub hba: Vec<String>,
    /// Runs once, before anybody else can connect; gets a libpq connection string.
    pub post: Option<Command>,
}

/// `bootstrap.method`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstData {
    /// initdb, with further arguments such as `--locale=de_DE.UTF-8`.
    Initdb(Vec<String>),
    /// A command that fills the data directory, from a backup for one.
    Custom(CustomBootstrap),
}

impl Default for FirstData {
    fn default() -> Self {
        Self::Initdb(Vec::new())
    }
}

/// A command that makes the first data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CustomBootstrap {
    /// The method's name.
    pub name: String,
    /// What is run.
    pub run: Method,
    /// The command configured the recovery itself.
    pub keep_existing_recovery_conf: bool,
    /// Recovery parameters (`restore_command`, `recovery_target_time`, ...); empty for no archive
    /// recovery.
    pub recovery_conf: BTreeMap<String, String>,
}

/// The hooks of the `postgresql` section.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hooks {
    /// How a replica's data is made, in the order of trying; empty for pg_basebackup.
    pub create_replica: Vec<ReplicaMethod>,
    /// Further arguments of pg_basebackup, such as `--max-rate=100M`.
    pub basebackup: Vec<String>,
    /// Further arguments of pg_rewind, such as `--no-sync`.
    pub rewind: Vec<String>,
    /// What may be done to data that diverged, where somebody says so.
    pub repair: Repair,
    /// Runs before a promotion; when it fails, the leader key is given up.
    pub pre_promote: Option<Command>,
    /// Runs before a planned stop; only its end is waited for.
    pub before_stop: Option<Command>,
    /// What is told when something has happened.
    pub callbacks: Callbacks,
}

/// What may be done to data that diverged from the leader's; `None`: nobody says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Repair {
    /// `use_pg_rewind`.
    pub rewind: Option<bool>,
    /// `remove_data_directory_on_rewind_failure`.
    pub copy_after_failure: Option<bool>,
    /// `remove_data_directory_on_diverged_timelines`.
    pub copy_diverged: Option<bool>,
}

/// One of `create_replica_methods`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaMethod {
    /// pg_basebackup.
    BaseBackup,
    /// A command that fills the data directory.
    Custom(CustomReplica),
}

/// A command that makes a replica's data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CustomReplica {
    /// The method's name.
    pub name: String,
    /// What is run.
    pub run: Method,
    /// The command wants the old data directory in place, to copy only what changed.
    pub keep_data: bool,
    /// The command needs no running leader.
    pub no_leader: bool,
}

/// A method's command and what it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Method {
    /// The command.
    pub command: Command,
    /// Leave out what pgherd adds (`--scope`, `--datadir`, ...).
    pub no_params: bool,
    /// The method's other keys: `--key=value`.
    pub extras: Vec<(String, String)>,
}

/// `postgresql.callbacks`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Callbacks {
    /// PostgreSQL was started.
    pub on_start: Option<Command>,
    /// PostgreSQL was stopped.
    pub on_stop: Option<Command>,
    /// PostgreSQL was restarted.
    pub on_restart: Option<Command>,
    /// PostgreSQL has read its configuration again.
    pub on_reload: Option<Command>,
    /// PostgreSQL has another role.
    pub on_role_change: Option<Command>,
}

impl Command {
    /// Splits a text.
    ///
    /// # Errors
    /// What was expected: nothing is in it, or a quote is never closed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = shlex::split(text).ok_or_else(|| "a command with closed quotes".to_owned())?;
        match words.first() {
            Some(program) if !program.is_empty() => Ok(Self(words)),
            Some(_) | None => Err("a command".to_owned()),
        }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.0[0]
    }

    /// Its arguments.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.0[1..]
    }
}

impl Hooks {
    /// Some method makes replicas though nobody leads.
    #[must_use]
    pub fn restores_without_leader(&self) -> bool {
        self.create_replica.iter().any(|method| match method {
            ReplicaMethod::BaseBackup => false,
            ReplicaMethod::Custom(method) => method.no_leader,
        })
    }
}

impl Method {
    /// For the first data directory: `--scope=S --datadir=D --extra=v`.
    #[must_use]
    pub fn for_bootstrap(&self, scope: &str, data_dir: &Path) -> Vec<String> {
        let common = (!self.no_params).then(|| common(scope, data_dir));
        common.into_iter().flatten().chain(self.extras()).collect()
    }

    /// For a replica: `--extra=v --scope=S --role=replica --datadir=D --connstring=DSN`.
    #[must_use]
    pub fn for_replica(&self, scope: &str, data_dir: &Path, connstring: &str) -> Vec<String> {
        let mut all: Vec<String> = self.extras().collect();
        if !self.no_params {
            let [scope, data_dir] = common(scope, data_dir);
            let connstring = format!("--connstring={connstring}");
            all.extend([scope, "--role=replica".to_owned(), data_dir, connstring]);
        }
        all
    }

    fn extras(&self) -> impl Iterator<Item = String> + '_ {
        self.extras.iter().map(|(key, value)| format!("--{key}={value}"))
    }
}

fn common(scope: &str, data_dir: &Path) -> [String; 2] {
    [format!("--scope={scope}"), format!("--datadir={}", data_dir.display())]
}
