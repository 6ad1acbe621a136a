//! A member's tags (contract 3.9): which are published, and what they mean to decisions. A switch
//! wins over the priority that it contradicts; `check` says so.

use pgherd_core::{NodeName, Tags};
use serde_json::{Map, Value};

use crate::dynamic::boolean;
use crate::parse;

/// The switches that are left out while they are off, and the priority beside which they are not.
const SWITCHES: [(&str, Option<&str>); 5] = [
    ("clonefrom", None),
    ("nofailover", Some("failover_priority")),
    ("noloadbalance", None),
    ("nosync", Some("sync_priority")),
    ("nostream", None),
];

/// The tags as the member key and the REST API show them.
#[must_use]
pub fn published(tags: &Map<String, Value>) -> Map<String, Value> {
    let mut shown = tags.clone();
    for (switch, priority) in SWITCHES {
        let off = tags.get(switch).is_some_and(|value| boolean(value) != Some(true));
        if off && !priority.is_some_and(|priority| tags.contains_key(priority)) {
            shown.shift_remove(switch);
        }
    }
    shown
}

/// What decisions read of them. What can't be read counts as not there.
#[must_use]
pub fn meaning(tags: &Map<String, Value>) -> Tags {
    let switch = |name: &str| tags.get(name).and_then(boolean);
    let priority = |name: &str, barred: &str| {
        let said = tags.get(name).and_then(whole).unwrap_or(1);
        let said = u32::try_from(said.max(0)).unwrap_or(u32::MAX);
        match switch(barred) {
            Some(true) => 0,
            Some(false) => said.max(1),
            None => said,
        }
    };
    let upstream = tags.get("replicatefrom").and_then(Value::as_str);
    Tags {
        failover_priority: priority("failover_priority", "nofailover"),
        sync_priority: priority("sync_priority", "nosync"),
        clonefrom: switch("clonefrom") == Some(true),
        replicatefrom: upstream.and_then(|name| NodeName::new(name).ok()),
        nostream: switch("nostream") == Some(true),
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => parse::integer(text).ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn switches_win_over_priorities() {
        // tags; failover_priority, sync_priority
        let cases = [
            (json!({}), (1, 1)),
            (json!({"nofailover": true}), (0, 1)),
            (json!({"nofailover": "yes", "failover_priority": 3}), (0, 1)),
            (json!({"nofailover": false, "failover_priority": 0}), (1, 1)),
            (json!({"failover_priority": "5", "sync_priority": -1}), (5, 0)),
            (json!({"nosync": "on", "sync_priority": 2}), (1, 0)),
            (json!({"failover_priority": "many"}), (1, 1)),
        ];
        for (tags, expected) in cases {
            let read = meaning(&map(tags.clone()));
            assert_eq!((read.failover_priority, read.sync_priority), expected, "{tags}");
        }
    }

    #[test]
    fn what_is_off_is_not_published() {
        let tags = json!({
            "rack": "a1", "noloadbalance": false, "clonefrom": true, "nosync": "off",
            "nofailover": false, "failover_priority": 2,
        });
        let shown = json!({
            "rack": "a1", "clonefrom": true, "nofailover": false, "failover_priority": 2,
        });
        assert_eq!(Value::Object(published(&map(tags))), shown);
    }
}
