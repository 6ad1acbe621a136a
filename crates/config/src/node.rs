//! The node file: Patroni's YAML form (contract 3.3), as far as pgherd uses it.
//! A pure function of its text. Leaves environment variables and reload to a later step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::rest::{self, RestServer};
use crate::secret::Secret;
use crate::settings::{Login, Settings};
use crate::store::store_address;
use pgherd_core::{Duration, Policy, SynchronousMode};
use serde_json::{Map, Value as Json};

use crate::lifecycle::{self, Bootstrap, Hooks, Lifecycle};
use crate::local::Local;
use crate::parse::{self, HostPort};
use crate::problem::{Problem, Severity};
use crate::section::Section;
use crate::yaml::{Node, Value};

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

const UNUSED_ROOT: &[&str] = &["log", "watchdog", "thread_pool_size", "thread_stack_size", "citus"];
const UNUSED_REST: &[&str] = &["request_queue_size", "thread_pool_size"];
const UNUSED_POSTGRES: &[&str] = &[
    "proxy_address",
    "pgpass",
    "config_dir",
    "bin_name",
    "database",
    "pg_ident",
    "recovery_conf",
    "custom_conf",
    "use_unix_socket",
    "use_unix_socket_repl",
    "pg_ctl_timeout",
    "use_pg_rewind",
    "rewind",
    "remove_data_directory_on_rewind_failure",
    "remove_data_directory_on_diverged_timelines",
    "krbsrvname",
    "config_base_name",
    "use_slots",
];
/// The least ttl that survives an etcd leader change with fast timers (docs/protocol.md, Belief).
const TTL_MIN: Duration = Duration::secs(2);

/// Reads a node file. All mistakes are returned together.
pub fn resolve(text: &str) -> Result<Resolved<Settings>, Vec<Problem>> {
    let document = Node::parse(text).map_err(|problem| vec![problem])?;
    let problems = RefCell::new(Vec::new());
    let settings = read(&Section::root(&document, &problems));
    let settings =
        settings.map(|settings| Settings { local: Local::new(vec![document.clone()]), ..settings });
    sort_out(settings, problems.into_inner())
}

/// Keys of the cluster-wide settings (contract 3.4) that decisions don't read.
const OTHER_DYNAMIC: &[&str] = &[
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_syncnode",
    "max_timelines_history",
    "primary_stop_timeout",
    "primary_race_backoff",
    "failsafe_mode",
    "check_timeline",
    "member_slots_ttl",
    "slots",
    "ignore_slots",
    "standby_cluster",
    "postgresql",
];

/// Looks at a change of the cluster-wide settings before anybody stores it: what can't be read there
/// would silently be the default.
pub fn check_dynamic(patch: &Map<String, Json>) -> Vec<Problem> {
    // JSON is YAML.
    let document = match Node::parse(&Json::Object(patch.clone()).to_string()) {
        Ok(document) => document,
        Err(problem) => return vec![problem],
    };
    let problems = RefCell::new(Vec::new());
    let root = Section::root(&document, &problems);
    policy(&root);
    for key in OTHER_DYNAMIC {
        root.take(key);
    }
    root.finish(&[]);
    drop(root);
    let mut problems = problems.into_inner();
    // The line of a text that nobody wrote.
    problems.iter_mut().for_each(|problem| problem.origin = None);
    problems
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
    let name = root.required("name", "node1", parse::node_name);
    let rest = rest(&root.section("restapi"));
    let rest_client = rest::client(root);
    let store = store_address(root);
    let founding = founding(root);
    let postgres = postgres(root);
    let (nofailover, tags) = tags(&root.section("tags"));
    let ours = ours(&root.section("pgherd"));
    root.finish(UNUSED_ROOT);
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
        parameters: postgres.parameters,
        hba_networks: ours.hba_networks,
        hba_lines,
        founding_policy: policy,
        founding_config: config,
        lifecycle: Lifecycle { bootstrap, hooks: postgres.hooks },
        may_found,
        nofailover,
        tags,
        name,
    })
}

struct Ours {
    run_dir: Option<PathBuf>,
    peer_secret: Option<Secret>,
    hba_networks: Vec<String>,
}

/// `pgherd`: what Patroni's file has no word for.
fn ours(section: &Section<'_>) -> Ours {
    let ours = Ours {
        run_dir: section.optional("run_dir", absolute),
        peer_secret: section.optional("peer_secret", parse::text).map(Secret::new),
        hba_networks: section.list("networks").unwrap_or_default(),
    };
    section.finish(&[]);
    ours
}

/// Tags are free words, published as they stand.
fn tags(section: &Section<'_>) -> (bool, Map<String, Json>) {
    let nofailover = section.optional("nofailover", parse::boolean).unwrap_or(false);
    for switch in ["noloadbalance", "nosync", "clonefrom", "nostream"] {
        section.optional(switch, parse::boolean);
    }
    let all = section.entries().map(|e| (e.key.clone(), e.node.to_json()));
    (nofailover, all.filter(|(key, _)| key != "nofailover").collect())
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
        let login = login(&auth, None);
        auth.finish(&[]);
        login
    });
    let server = rest::server(section);
    section.finish(UNUSED_REST);
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
    let policy = policy(&dcs);
    let config = dcs.entries().map(|e| (e.key.clone(), e.node.to_json())).collect();
    let read = lifecycle::bootstrap(&bootstrap);
    bootstrap.finish(&["users"]);
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
    let strict = dcs.optional("synchronous_mode_strict", parse::boolean);
    let count = dcs.optional("synchronous_node_count", parse::count);
    let start = dcs.optional("primary_start_timeout", parse::span);
    Policy {
        ttl: ttl.unwrap_or(d.ttl),
        maximum_lag_on_failover: lag.unwrap_or(d.maximum_lag_on_failover),
        synchronous_mode: mode.unwrap_or(SynchronousMode::Off),
        synchronous_mode_strict: strict.unwrap_or(d.synchronous_mode_strict),
        synchronous_node_count: count.unwrap_or(d.synchronous_node_count),
        primary_start_timeout: start.unwrap_or(d.primary_start_timeout),
        pause: dcs.optional("pause", parse::boolean).unwrap_or(false),
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
    let data_dir = section.required("data_dir", "/var/lib/postgresql/node1", absolute);
    let bin_dir = section.optional("bin_dir", absolute);
    let authentication = section.section("authentication");
    let superuser = account(&authentication, "superuser", "postgres");
    let replication = account(&authentication, "replication", "replicator");
    let rewind = if authentication.has("rewind") {
        account(&authentication, "rewind", "rewind")
    } else {
        superuser.clone()
    };
    authentication.finish(&["rewind"]);
    let parameters = parameters(&section);
    let pg_hba = section.list("pg_hba").unwrap_or_default();
    let hooks = lifecycle::hooks(&section);
    section.finish(UNUSED_POSTGRES);
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

fn account(section: &Section<'_>, key: &'static str, name: &str) -> Option<Login> {
    let account = section.section(key);
    let login = login(&account, Some(name));
    account.finish(&[
        "sslmode",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "gssencmode",
        "channel_binding",
        "sslnegotiation",
    ]);
    login
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

pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("an absolute path".to_owned()) }
}
