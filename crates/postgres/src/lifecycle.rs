//! What the user wants done at the turns of PostgreSQL's life: how the first data is made, how a
//! replica's, and what runs before a promotion and a stop (contract 3.3, 3.8).
//! Plain values; leaves doing it to `ops`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::script::Script;

/// The user's methods and hooks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lifecycle {
    /// How the first data directory of a cluster is made.
    pub bootstrap: Bootstrap,
    /// Runs once on a new cluster, before anybody else can connect; gets a libpq connection string.
    pub post_bootstrap: Option<Script>,
    /// How a replica's data is made, in the order of trying; empty for pg_basebackup.
    pub create_replica: Vec<ReplicaMethod>,
    /// Further arguments of pg_basebackup, such as `--max-rate=100M`.
    pub basebackup: Vec<String>,
    /// Runs before a promotion; when it fails, the leader key is given up.
    pub pre_promote: Option<Script>,
    /// Runs before a planned stop; only its end is waited for.
    pub before_stop: Option<Script>,
}

/// `bootstrap.method`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// initdb, with further arguments such as `--locale=de_DE.UTF-8`.
    Initdb(Vec<String>),
    /// A command that fills the data directory, from a backup for one.
    Custom(CustomBootstrap),
}

impl Default for Bootstrap {
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
    pub command: Arguments,
    /// The command configured the recovery itself.
    pub keep_existing_recovery_conf: bool,
    /// Recovery parameters (`restore_command`, `recovery_target_time`, ...); empty for no archive
    /// recovery.
    pub recovery_conf: BTreeMap<String, String>,
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
    pub command: Arguments,
    /// The command wants the old data directory in place, to copy only what changed.
    pub keep_data: bool,
    /// The command needs no running leader.
    pub no_leader: bool,
}

/// A command and what it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// The command.
    pub script: Script,
    /// Leave out what pgherd adds (`--scope`, `--datadir`, ...).
    pub no_params: bool,
    /// The method's other keys: `--key=value`.
    pub extras: Vec<(String, String)>,
}

impl Lifecycle {
    /// Some method makes replicas though nobody leads.
    #[must_use]
    pub fn restores_without_leader(&self) -> bool {
        self.create_replica.iter().any(|method| match method {
            ReplicaMethod::BaseBackup => false,
            ReplicaMethod::Custom(method) => method.no_leader,
        })
    }
}

impl Arguments {
    /// For the first data directory: `--scope=S --datadir=D --extra=v`.
    pub(crate) fn for_bootstrap(&self, scope: &str, data_dir: &Path) -> Vec<OsString> {
        let common = (!self.no_params).then(|| self.common(scope, data_dir));
        common.into_iter().flatten().chain(self.extras()).collect()
    }

    /// For a replica: `--extra=v --scope=S --role=replica --datadir=D --connstring=DSN`.
    pub(crate) fn for_replica(
        &self,
        scope: &str,
        data_dir: &Path,
        connstring: Option<&str>,
    ) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.extras().collect();
        if self.no_params {
            return all;
        }
        let [scope, datadir] = self.common(scope, data_dir);
        all.extend([scope, "--role=replica".into(), datadir]);
        all.push(option("connstring", connstring.unwrap_or_default()));
        all
    }

    fn common(&self, scope: &str, data_dir: &Path) -> [OsString; 2] {
        let mut datadir = OsString::from("--datadir=");
        datadir.push(data_dir);
        [option("scope", scope), datadir]
    }

    fn extras(&self) -> impl Iterator<Item = OsString> + '_ {
        self.extras.iter().map(|(key, value)| option(key, value))
    }
}

fn option(key: &str, value: &str) -> OsString {
    format!("--{key}={value}").into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Arguments, Script};

    #[test]
    fn arguments_come_in_the_order_of_the_contract() {
        let script = Script::parse("/bin/restore").unwrap();
        let extras = vec![("stanza".to_owned(), "main db".to_owned())];
        let all = Arguments { script, no_params: false, extras };
        let (scope, data) = ("demo", Path::new("/data"));
        assert_eq!(
            all.for_bootstrap(scope, data),
            ["--scope=demo", "--datadir=/data", "--stanza=main db"]
        );
        assert_eq!(
            all.for_replica(scope, data, Some("host=a")),
            [
                "--stanza=main db",
                "--scope=demo",
                "--role=replica",
                "--datadir=/data",
                "--connstring=host=a"
            ]
        );
        let bare = Arguments { no_params: true, ..all };
        assert_eq!(bare.for_replica(scope, data, Some("host=a")), ["--stanza=main db"]);
        assert_eq!(bare.for_bootstrap(scope, data), ["--stanza=main db"]);
    }
}
