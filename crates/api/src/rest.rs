//! The REST API's paths and bodies: Patroni's (contract 2) and ours.
//! Leaves what the answers are to the agent, and how they travel to axum and to `client`.

use pgherd_core::disk::Ailment;
use pgherd_core::{Incarnation, Lsn, NodeName, Reason, Situation, Term, Timeline};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::encode::iso8601;
pub use crate::vouch::{LostBody, TermBody, WaitingBody};

/// Where things are. Health checks are in the agent's own table, for they match by substring.
pub mod paths {
    /// Status of one node.
    pub const PATRONI: &str = "/patroni";
    /// The members, as the store lists them.
    pub const CLUSTER: &str = "/cluster";
    /// Former timelines.
    pub const HISTORY: &str = "/history";
    /// Cluster-wide settings.
    pub const CONFIG: &str = "/config";
    /// Prometheus text.
    pub const METRICS: &str = "/metrics";
    /// What this node decided and why.
    pub const EXPLAIN: &str = "/explain";
    /// The term that this node vouches for.
    pub const TERM: &str = "/term";
    /// Backends whose commit waits for replicas.
    pub const WAITING: &str = "/waiting";
    /// A planned change of leader.
    pub const SWITCHOVER: &str = "/switchover";
    /// An unplanned one.
    pub const FAILOVER: &str = "/failover";
    /// A new copy of the leader's data.
    pub const REINITIALIZE: &str = "/reinitialize";
    /// The stream between agents (HTTP Upgrade).
    pub const PEER: &str = "/peer";
    /// A restart of PostgreSQL.
    pub const RESTART: &str = "/restart";
    /// The agent reads its settings again.
    pub const RELOAD: &str = "/reload";
}

/// Status of one node (contract 2.6): `GET /patroni` and every health check.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PatroniStatus {
    /// A state word.
    pub state: String,
    /// When the postmaster started, as PostgreSQL prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    /// A role word, by `pg_is_in_recovery()` when it could be asked.
    pub role: String,
    /// PostgreSQL's version as a number: 170005.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// WAL positions. A reply without them counts as unreachable among Patroni's agents.
    #[serde(skip_serializing_if = "Option::is_none", alias = "wal")]
    pub xlog: Option<Xlog>,
    /// A commit may have waited for this node (priority mode).
    #[serde(skip_serializing_if = "is_false")]
    pub sync_standby: bool,
    /// A commit may have waited for this node (quorum mode).
    #[serde(skip_serializing_if = "is_false")]
    pub quorum_standby: bool,
    /// PostgreSQL's timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// `streaming` or `in archive recovery`, of a replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The primary's WAL senders; absent when there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replication: Vec<ReplicationRow>,
    /// Nobody holds the leader key.
    #[serde(skip_serializing_if = "is_false")]
    pub cluster_unlocked: bool,
    /// The members confirm this leader, while the store is away.
    #[serde(skip_serializing_if = "is_false")]
    pub failsafe_mode_is_active: bool,
    /// Management is paused.
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    /// A parameter waits for a restart.
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    /// A restart that is due later: `schedule` and its filters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Map<String, Value>>,
    /// Unix seconds of the last good look at the store; 0: never.
    pub dcs_last_seen: i64,
    /// The node's tags.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// Which database cluster it is, in decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_system_identifier: Option<String>,
    /// Who answers.
    pub patroni: Identity,
    /// What the node is ill of, in a word. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ailment: Option<Ailment>,
    /// The term that the node knows. Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
}

/// WAL positions of a status body.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Xlog {
    /// A primary's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Lsn>,
    /// What a replica has received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_location: Option<Lsn>,
    /// What a replica has replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_location: Option<Lsn>,
    /// When the last replayed transaction was committed; null when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_timestamp: Option<String>,
    /// Replay is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// One WAL sender of a status body.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationRow {
    /// Its role.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usename: String,
    /// The replica's name.
    pub application_name: String,
    /// Where it connects from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, ...
    pub state: String,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: String,
    /// Its place in the list.
    pub sync_priority: u32,
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The version, dotted integers.
    pub version: String,
    /// The cluster.
    pub scope: String,
    /// The node.
    pub name: String,
}

/// The members of a cluster (contract 2.7): `GET /cluster`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterBody {
    /// Sorted by name.
    pub members: Vec<ClusterMember>,
    /// The cluster's name.
    pub scope: String,
    /// Management is paused.
    #[serde(skip_serializing_if = "is_false")]
    pub pause: bool,
    /// A switchover that is due later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_switchover: Option<ScheduledSwitchover>,
    /// How old this is, in milliseconds, when the store has not been heard for its ttl. Ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_age_ms: Option<u64>,
}

/// One member of [`ClusterBody`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterMember {
    /// Its name.
    pub name: String,
    /// `leader`, `sync_standby`, `quorum_standby`, `replica`.
    pub role: String,
    /// `streaming`, `in archive recovery`, or a state word.
    pub state: String,
    /// Its API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// Where its PostgreSQL listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where its PostgreSQL listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// A parameter waits for a restart.
    #[serde(skip_serializing_if = "is_false")]
    pub pending_restart: bool,
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    /// A restart is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// Its tags.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// Positions, of all but the leader.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
}

/// How far a replica is (contract 2.7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Positions {
    /// Bytes behind, or `"unknown"`.
    pub receive_lag: Lag,
    /// `0/5117C70`, or `"unknown"`.
    pub receive_lsn: String,
    /// Bytes behind, or `"unknown"`.
    pub replay_lag: Lag,
    /// `0/5117C70`, or `"unknown"`.
    pub replay_lsn: String,
    /// Bytes behind by `xlog_location`.
    pub lag: Lag,
    /// `xlog_location`.
    pub lsn: String,
}

/// A distance in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lag {
    /// So many bytes.
    Bytes(u64),
    /// Not known.
    Unknown,
}

/// A switchover that is due later, as `GET /cluster` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduledSwitchover {
    /// When.
    pub at: String,
    /// The leader to be relieved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// `GET /history`: the key as it stands, one array per former timeline (contract 1.3).
pub type HistoryBody = Vec<Vec<Value>>;

/// `POST /switchover` and `POST /failover`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FailoverBody {
    /// The leader to be relieved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The candidate.
    #[serde(skip_serializing_if = "Option::is_none", alias = "member")]
    pub candidate: Option<String>,
    /// When; at once without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// `GET /explain`: what this node decided, why, and what it knew. Ours.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExplainBody {
    /// The node.
    pub name: NodeName,
    /// The cluster.
    pub scope: String,
    /// Which life of the agent.
    pub incarnation: Incarnation,
    /// The decision in force.
    pub current: DecisionBody,
    /// The decisions before, the latest first.
    pub recent: Vec<DecisionBody>,
    /// For how long this node may still believe that it leads, in milliseconds; absent when it
    /// doesn't.
    pub belief_ms: Option<u64>,
    /// The term that the store shows.
    pub term: Option<Term>,
    /// The store's revision that this node knows.
    pub revision: u64,
    /// How old the last news from the store is, in milliseconds; absent when there was none.
    pub store_age_ms: Option<u64>,
    /// PostgreSQL, in a few words.
    pub postgres: PostgresBody,
    /// The other members, as their agents say over their streams.
    pub peers: Vec<PeerBody>,
    /// The calls that were to change something, and who made them, the latest first.
    #[serde(default)]
    pub asked: Vec<AskedBody>,
    /// Synchronous waits that ended without the replicas, since the agent's start.
    #[serde(default)]
    pub cancelled_waits: u64,
    /// Commits of such waits up to here are on too few nodes; absent when there are none.
    #[serde(default)]
    pub unreplicated: Option<String>,
    /// Commits of such waits on the leader before this term's, up to here, are not all in this term.
    #[serde(default)]
    pub without: Option<String>,
    /// WAL of this node that a rewind took out of the cluster's history, kept aside.
    #[serde(default)]
    pub lost: Vec<LostBody>,
}

/// A call that was to change something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AskedBody {
    /// Wall clock, ISO 8601 with milliseconds, UTC.
    pub at: String,
    /// `POST /switchover`.
    pub call: String,
    /// From which address.
    pub address: String,
    /// The login that was proved; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// How the caller's program calls itself; anybody can write here what he likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

impl std::fmt::Display for AskedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(login) = &self.login {
            write!(f, "{login} at ")?;
        }
        f.write_str(&self.address)?;
        self.agent.as_ref().map_or(Ok(()), |agent| write!(f, " with {agent}"))
    }
}

/// One decision.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DecisionBody {
    /// Wall clock, ISO 8601 with milliseconds, UTC.
    pub at: String,
    /// What the node found itself in.
    pub situation: Situation,
    /// The one reason.
    pub reason: Reason,
    /// The reason as a sentence.
    pub text: String,
    /// The term that it knew.
    pub term: Option<Term>,
}

/// The local PostgreSQL, for a reader.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresBody {
    /// A state word of ours: `absent`, `broken`, `stopped`, `starting`, `unresponsive`, `primary`,
    /// `replica`.
    pub state: String,
    /// Its timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// How far it got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// The same as PostgreSQL prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn_text: Option<String>,
    /// Whom it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<NodeName>,
    /// A WAL receiver streams.
    #[serde(skip_serializing_if = "is_false")]
    pub streaming: bool,
    /// Who streams from here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<NodeName>,
    /// The list in force (`synchronous_standby_names`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<NodeName>,
    /// How many of them must acknowledge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for_count: Option<u32>,
    /// What runs on it at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// How far a copy is that runs at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copied_bytes: Option<u64>,
    /// How much there is to copy, as far as the source knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// How the last operation that failed, failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// What keeps it from leading, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ailment: Option<Ailment>,
    /// How many more clients it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_for_clients: Option<u32>,
}

/// Another member.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerBody {
    /// Its name.
    pub name: NodeName,
    /// Messages can be sent to it now.
    pub connected: bool,
    /// How old its last sign of life is, in milliseconds; absent when there was none.
    pub heard_ms: Option<u64>,
    /// It says that it leads this term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads: Option<Term>,
    /// Its PostgreSQL, in a word.
    pub postgres: String,
    /// How far its WAL reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// It hears the leader.
    pub hears_leader: bool,
    /// What it is ill of, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ailment: Option<Ailment>,
}

/// An error of our own endpoints. Patroni's answer with plain text instead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, in a sentence.
    pub error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ClusterBody {
    /// The body for a cluster, from the store alone (contract 2.7).
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        let view = cluster.view();
        let leader = view.leader.as_ref().map(|leader| &leader.value);
        let optime = view.status.as_ref().map(|status| status.value.optime);
        // Our leaders publish their position with each beat, not in `status`.
        let beat = view.current_beat().map(|beat| beat.value.lsn);
        let end = optime.max(beat);
        let policy = view.config.as_ref().map(|config| &config.value);
        let quorum = policy
            .is_some_and(|policy| policy.synchronous_mode == pgherd_core::SynchronousMode::Quorum);
        let member = |info: &crate::MemberInfo| {
            let leads = leader == Some(&info.name);
            let voter =
                view.sync.as_ref().is_some_and(|sync| sync.value.voters.contains_key(&info.name));
            let role = match (leads, voter, quorum) {
                (true, ..) if info.role == "standby_leader" => "standby_leader",
                (true, ..) => "leader",
                (false, true, true) => "quorum_standby",
                (false, true, false) => "sync_standby",
                (false, false, _) => "replica",
            };
            let replication_state = info.replication_state.clone().filter(|_| role != "leader");
            ClusterMember {
                name: info.name.to_string(),
                role: role.to_owned(),
                state: replication_state.unwrap_or_else(|| info.state.clone()),
                api_url: info.api_url.clone(),
                host: info.host.clone(),
                port: info.port,
                timeline: info.timeline,
                pending_restart: info.pending_restart,
                pending_restart_reason: info.pending_restart_reason.clone(),
                scheduled_restart: info.scheduled_restart.clone(),
                tags: info.tags.clone(),
                positions: (!leads).then(|| Positions::new(info, end)),
            }
        };
        Self {
            members: cluster.members().values().map(member).collect(),
            scope: cluster.keys().scope().to_owned(),
            pause: policy.is_some_and(|policy| policy.pause),
            scheduled_switchover: cluster.schedule().map(|schedule| ScheduledSwitchover {
                at: schedule.at.clone(),
                from: schedule.from.as_ref().map(ToString::to_string),
                to: schedule.to.as_ref().map(ToString::to_string),
            }),
            store_age_ms: None,
        }
    }
}

impl Positions {
    fn new(info: &crate::MemberInfo, end: Option<Lsn>) -> Self {
        let lag = |at: Option<Lsn>| match (at, end) {
            (Some(at), Some(end)) => Lag::Bytes(at.lag_behind(end)),
            (None, _) | (_, None) => Lag::Unknown,
        };
        let text = |at: Option<Lsn>| at.map_or_else(|| "unknown".to_owned(), |at| at.to_string());
        Self {
            receive_lag: lag(info.receive_lsn),
            receive_lsn: text(info.receive_lsn),
            replay_lag: lag(info.replay_lsn),
            replay_lsn: text(info.replay_lsn),
            lag: lag(info.xlog_location),
            lsn: text(info.xlog_location),
        }
    }
}

impl DecisionBody {
    /// A decision with the wall clock's time of it, in unix milliseconds.
    #[must_use]
    pub fn new(decision: &pgherd_core::Decision, unix_millis: i64) -> Self {
        Self {
            at: moment(unix_millis),
            situation: decision.situation,
            reason: decision.reason.clone(),
            text: decision.reason.to_string(),
            term: decision.term,
        }
    }
}

/// ISO 8601 with milliseconds.
#[must_use]
pub fn moment(unix_millis: i64) -> String {
    let second = iso8601(unix_millis.div_euclid(1_000));
    let millis = unix_millis.rem_euclid(1_000);
    second.replacen("+00:00", &format!(".{millis:03}+00:00"), 1)
}

impl Serialize for Lag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_u64(*bytes),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

impl<'de> Deserialize<'de> for Lag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(value.as_u64().map_or(Self::Unknown, Self::Bytes))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_false(flag: &bool) -> bool {
    !flag
}
