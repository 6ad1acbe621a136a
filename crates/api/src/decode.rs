//! Values from the store, read as leniently as Patroni reads them (contract 1.3): former forms,
//! unknown fields, and text that is no JSON at all. What can't be read is absent, never an error:
//! a key that somebody broke must not stop a node from looking at the others.

use std::collections::{BTreeMap, BTreeSet};

use pgherd_core::cluster::{
    FailoverRequest, HistoryLine, Initialize, MemberRecord, MemberRole, MemberState, Status,
    SyncState,
};
use pgherd_core::{Instance, Lsn, NodeName, SystemId, Timeline};
use serde_json::{Map, Value};

use crate::cluster::{MemberInfo, Schedule, StatusSlots};
use crate::{config, words};

pub(crate) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(map) => Some(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            None
        }
    }
}

pub(crate) fn name(bytes: &[u8]) -> Option<NodeName> {
    NodeName::new(std::str::from_utf8(bytes).ok()?).ok()
}

/// Less than ten digits are no system identifier: somebody is about to repair that.
pub(crate) fn initialize(bytes: &[u8]) -> Initialize {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    let id = text.parse().ok().filter(|_| text.len() >= 10);
    id.map_or(Initialize::Bootstrapping, |id| Initialize::Done(SystemId(id)))
}

pub(crate) fn status(bytes: &[u8]) -> Option<Status> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    // A bare integer is what Patroni before 2.1 wrote.
    let optime = value.as_u64().or_else(|| value.get("optime").and_then(lenient_u64))?;
    Some(Status { optime: Lsn(optime) })
}

/// The parts of `status` about slots; former agents wrote each as JSON within a text.
pub(crate) fn status_slots(bytes: &[u8]) -> StatusSlots {
    let Some(status) = object(bytes) else { return StatusSlots::default() };
    let part = |name: &str| match status.get(name) {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(value) => value.clone(),
        None => Value::Null,
    };
    let (slots, retain) = (part("slots"), part("retain_slots"));
    let place = |(name, at): (&String, &Value)| Some((name.clone(), Lsn(lenient_u64(at)?)));
    let names = retain.as_array().into_iter().flatten().filter_map(Value::as_str);
    StatusSlots {
        slots: slots.as_object().into_iter().flatten().filter_map(place).collect(),
        retain: names.map(str::to_owned).collect(),
        own: None,
    }
}

/// A key without a leader names nobody.
pub(crate) fn sync(bytes: &[u8]) -> SyncState {
    let Some(map) = object(bytes) else { return SyncState::default() };
    let Some(leader) = map.get("leader").and_then(node) else { return SyncState::default() };
    let lives = map.get("instances").and_then(Value::as_object);
    let life = |name: &str| lives.and_then(|map| map.get(name)).and_then(Value::as_u64);
    let names = map.get("sync_standby").and_then(Value::as_str).unwrap_or_default();
    let voters = names.split(',').filter_map(|name| {
        let name = NodeName::new(name.trim()).ok()?;
        let life = life(name.as_str()).map(Instance);
        Some((name, life))
    });
    SyncState {
        leader: Some(leader),
        quorum: map
            .get("quorum")
            .and_then(lenient_u64)
            .and_then(|quorum| u32::try_from(quorum).ok())
            .unwrap_or(0),
        voters: voters.collect(),
    }
}

/// What is asked, and when; `None` for the empty object. Former form: `leader:candidate`.
pub(crate) fn failover(bytes: &[u8]) -> Option<(FailoverRequest, Option<Schedule>)> {
    if let Some(map) = object(bytes) {
        let leader = map.get("leader").and_then(node);
        let member = map.get("member").or_else(|| map.get("candidate")).and_then(node);
        let at = map.get("scheduled_at").and_then(Value::as_str).filter(|at| !at.is_empty());
        let schedule =
            at.map(|at| Schedule { at: at.to_owned(), from: leader.clone(), to: member.clone() });
        let request = FailoverRequest { leader, member };
        return asks(&request).then_some((request, schedule));
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let (leader, member) = text.split_once(':')?;
    let request =
        FailoverRequest { leader: NodeName::new(leader).ok(), member: NodeName::new(member).ok() };
    asks(&request).then_some((request, None))
}

fn asks(request: &FailoverRequest) -> bool {
    request.leader.is_some() || request.member.is_some()
}

pub(crate) fn history(bytes: &[u8]) -> Option<Vec<HistoryLine>> {
    let lines: Vec<Vec<Value>> = serde_json::from_slice(bytes).ok()?;
    let line = |parts: Vec<Value>| {
        let [timeline, end, ..] = parts.as_slice() else { return None };
        let text = |at: usize| parts.get(at).and_then(Value::as_str);
        Some(HistoryLine {
            timeline: Timeline(u32::try_from(timeline.as_u64()?).ok()?),
            end: Lsn(end.as_u64()?),
            reason: text(2).unwrap_or_default().to_owned(),
            at: text(3).and_then(unix_seconds).unwrap_or(0),
            leader: text(4).and_then(|name| NodeName::new(name).ok()),
        })
    };
    Some(lines.into_iter().filter_map(line).collect())
}

/// Unix seconds of a moment with an offset. As lenient as Patroni (contract 2.4): `2026-11-22
/// 18:00:00.1 +00:00`, `...T18:00Z`, `...-3`.
pub(crate) fn unix_seconds(text: &str) -> Option<i64> {
    timestamp(text).map(jiff::Timestamp::as_second)
}

/// The first whole second at or after it: what is planned for a moment isn't done before it.
pub(crate) fn unix_seconds_after(text: &str) -> Option<i64> {
    let at = timestamp(text)?;
    Some(at.as_second() + i64::from(at.subsec_nanosecond() > 0))
}

fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    let text = text.trim();
    let (moment, offset) = match text.rfind(['+', '-']).filter(|at| *at > "2026-11-22".len()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let digit = offset.len() == 2 && offset.ends_with(|c: char| c.is_ascii_digit());
    let offset = if digit {
        offset.replace(['+', '-'], &format!("{}0", &offset[..1]))
    } else {
        offset.to_owned()
    };
    let text = format!("{}{offset}", moment.trim_end());
    text.parse().ok()
}

/// A member as it says itself, in full.
pub(crate) fn member(name: &NodeName, bytes: &[u8]) -> MemberInfo {
    let map = object(bytes).unwrap_or_else(|| former_member(bytes));
    let text = |field: &str| map.get(field).and_then(Value::as_str).map(str::to_owned);
    let lsn = |field: &str| map.get(field).and_then(lenient_u64).map(Lsn);
    let conn_url = text("conn_url");
    let (host, port) = conn_url.as_deref().and_then(address).unzip();
    MemberInfo {
        name: name.clone(),
        host,
        port,
        conn_url,
        api_url: text("api_url"),
        state: text("state").unwrap_or_default(),
        role: text("role").unwrap_or_default(),
        version: text("version"),
        timeline: map
            .get("timeline")
            .and_then(lenient_u64)
            .and_then(|timeline| u32::try_from(timeline).ok())
            .map(Timeline),
        xlog_location: lsn("xlog_location"),
        receive_lsn: lsn("receive_lsn"),
        replay_lsn: lsn("replay_lsn"),
        replication_state: text("replication_state"),
        tags: map.get("tags").and_then(Value::as_object).cloned().unwrap_or_default(),
        pending_restart: map.get("pending_restart").and_then(config::boolean).unwrap_or(false),
        pending_restart_reason: map.get("pending_restart_reason").cloned(),
        scheduled_restart: map.get("scheduled_restart").cloned(),
        pause: map.get("pause").and_then(config::boolean).unwrap_or(false),
        checkpoint_after_promote: map.get("checkpoint_after_promote").and_then(config::boolean),
        pgherd: text("pgherd"),
    }
}

/// The names in a map such as `failsafe`.
pub(crate) fn names(map: &Value) -> BTreeSet<NodeName> {
    let keys = map.as_object().into_iter().flat_map(|map| map.keys());
    keys.filter_map(|name| NodeName::new(name).ok()).collect()
}

/// What the core wants of a member.
pub(crate) fn member_record(info: &MemberInfo) -> MemberRecord {
    let state = words::parse_state(&info.state);
    let role = words::parse_role(&info.role);
    // A former primary keeps its role in a stopped member's key.
    let stopped = matches!(state, MemberState::Stopped | MemberState::Crashed);
    MemberRecord {
        state,
        role: if stopped && role == MemberRole::Primary { MemberRole::Demoted } else { role },
        lsn: info.receive_lsn.max(info.xlog_location),
        replayed: info.replay_lsn,
        timeline: info.timeline,
        streaming: info.replication_state.as_deref() == Some("streaming"),
        tags: pgherd_config::tags::meaning(&info.tags),
        paused: info.pause,
        checkpoint_pending: info.checkpoint_after_promote == Some(false),
        patroni: info.pgherd.is_none(),
    }
}

/// Patroni before 1.0: a connection string whose `application_name` is the API's address.
fn former_member(bytes: &[u8]) -> Map<String, Value> {
    let mut map = Map::new();
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if text.starts_with("postgres") {
        let (url, query) = text.split_once('?').unwrap_or((text, ""));
        map.insert("conn_url".to_owned(), url.into());
        let api = query.split('&').find_map(|part| part.strip_prefix("application_name="));
        if let Some(api) = api {
            map.insert("api_url".to_owned(), api.into());
        }
    }
    map
}

/// Host and port of `postgres://[user[:password]@]host:port/...`; the port is 5432 by default.
pub(crate) fn address(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    // Of several hosts, the first.
    let place = place.split(',').next()?;
    let (host, port) = match place.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(5432), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Names as the members spell them: Patroni compares names without regard to case.
pub(crate) fn spell_as<T>(
    voters: &mut BTreeMap<NodeName, T>,
    members: &BTreeMap<NodeName, MemberInfo>,
) {
    let named = std::mem::take(voters);
    for (voter, life) in named {
        let known = members.keys().find(|name| name.as_str().eq_ignore_ascii_case(voter.as_str()));
        voters.insert(known.cloned().unwrap_or(voter), life);
    }
}

fn node(value: &Value) -> Option<NodeName> {
    NodeName::new(value.as_str()?).ok()
}

fn lenient_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}
