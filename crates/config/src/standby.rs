//! `standby_cluster` of the dynamic configuration: the other cluster that this one follows (contract 3.4, 4.14).
//! Leaves connecting there to `pgherd-postgres`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Where the other cluster is, and what the leader of this one needs to follow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyCluster {
    /// Its host, several with commas between them. `None`: only its archive is.
    pub host: Option<String>,
    /// Its port, the same for all hosts; 5432.
    pub port: u16,
    /// `primary_slot_name`: a slot there.
    pub slot: Option<String>,
    /// `create_replica_methods`: how the leader gets its first data; empty: pg_basebackup.
    pub methods: Vec<String>,
    /// Recovery settings of the leader alone.
    pub recovery: BTreeMap<String, String>,
}

/// PostgreSQL's port.
const POSTGRES: u16 = 5432;
/// Recovery settings in the section.
const RECOVERY: [&str; 3] =
    ["restore_command", "archive_cleanup_command", "recovery_min_apply_delay"];

/// The cluster that this one follows; `None` without a host, a port and a restore command: then the
/// section means nothing (contract 3.4).
#[must_use]
pub fn standby_cluster(config: &Map<String, Value>) -> Option<StandbyCluster> {
    let section = config.get("standby_cluster")?.as_object()?;
    let text = |name: &str| match section.get(name)? {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let (host, port) = (text("host"), text("port"));
    let recovery: BTreeMap<String, String> =
        RECOVERY.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?))).collect();
    if host.is_none() && port.is_none() && !recovery.contains_key("restore_command") {
        return None;
    }
    let methods = section.get("create_replica_methods").and_then(Value::as_array);
    let methods = methods.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Some(StandbyCluster {
        // A port alone means this machine.
        host: host.or_else(|| port.is_some().then(|| "localhost".to_owned())),
        port: port.and_then(|port| port.parse().ok()).unwrap_or(POSTGRES),
        slot: text("primary_slot_name"),
        methods: methods.collect(),
        recovery,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use serde_json::json;

    use super::*;

    fn read(section: &Value) -> Option<StandbyCluster> {
        standby_cluster(json!({ "standby_cluster": section }).as_object().unwrap())
    }

    #[test]
    fn a_host_a_port_or_a_restore_command_makes_one() {
        assert_eq!(read(&json!({})), None);
        assert_eq!(read(&json!({"primary_slot_name": "s"})), None);
        assert_eq!(read(&Value::Null), None);
        let found = read(&json!({"host": "a,b", "port": 5433, "primary_slot_name": "s"})).unwrap();
        assert_eq!((found.host.as_deref(), found.port), (Some("a,b"), 5433));
        assert_eq!(found.slot.as_deref(), Some("s"));
        let archive = read(&json!({"restore_command": "cp /a/%f %p"})).unwrap();
        assert_eq!(archive.host, None);
        assert_eq!(archive.recovery["restore_command"], "cp /a/%f %p");
        assert_eq!(read(&json!({"port": "5434"})).unwrap().host.as_deref(), Some("localhost"));
    }
}
