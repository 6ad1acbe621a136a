//! A node's settings out of its local configuration (contract 3.3), as far as pgherd uses it.
//! Leaves unknown keys and values in the wrong place to `check`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use pgherd_core::{Duration, Policy, SynchronousMode};
use serde_json::{Map, Value as Json};

use crate::check;
use crate::dynamic;
use crate::lifecycle::{self, Bootstrap, Hooks, Lifecycle};
use crate::local::Local;
use crate::parse::{self, HostPort};
use crate::problem::{Problem, Severity};
use crate::rest::{self, RestServer};
use crate::secret::Secret;
use crate::section::Section;
use crate::settings::{Login, Settings};
use crate::sources::Sources;
use crate::store::store_address;
use crate::watchdog;
use crate::yaml::Value;

/// Which cluster: `/namespace/scope/` in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterId {
    /// Without slashes around.
    pub namespace: String,
    /// The cluster's name.
    pub scope: String,
}

/// What was read, and what to say about it.
pub struct Resolved<T> {
    /// The settings.
    pub value: T,
    /// What is only said.
    pub warnings: Vec<Problem>,
}

/// The least ttl that survives an etcd leader change with fast timers (docs/protocol.md, Belief).
const TTL_MIN: Duration = Duration::secs(2);

/// Reads a node's configuration. All mistakes are returned together.
///
/// # Errors
/// The mistakes, and the warnings beside them.
pub fn resolve(sources: &Sources) -> Result<Resolved<Settings>, Vec<Problem>> {
    let (local, mut problems) = sources.read();
    problems.extend(check::local(&local));
    let noted = RefCell::new(Vec::new());
    let document = local.merged();
    let settings = read(&Section::root(&document, &noted));
    for problem in noted.into_inner() {
        // The check has said it already, in general words.
        let said = |known: &Problem| {
            known.place == problem.place
                && (known.severity == Severity::Error || problem.severity == Severity::Warning)
        };
        if !problems.iter().any(said) {
            problems.push(problem);
        }
    }
    problems.sort_by(|a, b| a.origin.cmp(&b.origin));
    sort_out(settings.map(|settings| Settings { local, ..settings }), problems)
}

/// Gives the value only when nothing but warnings was noted.
pub fn sort_out<T>(value: Option<T>, problems: Vec<Problem>) -> Result<Resolved<T>, Vec<Problem>> {
    match value {
        Some(value) if problems.iter().all(|p| p.severity == Severity::Warning) => {
            Ok(Resolved { value, warnings: problems })
        }
        _ => Err(problems),
    }
}

fn read(root: &Section<'_>) -> Option<Settings> {
    let cluster = cluster_id(root);
    // Patroni's old place for it, or the only one now.
    let inner = root.section("postgresql");
    let place = if !root.has("name") && inner.has("name") { &inner } else { root };
    let name = place.required("name", "node1", parse::node_name);
    let rest = rest(&root.section("restapi"));
    let rest_client = rest::client(root);
    let store = store_address(root);
    let founding = founding(root);
    let postgres = postgres(root);
    let tags = tags(&root.section("tags"));
    let ours = ours(&root.section("pgherd"));
    let watchdog = watchdog::watchdog(&root.section("watchdog"));
    let log = crate::log::log(&root.section("log"));
    let (cluster, name, rest, postgres) = (cluster?, name?, rest?, postgres?);
    let beside = |data: &std::path::Path| data.with_file_name(format!("{name}.pgherd"));
    let may_found = founding.is_some();
    let Founding { policy, config, bootstrap } = founding.unwrap_or_default();
    let mut hba_lines = postgres.pg_hba;
    if hba_lines.is_empty() {
        hba_lines.clone_from(&bootstrap.hba);
    }
    Some(Settings {
        local: Local::default(),
        log,
        watchdog,
        scope: cluster.scope,
        namespace: cluster.namespace,
        store: store?,
        rest_listen: rest.listen,
        rest_connect: rest.connect.to_string(),
        pg_listen: postgres.listen.0,
        pg_port: postgres.listen.1,
        pg_connect: (postgres.connect.host, postgres.connect.port),
        run_dir: ours.run_dir.unwrap_or_else(|| beside(&postgres.data_dir)),
        data_dir: postgres.data_dir,
        bin_dir: postgres.bin_dir,
        superuser: postgres.superuser,
        replication: postgres.replication,
        rewind: postgres.rewind,
        api_auth: rest.auth,
        rest_server: rest.server,
        rest_client,
        peer_secret: ours.peer_secret,
        record: ours.record,
        parameters: postgres.parameters,
        hba_networks: ours.hba_networks,
        hba_lines,
        founding_policy: policy,
        founding_config: config,
        lifecycle: Lifecycle { bootstrap, hooks: postgres.hooks },
        may_found,
        tags,
        name,
    })
}

struct Ours {
    run_dir: Option<PathBuf>,
    peer_secret: Option<Secret>,
    record: Option<u64>,
    hba_networks: Vec<String>,
}

/// `pgherd`: what Patroni's file has no word for.
fn ours(section: &Section<'_>) -> Ours {
    Ours {
        run_dir: section.optional("run_dir", parse::absolute),
        peer_secret: section.optional("peer_secret", parse::text).map(Secret::new),
        record: section.optional("record", parse::bytes),
        hba_networks: section.list("networks").unwrap_or_default(),
    }
}

/// Tags are free words, published as they stand.
fn tags(section: &Section<'_>) -> Map<String, Json> {
    for switch in ["nofailover", "noloadbalance", "nosync", "clonefrom", "nostream"] {
        section.optional(switch, parse::boolean);
    }
    section.optional("replicatefrom", parse::node_name);
    section.entries().map(|e| (e.key.clone(), e.node.to_json())).collect()
}

/// `scope` and `namespace`.
pub fn cluster_id(root: &Section<'_>) -> Option<ClusterId> {
    let scope = root.required("scope", "pgherd", parse::key_part);
    let namespace = root.optional("namespace", |text| Ok(text.trim_matches('/').to_owned()));
    Some(ClusterId { namespace: namespace.unwrap_or_else(|| "service".to_owned()), scope: scope? })
}

struct Rest {
    listen: std::net::SocketAddr,
    connect: HostPort,
    auth: Option<Login>,
    server: RestServer,
}

fn rest(section: &Section<'_>) -> Option<Rest> {
    let listen = section.required("listen", "127.0.0.1:8008", parse::listen);
    let connect = section.required("connect_address", "127.0.0.1:8008", parse::host_port);
    let auth = section.has("authentication").then(|| {
        let auth = section.section("authentication");
        login(&auth, None)
    });
    let server = rest::server(section);
    Some(Rest { listen: listen?, connect: connect?, auth: auth.flatten(), server })
}

pub(crate) fn login(section: &Section<'_>, default_name: Option<&str>) -> Option<Login> {
    let username = match default_name {
        Some(name) => {
            Some(section.optional("username", parse::text).unwrap_or_else(|| name.to_owned()))
        }
        None => section.required("username", "admin", parse::text),
    };
    let password = section.required("password", "a password", parse::text);
    Some(Login { username: username?, password: Secret::new(password?) })
}

/// `bootstrap`.
#[derive(Default)]
struct Founding {
    policy: Policy,
    config: Map<String, Json>,
    bootstrap: Bootstrap,
}

/// `bootstrap.dcs`, what decisions read, and the rest as it stands; and the other keys. Without the
/// section this node never founds a cluster.
fn founding(root: &Section<'_>) -> Option<Founding> {
    if !root.has("bootstrap") {
        root.take("bootstrap");
        return None;
    }
    let bootstrap = root.section("bootstrap");
    let dcs = bootstrap.section("dcs");
    let config = dcs.entries().map(|e| (e.key.clone(), e.node.to_json())).collect();
    let standby = crate::standby_cluster(&config).is_some();
    let policy = Policy { standby, ..policy(&dcs) };
    let read = lifecycle::bootstrap(&bootstrap);
    Some(Founding { policy, config, bootstrap: read })
}

fn policy(dcs: &Section<'_>) -> Policy {
    let d = Policy::default();
    let mode = dcs.optional("synchronous_mode", |text| {
        if text.eq_ignore_ascii_case("quorum") {
            return Ok(SynchronousMode::Quorum);
        }
        let on = parse::boolean(text).map_err(|_| "off, on or quorum".to_owned())?;
        Ok(if on { SynchronousMode::Priority } else { SynchronousMode::Off })
    });
    let ttl = dcs.optional("ttl", |text| match parse::span(text)? {
        ttl if ttl < TTL_MIN => Err("2 s or more (3 s with etcd's default timers)".to_owned()),
        ttl => Ok(ttl),
    });
    let lag = dcs.optional("maximum_lag_on_failover", parse::bytes);
    let sync_lag = dcs.optional("maximum_lag_on_syncnode", |text| match parse::integer(text) {
        Ok(off) if off <= 0 => Ok(None),
        Ok(_) | Err(_) => parse::bytes(text).map(Some),
    });
    let timeline = dcs.optional("check_timeline", parse::boolean);
    let stop = dcs.optional("primary_stop_timeout", parse::span);
    let strict = dcs.optional("synchronous_mode_strict", parse::boolean);
    let count = dcs.optional("synchronous_node_count", parse::count);
    let start = dcs.optional("primary_start_timeout", parse::span);
    // Who writes Patroni's other two times means Patroni's ttl with them.
    let patronis = dcs.has("loop_wait") || dcs.has("retry_timeout");
    let ttl_default = if patronis { dynamic::patroni_defaults().ttl } else { d.ttl };
    Policy {
        ttl: ttl.unwrap_or(ttl_default),
        maximum_lag_on_failover: lag.unwrap_or(d.maximum_lag_on_failover),
        maximum_lag_on_syncnode: sync_lag.flatten(),
        check_timeline: timeline.unwrap_or(d.check_timeline),
        synchronous_mode: mode.unwrap_or(SynchronousMode::Off),
        synchronous_mode_strict: strict.unwrap_or(d.synchronous_mode_strict),
        synchronous_node_count: count.unwrap_or(d.synchronous_node_count),
        primary_start_timeout: start.unwrap_or(d.primary_start_timeout),
        primary_stop_timeout: stop.filter(|span| *span > Duration::ZERO),
        disk_timeout: dcs.optional("disk_timeout", parse::span).unwrap_or(d.disk_timeout),
        disk_min_free: dcs.optional("disk_min_free", parse::bytes).unwrap_or(d.disk_min_free),
        failsafe_mode: dcs.optional("failsafe_mode", parse::boolean).unwrap_or(d.failsafe_mode),
        pause: dcs.optional("pause", parse::boolean).unwrap_or(false),
        standby: false,
    }
}

struct Postgres {
    listen: (String, u16),
    connect: HostPort,
    data_dir: PathBuf,
    bin_dir: Option<PathBuf>,
    superuser: Login,
    replication: Login,
    rewind: Login,
    parameters: BTreeMap<String, String>,
    pg_hba: Vec<String>,
    hooks: Hooks,
}

fn postgres(root: &Section<'_>) -> Option<Postgres> {
    let section = root.section("postgresql");
    let listen = section.required("listen", "127.0.0.1:5432", parse::pg_listen);
    let connect = section.required("connect_address", "127.0.0.1:5432", parse::host_port);
    let data_dir = section.required("data_dir", "/var/lib/postgresql/node1", parse::absolute);
    let bin_dir = section.optional("bin_dir", parse::absolute);
    let authentication = section.section("authentication");
    let superuser = account(&authentication, "superuser", "postgres");
    let replication = account(&authentication, "replication", "replicator");
    let rewind = if authentication.has("rewind") {
        account(&authentication, "rewind", "rewind")
    } else {
        superuser.clone()
    };
    let parameters = parameters(&section);
    let pg_hba = section.list("pg_hba").unwrap_or_default();
    let hooks = lifecycle::hooks(&section);
    Some(Postgres {
        listen: listen?,
        connect: connect?,
        data_dir: data_dir?,
        bin_dir,
        superuser: superuser?,
        replication: replication?,
        rewind: rewind?,
        parameters,
        pg_hba,
        hooks,
    })
}

/// libpq's options that an account may name (contract 3.3), but for the one that is a secret: tools
/// show their arguments.
pub const CONNECTION_OPTIONS: &[&str] = &[
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

fn account(section: &Section<'_>, key: &'static str, name: &str) -> Option<Login> {
    let account = section.section(key);
    login(&account, Some(name))
}

fn parameters(section: &Section<'_>) -> BTreeMap<String, String> {
    let parameters = section.section("parameters");
    let mut all = BTreeMap::new();
    for entry in parameters.entries() {
        // YAML's booleans are PostgreSQL's on and off.
        let value = if let Value::Bool(on) = entry.node.value {
            Some(if on { "on" } else { "off" }.to_owned())
        } else {
            entry.node.scalar()
        };
        match value {
            Some(value) => drop(all.insert(entry.key.clone(), value)),
            None => parameters.wrong(&entry.key, &entry.node, "one value"),
        }
    }
    all
}
