//! The cluster as an agent tells it, for when the store can't be reached: the bodies of its REST
//! API written as the keys that they were made from, so that every command reads one kind of
//! cluster. Leaves calls that change something to the commands.

use std::time::Duration;

use http::Method;
use pgherd_api::rest::{ClusterBody, ClusterMember, Lag, PatroniStatus, paths};
use pgherd_api::{Client, Cluster, Keys, Record};
use pgherd_core::Lsn;
use serde_json::{Map, Value, json};

use crate::output::{Failure, Outcome};

/// The keys of the cluster that the agent is in. One of another name is refused.
pub(super) async fn keys(rest: &Client, origin: &str, asked: Option<&str>) -> Outcome<Keys> {
    let url = format!("{origin}{}", paths::PATRONI);
    let status: PatroniStatus = rest.get(&url).await.map_err(anyhow::Error::from)?;
    let scope = status.patroni.scope;
    if let Some(asked) = asked.filter(|asked| *asked != scope) {
        let words = format!("the agent at {origin} is in the cluster '{scope}', not in '{asked}'");
        return Err(Failure::refused("--agent", words));
    }
    Ok(Keys::new("service", &scope))
}

/// What an agent told.
pub(super) struct Told {
    pub(super) cluster: Cluster,
    /// How old it is, when the agent itself hasn't heard the store for long.
    pub(super) age: Option<Duration>,
}

/// The cluster as the agent knows it.
pub(super) async fn read(rest: &Client, origin: &str, keys: &Keys) -> anyhow::Result<Told> {
    let body: ClusterBody = rest.get(&format!("{origin}{}", paths::CLUSTER)).await?;
    let status: PatroniStatus = rest.get(&format!("{origin}{}", paths::PATRONI)).await?;
    let mut records = records(&body);
    if let Some(id) = status.database_system_identifier {
        records.push(("initialize".to_owned(), id));
    }
    // A cluster without settings answers with an error, and has none.
    for (path, key) in [(paths::CONFIG, "config"), (paths::HISTORY, "history")] {
        let answer = rest.request(Method::GET, &format!("{origin}{path}"), None).await?;
        if answer.status.is_success() {
            records.push((key.to_owned(), answer.text()));
        }
    }
    let record = |(key, value): (String, String)| Record {
        key: format!("{}{key}", keys.prefix()).into_bytes(),
        value: value.into_bytes(),
        created: 1,
        modified: 1,
        lease: 0,
    };
    let cluster = Cluster::read(keys.clone(), 1, records.into_iter().map(record));
    Ok(Told { cluster, age: body.store_age_ms.map(Duration::from_millis) })
}

fn records(body: &ClusterBody) -> Vec<(String, String)> {
    let mut records = Vec::new();
    let leader = body.members.iter().find(|m| m.role.ends_with("leader")).map(|m| &m.name);
    if let Some(leader) = leader {
        records.push(("leader".to_owned(), leader.clone()));
    }
    let voters: Vec<&str> =
        body.members.iter().filter(|m| m.role.ends_with("_standby")).map(|m| &*m.name).collect();
    if !voters.is_empty() {
        let sync = json!({"leader": leader, "quorum": 0, "sync_standby": voters.join(",")});
        records.push(("sync".to_owned(), sync.to_string()));
    }
    if let Some(optime) = body.members.iter().filter_map(end).max() {
        records.push(("status".to_owned(), json!({ "optime": optime }).to_string()));
    }
    if let Some(planned) = &body.scheduled_switchover {
        let failover =
            json!({"leader": planned.from, "member": planned.to, "scheduled_at": planned.at});
        records.push(("failover".to_owned(), failover.to_string()));
    }
    let member = |m: &ClusterMember| (format!("members/{}", m.name), member(m).to_string());
    records.extend(body.members.iter().map(member));
    records
}

/// Where the leader is, by what a replica knows of itself and of its distance.
fn end(member: &ClusterMember) -> Option<u64> {
    let positions = member.positions.as_ref()?;
    let Lag::Bytes(lag) = positions.lag else { return None };
    Some(lsn(&positions.lsn)?.0 + lag)
}

fn lsn(text: &str) -> Option<Lsn> {
    text.parse().ok()
}

fn member(member: &ClusterMember) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    if let (Some(host), Some(port)) = (&member.host, member.port) {
        put("conn_url", Some(Value::from(format!("postgres://{host}:{port}/postgres"))));
    }
    put("api_url", member.api_url.clone().map(Value::from));
    let replicating = matches!(member.state.as_str(), "streaming" | "in archive recovery");
    let state = if replicating { "running" } else { &member.state };
    put("state", Some(Value::from(state)));
    put("replication_state", replicating.then(|| Value::from(member.state.as_str())));
    let role = match member.role.as_str() {
        "leader" => "primary",
        "standby_leader" => "standby_leader",
        _ => "replica",
    };
    put("role", Some(Value::from(role)));
    put("timeline", member.timeline.map(|timeline| Value::from(timeline.0)));
    put("tags", (!member.tags.is_empty()).then(|| Value::Object(member.tags.clone())));
    put("pending_restart", member.pending_restart.then_some(Value::Bool(true)));
    put("pending_restart_reason", member.pending_restart_reason.clone());
    put("scheduled_restart", member.scheduled_restart.clone());
    if let Some(positions) = &member.positions {
        put("xlog_location", lsn(&positions.lsn).map(|lsn| Value::from(lsn.0)));
        put("receive_lsn", lsn(&positions.receive_lsn).map(|lsn| Value::from(lsn.0)));
        put("replay_lsn", lsn(&positions.replay_lsn).map(|lsn| Value::from(lsn.0)));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_of_a_cluster_makes_the_same_cluster() {
        let keys = Keys::new("service", "demo");
        let of = |records: Vec<(String, String)>| {
            let record = |(key, value): (String, String)| Record {
                key: format!("/service/demo/{key}").into_bytes(),
                value: value.into_bytes(),
                created: 1,
                modified: 1,
                lease: 0,
            };
            Cluster::read(keys.clone(), 1, records.into_iter().map(record))
        };
        let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let original = of(vec![
            text("leader", "n1"),
            text("status", r#"{"optime":85032048}"#),
            text("sync", r#"{"leader":"n1","quorum":1,"sync_standby":"n2"}"#),
            text("failover", r#"{"leader":"n1","scheduled_at":"2030-01-01T00:00:00+00:00"}"#),
            text(
                "members/n1",
                r#"{"conn_url":"postgres://h1:5432/postgres","api_url":"http://h1:8008/patroni","state":"running","role":"primary","timeline":7}"#,
            ),
            text(
                "members/n2",
                r#"{"conn_url":"postgres://h2:5432/postgres","api_url":"http://h2:8008/patroni","state":"running","role":"replica","tags":{"a":1},"xlog_location":85031000,"replay_lsn":85030000,"receive_lsn":85031000,"replication_state":"streaming","timeline":7}"#,
            ),
        ]);
        let before = ClusterBody::new(&original);
        assert_eq!(ClusterBody::new(&of(records(&before))), before);
    }
}
