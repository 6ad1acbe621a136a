//! The `config` key: Patroni's names for the cluster-wide settings (contract 3.4).
//! Reads leniently, with the defaults that Patroni gives a cluster that it made.

use pgherd_core::{Duration, Policy, SynchronousMode};
use serde_json::{Map, Value, json};

use crate::origin::Origin;
use crate::parse;
use crate::yaml::Node;

/// The settings of a cluster that says nothing: Patroni's defaults, not ours.
#[must_use]
pub fn patroni_defaults() -> Policy {
    Policy {
        ttl: Duration::secs(30),
        maximum_lag_on_failover: 1 << 20,
        maximum_lag_on_syncnode: None,
        check_timeline: false,
        synchronous_mode: SynchronousMode::Off,
        synchronous_mode_strict: false,
        synchronous_node_count: 1,
        primary_start_timeout: Duration::secs(300),
        primary_stop_timeout: None,
        failsafe_mode: false,
        disk_timeout: Policy::DISK_TIMEOUT,
        disk_min_free: Policy::DISK_MIN_FREE,
        pause: false,
        standby: false,
    }
}

/// A new cluster's `config`. `loop_wait` and `retry_timeout` are for Patroni's agents and tools:
/// the greatest that keep its rule `loop_wait + 2 * retry_timeout <= ttl`.
#[must_use]
pub fn to_json(policy: &Policy) -> Map<String, Value> {
    let ttl_secs = policy.ttl.0 / 1_000_000;
    let loop_wait = (ttl_secs / 5).max(1);
    let retry_timeout = (ttl_secs.saturating_sub(loop_wait) / 2).max(1);
    let mut config = Map::new();
    let mut put = |name: &str, value| config.insert(name.to_owned(), value);
    put("ttl", seconds(policy.ttl));
    put("loop_wait", json!(loop_wait));
    put("retry_timeout", json!(retry_timeout));
    put("maximum_lag_on_failover", json!(policy.maximum_lag_on_failover));
    put(
        "synchronous_mode",
        match policy.synchronous_mode {
            SynchronousMode::Off => json!(false),
            SynchronousMode::Priority => json!(true),
            SynchronousMode::Quorum => json!("quorum"),
        },
    );
    put("synchronous_mode_strict", json!(policy.synchronous_mode_strict));
    put("synchronous_node_count", json!(policy.synchronous_node_count));
    put("primary_start_timeout", seconds(policy.primary_start_timeout));
    put("failsafe_mode", json!(policy.failsafe_mode));
    if let Some(limit) = policy.maximum_lag_on_syncnode {
        put("maximum_lag_on_syncnode", json!(limit));
    }
    if policy.check_timeline {
        put("check_timeline", json!(true));
    }
    if let Some(span) = policy.primary_stop_timeout {
        put("primary_stop_timeout", seconds(span));
    }
    if policy.disk_timeout != Policy::DISK_TIMEOUT {
        put("disk_timeout", seconds(policy.disk_timeout));
    }
    if policy.disk_min_free != Policy::DISK_MIN_FREE {
        put("disk_min_free", json!(policy.disk_min_free));
    }
    if policy.pause {
        put("pause", json!(true));
    }
    config
}

/// The settings that a `config` value asks for. What can't be read has Patroni's default.
#[must_use]
pub fn from_json(config: &Map<String, Value>) -> Policy {
    let defaults = patroni_defaults();
    let span = |name: &str, default| config.get(name).and_then(duration).unwrap_or(default);
    let flag = |name: &str| config.get(name).and_then(boolean).unwrap_or(false);
    let start_timeout = config.get("primary_start_timeout").and_then(duration);
    let legacy_timeout = || config.get("master_start_timeout").and_then(duration);
    let stop_timeout = config.get("primary_stop_timeout").and_then(duration);
    let legacy_stop = || config.get("master_stop_timeout").and_then(duration);
    Policy {
        ttl: span("ttl", defaults.ttl).max(Duration::secs(1)),
        maximum_lag_on_failover: config
            .get("maximum_lag_on_failover")
            .and_then(bytes)
            .unwrap_or(defaults.maximum_lag_on_failover),
        maximum_lag_on_syncnode: config
            .get("maximum_lag_on_syncnode")
            .and_then(bytes)
            .filter(|limit| *limit > 0),
        check_timeline: flag("check_timeline"),
        synchronous_mode: config.get("synchronous_mode").map_or(SynchronousMode::Off, mode),
        synchronous_mode_strict: flag("synchronous_mode_strict"),
        synchronous_node_count: config
            .get("synchronous_node_count")
            .and_then(scalar)
            .and_then(|text| parse::count(&text).ok())
            .unwrap_or(defaults.synchronous_node_count)
            .max(1),
        primary_start_timeout: start_timeout
            .or_else(legacy_timeout)
            .unwrap_or(defaults.primary_start_timeout),
        primary_stop_timeout: stop_timeout
            .or_else(legacy_stop)
            .filter(|span| *span > Duration::ZERO),
        failsafe_mode: flag("failsafe_mode"),
        disk_timeout: span("disk_timeout", defaults.disk_timeout),
        disk_min_free: config
            .get("disk_min_free")
            .and_then(bytes)
            .unwrap_or(defaults.disk_min_free),
        pause: flag("pause"),
        standby: crate::standby_cluster(config).is_some(),
    }
}

/// The three times that Patroni's agents share, after its rule (contract 3.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long a silent leader keeps its lease.
    pub ttl: Duration,
    /// How often Patroni's agents look.
    pub loop_wait: Duration,
    /// How long they try again.
    pub retry_timeout: Duration,
    /// What was made smaller, and why.
    pub adjusted: Vec<(&'static str, String)>,
}

/// The times that hold. Where `loop_wait + 2 * retry_timeout` is more than `ttl`, first `loop_wait`
/// gives way, then `retry_timeout`; the store keeps what it has.
#[must_use]
pub fn timing(config: &Map<String, Value>) -> Timing {
    const SECOND: u64 = 1_000_000;
    let get = |name: &str, default| {
        let span = config.get(name).and_then(duration).unwrap_or(Duration::secs(default));
        span.max(Duration::secs(1))
    };
    let (ttl, wait, retry) = (get("ttl", 30), get("loop_wait", 10), get("retry_timeout", 10));
    let mut timing = Timing { ttl, loop_wait: wait, retry_timeout: retry, adjusted: Vec::new() };
    if wait.0 + 2 * retry.0 <= ttl.0 {
        return timing;
    }
    if SECOND + 2 * retry.0 > ttl.0 {
        timing.loop_wait = Duration(SECOND);
        // Patroni counts in whole seconds.
        let most = (ttl.0 / SECOND).saturating_sub(1) / 2;
        timing.retry_timeout = Duration::secs(most.max(1));
    } else {
        timing.loop_wait = Duration(ttl.0 - 2 * retry.0);
    }
    let held =
        [("loop_wait", wait, timing.loop_wait), ("retry_timeout", retry, timing.retry_timeout)];
    for (name, asked, held) in held.into_iter().filter(|(_, asked, held)| asked != held) {
        let words = format!(
            "{} s instead of {} s holds, because loop_wait + 2 * retry_timeout must not be more \
             than ttl ({} s)",
            seconds(held),
            seconds(asked),
            seconds(ttl)
        );
        timing.adjusted.push((name, words));
    }
    timing
}

/// Merges a change as `PATCH /config` means it: objects recursively, `null` removes, everything
/// else replaces. True when something changed.
pub fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (name, value) in patch {
        changed |= match (value, target.get_mut(name)) {
            (Value::Null, _) => target.shift_remove(name).is_some(),
            (Value::Object(inner), Some(Value::Object(old))) => merge(old, inner),
            (_, Some(old)) if same(old, value) => false,
            (_, Some(old)) => {
                *old = value.clone();
                true
            }
            (_, None) => {
                target.insert(name.clone(), without_nulls(value));
                true
            }
        };
    }
    changed
}

/// Patroni compares scalars as texts: `on` as a text and as a value are the same setting.
pub(crate) fn same(old: &Value, new: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let either = old.is_boolean() || new.is_boolean();
    old == new
        || (text(old).is_some() && text(old) == text(new))
        || (either && boolean(old).is_some() && boolean(old) == boolean(new))
}

fn without_nulls(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let kept = map.iter().filter(|(_, value)| !value.is_null());
    Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
}

/// Whole seconds as an integer, others as a decimal number.
fn seconds(span: Duration) -> Value {
    if span.0.is_multiple_of(1_000_000) {
        json!(span.0 / 1_000_000)
    } else {
        json!(std::time::Duration::from_micros(span.0).as_secs_f64())
    }
}

fn mode(value: &Value) -> SynchronousMode {
    if value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("quorum")) {
        return SynchronousMode::Quorum;
    }
    match boolean(value) {
        Some(true) => SynchronousMode::Priority,
        Some(false) | None => SynchronousMode::Off,
    }
}

/// A boolean in any of the ways that Patroni takes one.
#[must_use]
pub fn boolean(value: &Value) -> Option<bool> {
    scalar(value).and_then(|text| parse::boolean(&text).ok())
}

/// A number with PostgreSQL's unit for sizes; bytes without one.
#[must_use]
pub fn bytes(value: &Value) -> Option<u64> {
    scalar(value).and_then(|text| parse::bytes(&text).ok())
}

/// A number with PostgreSQL's unit for times; seconds without one.
#[must_use]
pub fn duration(value: &Value) -> Option<Duration> {
    scalar(value).and_then(|text| parse::span(&text).ok())
}

fn scalar(value: &Value) -> Option<String> {
    Node::from_json(value, &Origin::Dynamic).scalar()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patronis_rule_of_times() {
        // ttl, loop_wait, retry_timeout; what holds
        let cases = [
            ((30, 10, 10), (10, 10)),
            ((30, 11, 10), (10, 10)),
            ((20, 10, 10), (1, 9)),
            ((20, 10, 9), (2, 9)),
            ((20, 5, 5), (5, 5)),
            ((5, 1, 2), (1, 2)),
        ];
        for ((ttl, wait, retry), expected) in cases {
            let Value::Object(config) =
                json!({"ttl": ttl, "loop_wait": wait, "retry_timeout": retry})
            else {
                panic!("no object")
            };
            let held = timing(&config);
            let expected = (Duration::secs(expected.0), Duration::secs(expected.1));
            assert_eq!((held.loop_wait, held.retry_timeout), expected, "{ttl} {wait} {retry}");
        }
        assert_eq!(timing(&Map::new()).ttl, Duration::secs(30));
    }
}
