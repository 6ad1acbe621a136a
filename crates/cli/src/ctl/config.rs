//! Cluster-wide settings: show-config, pause, resume, and how a change is written.
//! A change compares the revision that was read, so that nobody's change is overwritten.

use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::Cluster;
use pgherd_api::config::merge;
use pgherd_api::rest::{PatroniStatus, paths};
use pgherd_core::cluster::Key;
use pgherd_store::{Compare, Op, Txn};
use serde_json::{Map, Value};

use super::watch::{LOOK_EVERY, Watch};
use super::{Ctl, Source, failed, paused, url_of};
use crate::output::Outcome;
use crate::yaml_text;

const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Beyond a member's own interval: how long it may take to notice a pause.
const NOTICE: Duration = Duration::from_secs(15);

pub(super) async fn show(mut ctl: Ctl) -> Outcome {
    let cluster = ctl.read().await?;
    let config = cluster.config().map(|config| config.json.clone()).unwrap_or_default();
    // patronictl leaves an empty line behind it, and so do we: scripts compare.
    Ok(ctl.printer.line(yaml_text::block(&Value::Object(config)))?)
}

/// A change of the settings.
pub(super) struct Change<'a> {
    /// The settings as they are to be.
    pub(super) new: &'a Map<String, Value>,
    /// What differs, as `PATCH /config` takes it.
    pub(super) patch: &'a Map<String, Value>,
    /// The revision that was read.
    pub(super) modified: u64,
}

/// Writes the settings, unless they were changed since they were read.
pub(super) async fn write(ctl: &Ctl, change: &Change<'_>) -> Outcome<bool> {
    let client = match &ctl.source {
        Source::Store { client, .. } => client,
        Source::Agent(origin) => return patch(ctl, origin, change.patch).await,
    };
    let key = ctl.keys.path(&Key::Config);
    let value = serde_json::to_vec(change.new).map_err(anyhow::Error::from)?;
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), change.modified)],
        then: vec![Op::put(key, value)],
        otherwise: Vec::new(),
    };
    let reply = client.txn(txn, WRITE_LIMIT).await.map_err(anyhow::Error::from)?;
    Ok(reply.succeeded)
}

/// The agent compares for us, and only what differs is told.
async fn patch(ctl: &Ctl, origin: &str, patch: &Map<String, Value>) -> Outcome<bool> {
    let url = format!("{origin}{}", paths::CONFIG);
    let body = Value::Object(patch.clone());
    let response = ctl.rest.request(Method::PATCH, &url, Some(&body)).await;
    let response = response.map_err(anyhow::Error::from)?;
    match response.status {
        StatusCode::OK => Ok(true),
        StatusCode::CONFLICT => Ok(false),
        code => {
            let words = response.text();
            Err(failed(format!("the agent at {origin} answered {}: {words}", code.as_u16())))
        }
    }
}

pub(super) async fn pause(mut ctl: Ctl, pause: bool, wait: bool) -> Outcome {
    let value = if pause { Value::Bool(true) } else { Value::Null };
    let patch = Map::from_iter([("pause".to_owned(), value)]);
    let cluster = loop {
        let cluster = ctl.read().await?;
        if paused(&cluster) == pause {
            let not = if pause { "already" } else { "not" };
            return Err(failed(format!("Cluster is {not} paused")));
        }
        let config = cluster.config();
        let (mut new, modified) =
            config.map(|config| (config.json.clone(), config.modified.0)).unwrap_or_default();
        merge(&mut new, &patch);
        // Somebody else's change in between: read again.
        if write(&ctl, &Change { new: &new, patch: &patch, modified }).await? {
            break cluster;
        }
    };
    if wait {
        let what = if pause { "pause" } else { "resume" };
        let words = format!("'{what}' request sent, waiting until it is recognized by all nodes");
        ctl.printer.line(words)?;
        noticed(&mut ctl, &cluster, pause).await?;
    }
    let word = if pause { "paused" } else { "resumed" };
    Ok(ctl.printer.line(format_args!("Success: cluster management is {word}"))?)
}

async fn noticed(ctl: &mut Ctl, before: &Cluster, pause: bool) -> Outcome {
    let loop_wait = before.config().and_then(|config| config.json.get("loop_wait")?.as_u64());
    let limit = NOTICE + Duration::from_secs(loop_wait.unwrap_or(10));
    let mut watch = Watch::new(before);
    loop {
        let cluster = watch.look(ctl).await?;
        let late = match &cluster {
            Some(cluster) => late(ctl, cluster, pause).await,
            None => vec!["the store".to_owned()],
        };
        if late.is_empty() {
            return Ok(());
        }
        if watch.elapsed() > limit {
            let seconds = limit.as_secs();
            let late = late.join(", ");
            return Err(failed(format!("{late} did not notice within {seconds} s")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who hasn't seen it yet: by what members publish, or where the store can't be read, by their word.
async fn late(ctl: &Ctl, cluster: &Cluster, pause: bool) -> Vec<String> {
    let mut late = Vec::new();
    for member in cluster.members().values().filter(|m| m.api_url.is_some()) {
        let seen = match (&ctl.source, url_of(member, paths::PATRONI)) {
            (Source::Store { .. }, _) => member.pause,
            (Source::Agent(_), Ok(url)) => {
                let status = ctl.rest.get::<PatroniStatus>(&url).await;
                status.map_or(!pause, |status| status.pause)
            }
            (Source::Agent(_), Err(_)) => !pause,
        };
        if seen != pause {
            late.push(member.name.to_string());
        }
    }
    late
}

/// What turns `old` into `new`, as a merge: what is gone is null.
pub(super) fn difference(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match (old.get(key), value) {
            (Some(same), value) if same == value => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(key.clone(), Value::Object(difference(old, new)));
            }
            (_, value) => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_merged_is_the_new() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let old =
            object(json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}}, "x": 1}));
        let new = object(json!({"ttl": 30, "postgresql": {"parameters": {"b": 3}}, "y": {"z": 1}}));
        let patch = difference(&old, &new);
        assert!(!patch.contains_key("ttl"));
        let mut merged = old;
        merge(&mut merged, &patch);
        assert_eq!(merged, new);
    }
}
