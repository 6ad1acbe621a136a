//! A cluster as the store holds it: the core's view, and beside it what only people, routers and
//! tools read. Built from one read, kept up to date by the watch.
//! Leaves the store's client to its own crate: its types are mirrored by [`Record`] and [`Change`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgherd_core::cluster::{ClusterView, Key, Keyed};
use pgherd_core::{LeaseId, Lsn, NodeName, Revision, Timeline};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::keys::Keys;
use crate::{config, decode};

/// One key of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its full path.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Its create revision.
    pub created: u64,
    /// Its modification revision.
    pub modified: u64,
    /// Its lease; 0 for none.
    pub lease: i64,
}

/// One event of the watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A key was written.
    Put(Record),
    /// A key was removed, at this revision.
    Delete {
        /// Its full path.
        key: Vec<u8>,
        /// When.
        revision: u64,
    },
}

/// A member as it describes itself in the store (contract 1.3), in Patroni's words.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MemberInfo {
    /// Its name.
    pub name: NodeName,
    /// `postgres://host:port/database`.
    pub conn_url: Option<String>,
    /// From `conn_url`.
    pub host: Option<String>,
    /// From `conn_url`.
    pub port: Option<u16>,
    /// `http://host:port/patroni`.
    pub api_url: Option<String>,
    /// A state word (contract 2.6).
    pub state: String,
    /// A role word (contract 1.3).
    pub role: String,
    /// The agent's version.
    pub version: Option<String>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// Flushed (primary), or on disk (replica).
    pub xlog_location: Option<Lsn>,
    /// Received by a replica.
    pub receive_lsn: Option<Lsn>,
    /// Replayed by a replica.
    pub replay_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    /// Its tags.
    pub tags: Map<String, Value>,
    /// A parameter waits for a restart.
    pub pending_restart: bool,
    /// Which.
    pub pending_restart_reason: Option<Value>,
    /// A restart is planned.
    pub scheduled_restart: Option<Value>,
    /// Its agent has seen that management is paused.
    pub pause: bool,
    /// `false` while pg_rewind would take it for the primary that it was before its promotion.
    pub checkpoint_after_promote: Option<bool>,
    /// The version of an agent of ours; Patroni's have none.
    pub pgherd: Option<String>,
}

impl MemberInfo {
    /// Whether a tag is set to something that means yes.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> bool {
        self.tags.get(tag).and_then(config::boolean).unwrap_or(false)
    }

    /// May never lead: `nofailover`, or a `failover_priority` of 0 or less (contract 3.9).
    #[must_use]
    pub fn nofailover(&self) -> bool {
        pgherd_config::tags::meaning(&self.tags).nofailover()
    }

    /// Host and port of its REST API.
    #[must_use]
    pub fn api_address(&self) -> Option<(String, u16)> {
        decode::address(self.api_url.as_deref()?)
    }
}

/// A switchover that is due later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Schedule {
    /// When, as it was written (ISO 8601 with an offset).
    pub at: String,
    /// The leader to be relieved.
    pub from: Option<NodeName>,
    /// The candidate.
    pub to: Option<NodeName>,
}

impl Schedule {
    /// When, in unix seconds, a fraction counted as a whole; `None` when the text is no moment.
    #[must_use]
    pub fn unix_seconds(&self) -> Option<i64> {
        decode::unix_seconds_after(&self.at)
    }

    /// Whether it is a date and time, of which nobody can say where.
    #[must_use]
    pub fn lacks_offset(&self) -> bool {
        self.unix_seconds().is_none() && self.at.parse::<jiff::civil::DateTime>().is_ok()
    }
}

/// What `status` says of slots (contract 1.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatusSlots {
    /// Where the leader's slots stand.
    pub slots: BTreeMap<String, Lsn>,
    /// Slots that are kept for members, also for those that are gone.
    pub retain: BTreeSet<String>,
    /// The slot that others have for the leader: its place is the leader's own.
    pub own: Option<String>,
}

/// The `config` key as it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct RawConfig {
    /// The whole object, with what the core doesn't read.
    pub json: Map<String, Value>,
    /// When it was last written: what a change must compare.
    pub modified: Revision,
}

/// The cluster as of one revision.
#[derive(Clone, Debug)]
pub struct Cluster {
    keys: Keys,
    view: Arc<ClusterView>,
    members: BTreeMap<NodeName, MemberInfo>,
    config: Option<RawConfig>,
    failover: Option<Revision>,
    schedule: Option<Schedule>,
    history: Option<Value>,
    failsafe: Option<Value>,
    status_slots: StatusSlots,
}

impl Cluster {
    /// The cluster as one read of all its keys shows it.
    #[must_use]
    pub fn read(keys: Keys, revision: u64, records: impl IntoIterator<Item = Record>) -> Self {
        let mut cluster = Self {
            keys,
            view: Arc::default(),
            members: BTreeMap::new(),
            config: None,
            failover: None,
            schedule: None,
            history: None,
            failsafe: None,
            status_slots: StatusSlots::default(),
        };
        cluster.apply(revision, records.into_iter().map(Change::Put));
        cluster
    }

    /// Takes what the watch says has happened up to `revision`. Returns false when that is older
    /// than what is known: such news is ignored.
    pub fn apply(&mut self, revision: u64, changes: impl IntoIterator<Item = Change>) -> bool {
        if Revision(revision) < self.view.revision {
            return false;
        }
        // Shared with whoever still looks at the former view; copied only then.
        let view = Arc::make_mut(&mut self.view);
        view.revision = Revision(revision);
        let mut side = Side {
            members: &mut self.members,
            config: &mut self.config,
            failover: &mut self.failover,
            schedule: &mut self.schedule,
            history: &mut self.history,
            failsafe: &mut self.failsafe,
            status_slots: &mut self.status_slots,
        };
        for change in changes {
            match change {
                Change::Put(record) => put(&self.keys, view, &mut side, &record),
                Change::Delete { key, .. } => delete(&self.keys, view, &mut side, &key),
            }
        }
        if let Some(sync) = &mut view.sync {
            decode::spell_as(&mut sync.value.voters, side.members);
        }
        true
    }

    /// What the core decides on.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view)
    }

    /// The members in full.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeName, MemberInfo> {
        &self.members
    }

    /// `config` as it stands.
    #[must_use]
    pub fn config(&self) -> Option<&RawConfig> {
        self.config.as_ref()
    }

    /// A switchover that is due later. The core doesn't see it: who watches the wall clock turns
    /// it into a plain request when it is due.
    #[must_use]
    pub fn schedule(&self) -> Option<&Schedule> {
        self.schedule.as_ref()
    }

    /// When `failover` was last written, whatever it says; 0 when it is absent.
    #[must_use]
    pub fn failover_modified(&self) -> Revision {
        self.failover.unwrap_or_default()
    }

    /// `history` as it stands; an empty array when there is none.
    #[must_use]
    pub fn history(&self) -> Value {
        self.history.clone().unwrap_or_else(|| Value::Array(Vec::new()))
    }

    /// `failsafe` as it stands: Patroni's map of members.
    #[must_use]
    pub fn failsafe(&self) -> Option<&Value> {
        self.failsafe.as_ref()
    }

    /// What the leader last said of its slots.
    #[must_use]
    pub fn status_slots(&self) -> &StatusSlots {
        &self.status_slots
    }

    /// Where its keys lie.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}

/// The parts that the core doesn't see.
struct Side<'a> {
    members: &'a mut BTreeMap<NodeName, MemberInfo>,
    config: &'a mut Option<RawConfig>,
    failover: &'a mut Option<Revision>,
    schedule: &'a mut Option<Schedule>,
    history: &'a mut Option<Value>,
    failsafe: &'a mut Option<Value>,
    status_slots: &'a mut StatusSlots,
}

fn put(keys: &Keys, view: &mut ClusterView, side: &mut Side<'_>, record: &Record) {
    let bytes = record.value.as_slice();
    let Some(key) = std::str::from_utf8(&record.key).ok().and_then(|path| keys.parse(path)) else {
        return;
    };
    match key {
        Key::Initialize => view.initialize = Some(keyed(record, decode::initialize(bytes))),
        Key::Config => {
            let json = decode::object(bytes);
            // Settings that can't be read change nothing but the revision: transactions compare it.
            let former = view.config.take().map(|config| config.value);
            let policy = match &json {
                Some(json) => config::from_json(json),
                None => former.unwrap_or_else(config::patroni_defaults),
            };
            view.config = Some(keyed(record, policy));
            *side.config = json.map(|json| RawConfig { json, modified: Revision(record.modified) });
        }
        Key::Leader => view.leader = decode::name(bytes).map(|name| keyed(record, name)),
        Key::Term => view.term = ours(record),
        Key::Beat => view.beat = ours(record),
        Key::Claim => view.claim = ours(record),
        Key::Sync => view.sync = Some(keyed(record, decode::sync(bytes))),
        Key::Status => {
            view.status = decode::status(bytes).map(|status| keyed(record, status));
            *side.status_slots = decode::status_slots(bytes);
        }
        Key::Failover => {
            let asked = decode::failover(bytes);
            *side.failover = Some(Revision(record.modified));
            *side.schedule = asked.as_ref().and_then(|(_, schedule)| schedule.clone());
            let now = asked.filter(|(_, schedule)| schedule.is_none());
            view.failover = now.map(|(request, _)| keyed(record, request));
        }
        Key::History => {
            view.history = decode::history(bytes).map(|lines| keyed(record, lines));
            *side.history = serde_json::from_slice(bytes).ok();
        }
        Key::Failsafe => {
            let map: Option<Value> = serde_json::from_slice(bytes).ok();
            view.failsafe =
                Some(keyed(record, map.as_ref().map(decode::names).unwrap_or_default()));
            *side.failsafe = map;
        }
        Key::Member(name) => {
            let info = decode::member(&name, bytes);
            view.members.insert(name.clone(), keyed(record, decode::member_record(&info)));
            side.members.insert(name, info);
        }
    }
}

fn delete(keys: &Keys, view: &mut ClusterView, side: &mut Side<'_>, path: &[u8]) {
    let Some(key) = std::str::from_utf8(path).ok().and_then(|path| keys.parse(path)) else {
        return;
    };
    match key {
        Key::Initialize => view.initialize = None,
        Key::Config => {
            view.config = None;
            *side.config = None;
        }
        Key::Leader => view.leader = None,
        Key::Term => view.term = None,
        Key::Beat => view.beat = None,
        Key::Claim => view.claim = None,
        Key::Sync => view.sync = None,
        Key::Status => {
            view.status = None;
            *side.status_slots = StatusSlots::default();
        }
        Key::Failover => {
            view.failover = None;
            *side.failover = None;
            *side.schedule = None;
        }
        Key::History => {
            view.history = None;
            *side.history = None;
        }
        Key::Failsafe => {
            view.failsafe = None;
            *side.failsafe = None;
        }
        Key::Member(name) => {
            view.members.remove(&name);
            side.members.remove(&name);
        }
    }
}

fn keyed<T>(record: &Record, value: T) -> Keyed<T> {
    Keyed {
        value,
        created: Revision(record.created),
        modified: Revision(record.modified),
        lease: (record.lease != 0).then_some(LeaseId(record.lease)),
    }
}

/// A key that only pgherd writes. One that can't be read counts as absent: whoever compares its
/// revision is refused, which is the safe side.
fn ours<T: serde::de::DeserializeOwned>(record: &Record) -> Option<Keyed<T>> {
    serde_json::from_slice(&record.value).ok().map(|value| keyed(record, value))
}
