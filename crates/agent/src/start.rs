//! Putting a node together from its settings: locks, places, programs, lanes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pgherd_api::tls::Trust;
use pgherd_api::{Encoder, Keys, MemberSelf};
use pgherd_config::node::CONNECTION_OPTIONS;
use pgherd_config::{lifecycle, tags};
use pgherd_core::disk::DiskFacts;
use pgherd_core::{Incarnation, Node, NodeConfig, NodeName, Policy, Repair};
use pgherd_postgres::{Binaries, Server, Wanted};
use pgherd_store::Client;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::agent::Agent;
use crate::board::{Board, Journal};
use crate::callbacks::{Callbacks, Teller};
use crate::configuration::Wishes;
use crate::copy::{self, DynamicCopy};
use crate::disk::Disk;
use crate::event::{EVENTS_BOUND, Event};
use crate::hooks::HookReader;
use crate::http::{self, Desk, Scheme};
use crate::notify::Notify;
use crate::patroni::PatroniLane;
use crate::peers::{Identity, Peers};
use crate::postgres::{Addresses, PostgresLane};
use crate::record::Recorder;
use crate::reload::{Reloader, Reread};
use crate::schedule::Scheduler;
use crate::slots::Slots;
use crate::store::{self, StoreLane};
use crate::{AgentError, clock, durable, namesake};
use pgherd_config::{Login, Settings};

/// What a question to another member may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);
const STOP_BOUND: Duration = Duration::from_secs(30);

/// A node, ready for its first turn. The caller holds the lock on its directory.
#[expect(clippy::too_many_lines, reason = "each part is made once, and in this order")]
pub(crate) async fn start(
    settings: Settings,
    reread: Reread,
    notify: Notify,
) -> Result<Agent, AgentError> {
    let client = store::options(&settings.store).map(Client::new).map_err(AgentError::Endpoint)?;
    let durable = durable::load(&settings.run_dir)?;
    let address = settings.rest_listen;
    let listener = listen(address).await?;
    let addresses: Addresses = Arc::default();
    let (wishes, server, found, server_version) = open(&settings, &addresses).await?;
    server.watch(crate::watch::plan(&settings.watchdog, settings.founding_policy.ttl));

    let incarnation = Incarnation(getrandom::u64().map_err(AgentError::Random)?);
    let node = Node::new(node_config(&settings)?, incarnation, durable, clock::now());
    let keys = Keys::new(&settings.namespace, &settings.scope);
    let identity = identity(&settings);
    let tls = pgherd_api::tls::client(&settings.rest_client, Trust::Signed)?;
    let asker = pgherd_api::Client::new(ASK_LIMIT).with_tls(Arc::clone(&tls));
    namesake::check(&client, &keys, &settings, &asker).await?;
    let (sender, events) = mpsc::channel(EVENTS_BOUND);
    let journal = Journal::default();
    let board = watch::Sender::new(Arc::new(first_board(&node, incarnation)));
    let desk = watch::Sender::new(Arc::new(Desk {
        identity: identity.clone(),
        board: board.subscribe(),
        journal: journal.clone(),
        events: sender.clone(),
        store: client.clone(),
        client: asker.clone(),
        keys: keys.clone(),
        auth: settings.api_auth.clone(),
        headers: http::headers(&settings.rest_server),
        rest: settings.rest_server.clone(),
        loopback: address.ip().is_loopback(),
        tags: tags::published(&settings.tags),
        server_version,
    }));
    tracing::info!(node = %settings.name, scope = settings.scope, %address, "the agent runs");
    Ok(Agent {
        http: tokio::spawn(http::serve(listener, scheme(&settings)?, desk.subscribe())),
        node,
        name: settings.name.clone(),
        incarnation,
        cluster: None,
        store_seen: None,
        observed: None,
        disks: DiskFacts::default(),
        crowded: false,
        operation: None,
        last_failure: None,
        planned: None,
        server_version,
        events,
        watcher: client.watch_prefix(keys.prefix().to_owned()),
        store: StoreLane::new(client.clone(), keys.clone(), encoder(&settings)),
        wishes,
        slots: Slots::default(),
        cascading: Vec::new(),
        watchdog: settings.watchdog.clone(),
        notify,
        postgres: postgres(server, &found, &settings, addresses, &sender),
        reloader: Reloader::new(settings.clone(), reread, sender.clone())?,
        peers: Peers::new(identity, tls, sender),
        patroni: PatroniLane::new(&asker, settings.name.clone()),
        hold_for: None,
        disk: Disk::new(settings.run_dir.clone()),
        recorder: Recorder::start(&settings.run_dir, settings.record),
        copy: DynamicCopy::new(settings.data_dir.clone(), client.clone(), founding(&settings)),
        scheduler: Scheduler::new(client),
        keys,
        journal,
        board,
        teller: Teller::default(),
        callbacks: callbacks(&settings),
        desk,
        hooks: HookReader::new(settings.local.clone()),
        leaving: false,
        killing: false,
        fatal: None,
        exit: false,
    })
}

fn scheme(settings: &Settings) -> Result<Scheme, AgentError> {
    Ok(Scheme::of(&settings.rest_server)?)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen { address, source })
}

/// PostgreSQL as it is found here, and its version as a number.
async fn open(
    settings: &Settings,
    addresses: &Addresses,
) -> Result<(Wishes, Server, pgherd_postgres::Found, u32), AgentError> {
    let bin = binaries(settings).await?;
    let wishes = wishes(settings, bin.major);
    let version = version_number(&bin);
    let told = postgres_settings(settings, bin, wishes.first());
    let opened = Server::open(told, peers(addresses)).await;
    let (server, found) = opened.map_err(AgentError::Postgres)?;
    Ok((wishes, server, found, version))
}

fn callbacks(settings: &Settings) -> Callbacks {
    Callbacks::new(settings.lifecycle.hooks.callbacks.clone(), settings.scope.clone())
}

/// Data that is there belongs to a cluster that is there: should its settings be missing from the
/// store, it has those that it had, whatever a new cluster would get.
pub(crate) fn remember(mut settings: Settings) -> Settings {
    if let Some(known) = copy::load(&settings.data_dir) {
        settings.founding_policy = pgherd_config::dynamic::from_json(&known);
        settings.founding_config = known;
    }
    settings
}

/// The cluster's settings as this node would write them.
fn founding(settings: &Settings) -> serde_json::Map<String, serde_json::Value> {
    let mut all = pgherd_config::dynamic::to_json(&settings.founding_policy);
    pgherd_config::dynamic::merge(&mut all, &settings.founding_config);
    all
}

async fn binaries(settings: &Settings) -> Result<Binaries, AgentError> {
    let bin_dir = settings.bin_dir.clone();
    let named = |program: &&'static str| {
        let name = settings.local.get(&["postgresql", "bin_name", *program])?.scalar()?;
        Some((*program, name))
    };
    let programs = ["initdb", "postgres", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata"];
    let names = programs.iter().filter_map(named).collect();
    let found = tokio::task::spawn_blocking(move || {
        pgherd_postgres::discover_named(bin_dir.as_deref(), &names)
    });
    Ok(found.await.map_err(|_| AgentError::Interrupted)??)
}

/// The node's own directory, for its user only.
pub(crate) fn make_run_dir(settings: &Settings) -> Result<(), AgentError> {
    let path = &settings.run_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| AgentError::RunDir { path: path.clone(), source })
}

fn identity(settings: &Settings) -> Identity {
    let identity = Identity {
        name: settings.name.clone(),
        scope: settings.scope.clone(),
        secret: settings.peer_secret.clone(),
        login: settings.api_auth.clone(),
    };
    let open = identity.secret.is_none()
        && identity.login.is_none()
        && !http::access::asks_for_certificates(&settings.rest_server);
    let address = settings.rest_listen;
    if open && !address.ip().is_loopback() {
        tracing::warn!("no peer secret: whoever reaches {address} can pass for a member");
    }
    identity
}

fn node_config(settings: &Settings) -> Result<NodeConfig, AgentError> {
    Ok(NodeConfig {
        name: settings.name.clone(),
        tags: crate::watch::tags(settings),
        repair: repair(settings.lifecycle.hooks.repair),
        restores_alone: settings.lifecycle.hooks.restores_without_leader(),
        founding_policy: settings.founding_policy.clone(),
        may_found: settings.may_found,
        seed: getrandom::u64().map_err(AgentError::Random)?,
        mutant: None,
    })
}

fn postgres(
    server: Server,
    found: &pgherd_postgres::Found,
    settings: &Settings,
    addresses: Addresses,
    events: &mpsc::Sender<Event>,
) -> PostgresLane {
    PostgresLane::start(server, found, &settings.data_dir, addresses, events.clone())
}

fn encoder(settings: &Settings) -> Encoder {
    Encoder {
        member: member(settings),
        founding_config: settings.founding_config.clone(),
        ..Encoder::default()
    }
}

/// What the settings say about this node to others.
pub(crate) fn member(settings: &Settings) -> MemberSelf {
    let (host, port) = &settings.pg_connect;
    let scheme = if settings.rest_server.tls.is_some() { "https" } else { "http" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let database = text(settings, "database").unwrap_or_else(|| "postgres".to_owned());
    let proxy = text(settings, "proxy_address");
    MemberSelf {
        conn_url: format!("postgres://{host}:{port}/{database}"),
        proxy_url: proxy.map(|address| format!("postgres://{address}/{database}")),
        api_url: format!("{scheme}://{}/patroni", settings.rest_connect),
        tags: tags::published(&settings.tags),
        ..MemberSelf::default()
    }
}

fn peers(addresses: &Addresses) -> pgherd_postgres::Peers {
    let addresses: Arc<RwLock<BTreeMap<NodeName, _>>> = Arc::clone(addresses);
    Arc::new(move |name: &NodeName| {
        addresses.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    })
}

fn postgres_settings(
    settings: &Settings,
    bin: Binaries,
    wanted: Wanted,
) -> pgherd_postgres::Settings {
    let credentials = |login: &Login, account: &str| pgherd_postgres::Credentials {
        username: login.username.clone(),
        password: pgherd_postgres::Secret::new(login.password.reveal()),
        options: connection_options(settings, account),
    };
    let has_rewind = settings.local.get(&["postgresql", "authentication", "rewind"]).is_some();
    let rewind = if has_rewind { "rewind" } else { "superuser" };
    let path = |key: &str| text(settings, key).map(PathBuf::from);
    pgherd_postgres::Settings {
        bin,
        data_dir: settings.data_dir.clone(),
        run_dir: settings.run_dir.clone(),
        socket_dir: settings.run_dir.join("socket"),
        log_file: settings.run_dir.join("postgresql.log"),
        listen_addresses: settings.pg_listen.clone(),
        port: settings.pg_port,
        cluster_name: settings.scope.clone(),
        node: settings.name.clone(),
        account: pgherd_postgres::account(),
        superuser: credentials(&settings.superuser, "superuser"),
        replication: credentials(&settings.replication, "replication"),
        rewind: credentials(&settings.rewind, rewind),
        passfile: path("pgpass").unwrap_or_else(|| settings.run_dir.join("pgpass")),
        config_dir: path("config_dir").unwrap_or_else(|| settings.data_dir.clone()),
        wanted,
        hba_networks: settings.hba_networks.clone(),
        lifecycle: settings.lifecycle.clone(),
        guard_exe: "/proc/self/exe".into(),
        stop_bound: STOP_BOUND,
        start_bound: start_bound(settings.founding_policy.primary_start_timeout),
    }
}

/// What nobody forbids is done: data is repaired, and what a copy replaces is kept beside it.
pub(crate) fn repair(said: lifecycle::Repair) -> Repair {
    Repair {
        rewind: said.rewind.unwrap_or(true),
        copy_after_failure: said.copy_after_failure.unwrap_or(true),
        copy_diverged: said.copy_diverged.unwrap_or(true),
    }
}

/// With 0 a crashed primary isn't started while others could lead; what is started gets its time.
fn start_bound(timeout: pgherd_core::Duration) -> Duration {
    let timeout = if timeout.0 == 0 { Policy::default().primary_start_timeout } else { timeout };
    timeout.to_std()
}

/// A key of the local `postgresql` section.
fn text(settings: &Settings, key: &str) -> Option<String> {
    settings.local.get(&["postgresql", key]).and_then(|node| node.scalar())
}

fn connection_options(settings: &Settings, account: &str) -> BTreeMap<&'static str, String> {
    let option = |key: &&'static str| {
        let node = settings.local.get(&["postgresql", "authentication", account, key]);
        node.and_then(|node| node.scalar()).map(|value| (*key, value))
    };
    let service = text(settings, "krbsrvname").map(|name| ("krbsrvname", name));
    CONNECTION_OPTIONS.iter().filter_map(option).chain(service).collect()
}

fn wishes(settings: &Settings, major: u32) -> Wishes {
    let (local, founding) = (settings.local.clone(), settings.founding_config.clone());
    Wishes::new(local, founding, usual_sockets(settings), major)
}

/// Where Debian's and PGDG's clients look for a server when nobody names one. A cluster that
/// pgherd made itself has sockets of its own only.
fn usual_sockets(settings: &Settings) -> Option<&'static str> {
    const USUAL: &str = "/var/run/postgresql";
    let ours = settings.local.get(&["pgherd"]).is_some();
    let writable = || rustix::fs::access(USUAL, rustix::fs::Access::WRITE_OK).is_ok();
    (!ours && writable()).then_some(USUAL)
}

fn first_board(node: &Node, incarnation: Incarnation) -> Board {
    Board {
        incarnation,
        at: clock::now(),
        cluster: None,
        store: None,
        observed: None,
        decision: node.decision().clone(),
        leads: None,
        belief_until: None,
        serving: false,
        cancelled_waits: 0,
        unreplicated: None,
        vouches: None,
        failsafe: false,
        peers: Vec::new(),
        ailment: None,
        disks: DiskFacts::default(),
        operation: None,
        last_failure: None,
        restarting: false,
        restarts: node.restarts(),
        planned: None,
    }
}

/// `15.18 (Debian ...)` as PostgreSQL's own number: 150018.
fn version_number(bin: &Binaries) -> u32 {
    let digits = |c: char| !c.is_ascii_digit();
    let minor = bin.version.split('.').nth(1).unwrap_or_default();
    let minor: u32 = minor.split(digits).next().unwrap_or_default().parse().unwrap_or(0);
    bin.major * 10_000 + minor
}
