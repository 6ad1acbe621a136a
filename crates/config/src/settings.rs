//! What one node is told: names, addresses, places, secrets. Plain values that the caller fills.
//! Leaves files, environment and their checks to the caller, and cluster-wide settings to the store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::lifecycle::Lifecycle;
use crate::local::Local;
use crate::log::LogSettings;
use crate::rest::{RestClient, RestServer};
use crate::secret::Secret;
use crate::watchdog::WatchdogSettings;
use pgherd_core::{NodeName, Policy};
use serde_json::{Map, Value};

/// One node's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// All that was written, as it was written: what [`crate::effective`] needs.
    pub local: Local,
    /// The node's name.
    pub name: NodeName,
    /// What is told, and where.
    pub log: LogSettings,
    /// The kernel's watchdog.
    pub watchdog: WatchdogSettings,
    /// The cluster's name.
    pub scope: String,
    /// What the cluster's keys lie below; `service` in Patroni's default.
    pub namespace: String,
    /// The store.
    pub store: StoreSettings,
    /// Where the REST API listens.
    pub rest_listen: SocketAddr,
    /// Where others reach it: `host:port`.
    pub rest_connect: String,
    /// `listen_addresses`: names or addresses, comma separated; `*` for all.
    pub pg_listen: String,
    /// PostgreSQL's port.
    pub pg_port: u16,
    /// Where others reach PostgreSQL: host and port.
    pub pg_connect: (String, u16),
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// The node's own directory: sockets, durable promises, locks. Outlives PostgreSQL's data; never
    /// a tmpfs, for a promise must survive a reboot.
    pub run_dir: PathBuf,
    /// Where PostgreSQL's programs are; searched when absent.
    pub bin_dir: Option<PathBuf>,
    /// PostgreSQL's superuser.
    pub superuser: Login,
    /// Who streams WAL.
    pub replication: Login,
    /// Who runs pg_rewind.
    pub rewind: Login,
    /// Who may make unsafe calls of the REST API. Without it only when it listens on loopback.
    pub api_auth: Option<Login>,
    /// How the REST API is served.
    pub rest_server: RestServer,
    /// How other members are asked.
    pub rest_client: RestClient,
    /// What agents of this cluster prove to each other.
    pub peer_secret: Option<Secret>,
    /// How many bytes of a record of its turns the agent keeps in `run_dir`; none when absent.
    pub record: Option<u64>,
    /// PostgreSQL's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Networks whose clients may log in with a password (CIDR).
    pub hba_networks: Vec<String>,
    /// Further `pg_hba.conf` lines, before ours.
    pub hba_lines: Vec<String>,
    /// What a new cluster gets when this node founds it.
    pub founding_policy: Policy,
    /// More of a new cluster's `config`, as it stands (`postgresql.parameters`, ...).
    pub founding_config: Map<String, Value>,
    /// This node may make the first data directory.
    pub may_found: bool,
    /// The user's methods and hooks, as this node's file has them.
    pub lifecycle: Lifecycle,
    /// The tags, in the order in which they were written ([`crate::tags`]).
    pub tags: Map<String, Value>,
}

/// Where the store is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreSettings {
    /// `http://host:port`, `https://host:port` or `unix:///path`, one per member.
    pub endpoints: Vec<String>,
    /// The domain whose SRV records name the members; `endpoints` are for want of any.
    pub srv: Option<StoreSrv>,
    /// For a store with authentication.
    pub login: Option<Login>,
    /// For endpoints with https.
    pub tls: StoreTls,
    /// Ask the store for members that are not among the endpoints.
    pub discover: bool,
}

/// Where DNS names the store's members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreSrv {
    /// The domain.
    pub domain: String,
    /// What follows the service's name, as in `_etcd-client-SUFFIX._tcp`.
    pub suffix: Option<String>,
}

/// The files of TLS to the store; PEM, read again for each connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreTls {
    /// Who signed the members' certificates; none: the system's authorities.
    pub cacert: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key; none: in the certificate's file.
    pub key: Option<PathBuf>,
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}
