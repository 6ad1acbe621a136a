//! What one PostgreSQL is told: places, addresses, users, parameters.
//! Leaves reading files and environment variables, and checking relations, to the caller.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgherd_config::Lifecycle;
use pgherd_core::NodeName;

use crate::discover::Binaries;
use crate::wanted::Wanted;

/// Everything about one PostgreSQL that doesn't change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// PostgreSQL's programs, from [`crate::discover`].
    pub bin: Binaries,
    /// PGDATA. Beside it are made: `<data_dir>.lock`, `.instance`, `.rewinding`, `.building`,
    /// `.slots`, `.new`, `.clone`, `.old-…`, `.failed`; so its parent must be on the same file system and writable.
    pub data_dir: PathBuf,
    /// Files of this agent that needn't survive a reboot: the guard's registration, the passfile.
    pub run_dir: PathBuf,
    /// The Unix socket's directory; made with mode 0700 when missing.
    pub socket_dir: PathBuf,
    /// PostgreSQL's and the guard's output.
    pub log_file: PathBuf,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// `port`.
    pub port: u16,
    /// `cluster_name`: the scope.
    pub cluster_name: String,
    /// This node; the `application_name` of its WAL receiver, and through
    /// [`NodeName::slot_name`] the name of its slot.
    pub node: NodeName,
    /// The system's user that PostgreSQL runs as, where its name is known ([`crate::account`]).
    pub account: Option<String>,
    /// The superuser, who works over the Unix socket only.
    pub superuser: Credentials,
    /// Who streams and copies.
    pub replication: Credentials,
    /// Who runs pg_rewind on the source.
    pub rewind: Credentials,
    /// Passwords for streaming, copying and rewinding, for libpq; written by pgherd, mode 0600.
    pub passfile: PathBuf,
    /// Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are; `data_dir` mostly.
    pub config_dir: PathBuf,
    /// The configuration until [`crate::Server::want`] brings another.
    pub wanted: Wanted,
    /// Networks (CIDR, `samenet`, …) that the generated `pg_hba.conf` admits with passwords,
    /// besides `samehost`.
    pub hba_networks: Vec<String>,
    /// The user's methods and hooks.
    pub lifecycle: Lifecycle,
    /// The program that becomes the guard; `/proc/self/exe`.
    pub guard_exe: PathBuf,
    /// How long a fast shutdown may take before the tree is killed. 30 s.
    pub stop_bound: Duration,
    /// How long a start or promotion may show no progress. 300 s (`primary_start_timeout`).
    pub start_bound: Duration,
}

/// The name of the system's user that this process runs as, where the machine's own list has it.
#[must_use]
pub fn account() -> Option<String> {
    own_field(0)
}

/// The home directory of the system's user that this process runs as.
pub(crate) fn account_home() -> Option<String> {
    own_field(5).filter(|home| !home.is_empty())
}

fn own_field(which: usize) -> Option<String> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    field(&accounts, &rustix::process::getuid().as_raw().to_string(), which)
}

/// A field (passwd(5)) of the line of that user's number.
fn field(accounts: &str, uid: &str, which: usize) -> Option<String> {
    accounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let field = fields.get(which).filter(|_| fields.get(2) == Some(&uid))?;
        Some((*field).to_owned())
    })
}

/// A user and a password.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The role's name.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// libpq's connection options beside host, port, user and password: `sslmode`, `sslrootcert`,
    /// `channel_binding`, ... (contract 3.3). None of them is a secret: they show in arguments.
    pub options: BTreeMap<&'static str, String>,
}

/// A text that no log, error or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a node's PostgreSQL is reached from other nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// A host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Finds a node's address, as the store has it now.
pub type Peers = Arc<dyn Fn(&NodeName) -> Option<Address> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn accounts_of_the_system() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\npg:x:101:104:A,,,:/var/lib/pg:/bin/sh\n";
        assert_eq!(field(accounts, "101", 0).as_deref(), Some("pg"));
        assert_eq!(field(accounts, "101", 5).as_deref(), Some("/var/lib/pg"));
        assert_eq!(field(accounts, "104", 5), None);
    }
}
