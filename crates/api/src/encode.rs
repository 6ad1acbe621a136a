//! The core's values as bytes for the store: what Patroni would write, byte for byte, where the key
//! is Patroni's (contract 1.3), and serde's compact JSON where it is ours.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use pgherd_core::cluster::{
    FailoverRequest, HistoryLine, Initialize, MemberRecord, MemberRole, MemberState, Status,
    SyncState, Value,
};
use pgherd_core::{Instance, Lsn, NodeName, Timeline};
use serde::Serialize;
use serde_json::Map;

use crate::cluster::StatusSlots;
use crate::{COMPATIBLE_VERSION, config, words};

/// What a node publishes of itself beside the core's [`MemberRecord`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberSelf {
    /// Where clients reach its PostgreSQL: `postgres://host:port/postgres`.
    pub conn_url: String,
    /// Where others reach its REST API: `http://host:port/patroni`.
    pub api_url: String,
    /// Where a proxy of its PostgreSQL is reached, in the form of `conn_url`.
    pub proxy_url: Option<String>,
    /// Its tags, in the order in which they were written.
    pub tags: Map<String, serde_json::Value>,
    /// The parameters that wait for a restart of PostgreSQL.
    pub pending_restart: BTreeMap<String, PendingChange>,
    /// A restart that is due later: `schedule`, `postmaster_start_time`, and its filters.
    pub scheduled_restart: Option<Map<String, serde_json::Value>>,
    /// Its PostgreSQL has a `restore_command`: where it doesn't stream, it reads the archive.
    pub restores: bool,
}

/// A parameter that waits for a restart, as Patroni shows it (contract 1.3).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PendingChange {
    /// In force now; empty when nobody knows: Patroni's tools want texts.
    pub old_value: String,
    /// In force after the restart; empty when nobody knows.
    pub new_value: String,
}

/// Turns values into bytes for one node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Encoder {
    /// For the node's own member key.
    pub member: MemberSelf,
    /// Where each member's REST API is, for `failsafe`.
    pub api_urls: BTreeMap<NodeName, String>,
    /// What `status` says of slots, beside the core's position.
    pub status: StatusSlots,
    /// What a new cluster's `config` says beside the core's settings (`postgresql.parameters`, ...).
    pub founding_config: Map<String, serde_json::Value>,
}

impl Encoder {
    /// A value as the store gets it.
    ///
    /// # Errors
    /// Never for values that the core makes: their maps have text keys.
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, serde_json::Error> {
        match value {
            Value::Initialize(Initialize::Bootstrapping) => Ok(Vec::new()),
            Value::Initialize(Initialize::Done(id)) => Ok(id.to_string().into_bytes()),
            Value::Config(policy) => {
                let mut json = config::to_json(policy);
                // What somebody wrote stands as it was written; the core read the same.
                config::merge(&mut json, &self.founding_config);
                serde_json::to_vec(&json)
            }
            Value::Leader(name) => Ok(name.as_str().as_bytes().to_vec()),
            Value::Term(term) => serde_json::to_vec(term),
            Value::Beat(beat) => serde_json::to_vec(beat),
            Value::Claim(claim) => serde_json::to_vec(claim),
            Value::Sync(sync) => serde_json::to_vec(&SyncJson::new(sync)),
            Value::Status(Status { optime }) => self.status(*optime),
            Value::Failover(None) => Ok(b"{}".to_vec()),
            Value::Failover(Some(request)) => failover(request, None),
            Value::History(lines) => history(lines),
            Value::Failsafe(names) => {
                let url = |name: &NodeName| self.api_urls.get(name).cloned().unwrap_or_default();
                let map: BTreeMap<&NodeName, String> = names.iter().map(|n| (n, url(n))).collect();
                serde_json::to_vec(&map)
            }
            Value::Member(record) => self.member(record),
        }
    }

    fn status(&self, optime: Lsn) -> Result<Vec<u8>, serde_json::Error> {
        let StatusSlots { slots, retain, own } = &self.status;
        let own = own.as_deref().map(|own| (own, optime));
        let places = slots.iter().map(|(name, at)| (name.as_str(), *at));
        serde_json::to_vec(&StatusJson {
            optime,
            slots: places.chain(own).collect(),
            retain_slots: retain,
        })
    }

    /// Who is about to stop is `nosync`, as Patroni's members are then (contract 3.9).
    fn tags(&self, record: &MemberRecord) -> Cow<'_, Map<String, serde_json::Value>> {
        let tags = &self.member.tags;
        if !record.tags.nosync() || pgherd_config::tags::meaning(tags).nosync() {
            return Cow::Borrowed(tags);
        }
        let mut tags = tags.clone();
        tags.insert("nosync".to_owned(), true.into());
        tags.insert("sync_priority".to_owned(), 0.into());
        Cow::Owned(tags)
    }

    fn member(&self, record: &MemberRecord) -> Result<Vec<u8>, serde_json::Error> {
        let replica = record.role != MemberRole::Primary;
        let pending = !self.member.pending_restart.is_empty();
        let tags = self.tags(record);
        serde_json::to_vec(&MemberJson {
            conn_url: &self.member.conn_url,
            api_url: &self.member.api_url,
            state: words::state(record.state),
            role: words::role(record.role),
            version: COMPATIBLE_VERSION,
            proxy_url: self.member.proxy_url.as_deref(),
            pending_restart: pending.then_some(true),
            pending_restart_reason: pending.then_some(&self.member.pending_restart),
            tags: (!tags.is_empty()).then_some(&*tags),
            xlog_location: record.lsn,
            replay_lsn: record.replayed.filter(|_| replica),
            receive_lsn: record.lsn.filter(|_| replica),
            replication_state: match (record.streaming, self.member.restores && replica) {
                (true, _) => Some("streaming"),
                (false, true) if record.state == MemberState::Running => {
                    Some("in archive recovery")
                }
                (false, _) => None,
            },
            timeline: record.timeline,
            scheduled_restart: self.member.scheduled_restart.as_ref(),
            checkpoint_after_promote: record.checkpoint_pending.then_some(false),
            pause: record.paused.then_some(true),
            pgherd: env!("CARGO_PKG_VERSION"),
        })
    }
}

/// `failover`, with the moment when it is due (contract 1.3), if it isn't at once.
///
/// # Errors
/// Never: all parts are texts.
pub fn failover(
    request: &FailoverRequest,
    scheduled_at: Option<&str>,
) -> Result<Vec<u8>, serde_json::Error> {
    let FailoverRequest { leader, member } = request;
    serde_json::to_vec(&FailoverJson {
        leader: leader.as_ref(),
        member: member.as_ref(),
        scheduled_at,
    })
}

fn history(lines: &[HistoryLine]) -> Result<Vec<u8>, serde_json::Error> {
    let line = |line: &HistoryLine| {
        let mut parts = vec![
            serde_json::to_value(line.timeline)?,
            serde_json::to_value(line.end)?,
            serde_json::to_value(&line.reason)?,
        ];
        // Fields by position: a leader without a time would be taken for the time.
        if line.at != 0 || line.leader.is_some() {
            parts.push(serde_json::to_value(iso8601(line.at))?);
        }
        if let Some(leader) = &line.leader {
            parts.push(serde_json::to_value(leader)?);
        }
        Ok(serde_json::Value::Array(parts))
    };
    let lines: Result<Vec<_>, serde_json::Error> = lines.iter().map(line).collect();
    serde_json::to_vec(&lines?)
}

/// Unix seconds as Patroni writes moments: `2026-11-22T18:06:13+00:00`.
#[must_use]
pub fn iso8601(unix_seconds: i64) -> String {
    let moment = jiff::Timestamp::from_second(unix_seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

#[derive(Serialize)]
struct MemberJson<'a> {
    conn_url: &'a str,
    api_url: &'a str,
    state: &'a str,
    role: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_restart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_restart_reason: Option<&'a BTreeMap<String, PendingChange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xlog_location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Timeline>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_restart: Option<&'a Map<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_after_promote: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<bool>,
    /// Ours: which agent this is. A member without it is Patroni's.
    pgherd: &'static str,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    optime: Lsn,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    slots: BTreeMap<&'a str, Lsn>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    retain_slots: &'a BTreeSet<String>,
}

#[derive(Serialize)]
struct FailoverJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<&'a str>,
}

#[derive(Serialize)]
struct SyncJson<'a> {
    leader: Option<&'a NodeName>,
    quorum: u32,
    sync_standby: Option<String>,
    /// Ours: the data-directory lives under which the voters were admitted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    instances: BTreeMap<&'a NodeName, Instance>,
}

impl<'a> SyncJson<'a> {
    fn new(sync: &'a SyncState) -> Self {
        let names: Vec<&str> = sync.voters.keys().map(NodeName::as_str).collect();
        let known = sync.voters.iter();
        Self {
            leader: sync.leader.as_ref(),
            quorum: sync.quorum,
            sync_standby: (!names.is_empty()).then(|| names.join(",")),
            instances: known.filter_map(|(name, life)| Some((name, (*life)?))).collect(),
        }
    }
}
