//! Changing the cluster-wide settings: `PATCH` merges, `PUT` replaces (contract 2.4).

use http::StatusCode;
use pgherd_api::config::merge;
use pgherd_config::Severity;
use pgherd_core::cluster::Key;
use pgherd_store::{Compare, Op, Txn};
use serde_json::{Map, Value};

use super::{Answer, Desk, spaced, text};

/// What the store may take. Longer than one failed member, shorter than a caller's patience.
pub(super) const STORE_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Merges, unless somebody else was faster.
pub(super) async fn patch(desk: &Desk, change: &Map<String, Value>) -> Answer {
    if change.is_empty() {
        return text(StatusCode::BAD_REQUEST, "the body must be a JSON object that is not empty");
    }
    if let Some(refused) = unreadable(change) {
        return refused;
    }
    let known = desk.board.borrow().cluster.as_ref().and_then(|cluster| cluster.config().cloned());
    let Some(known) = known else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "there is no configuration yet");
    };
    let mut json = known.json;
    if !merge(&mut json, change) {
        return spaced(StatusCode::OK, &json);
    }
    write(desk, json, Some(known.modified.0)).await
}

/// Replaces.
pub(super) async fn put(desk: &Desk, json: &Map<String, Value>) -> Answer {
    if json.is_empty() {
        return text(StatusCode::BAD_REQUEST, "the body must be a JSON object that is not empty");
    }
    if let Some(refused) = unreadable(json) {
        return refused;
    }
    write(desk, json.clone(), None).await
}

/// What can't be read would silently be the default: it is refused. An unknown key is kept, as
/// Patroni keeps it.
fn unreadable(change: &Map<String, Value>) -> Option<Answer> {
    let problems = pgherd_config::check::dynamic(change);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        problems.iter().partition(|problem| problem.severity == Severity::Error);
    for warning in warnings {
        tracing::warn!("a change of the configuration: {warning}");
    }
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| text(StatusCode::BAD_REQUEST, lines.join("\n")))
}

async fn write(desk: &Desk, json: Map<String, Value>, expected: Option<u64>) -> Answer {
    let Ok(value) = serde_json::to_vec(&json) else {
        return text(StatusCode::BAD_REQUEST, "the body can't be stored");
    };
    let key = desk.keys.path(&Key::Config);
    let compare = expected.map(|at| Compare::mod_revision(key.clone(), at)).into_iter().collect();
    let txn = Txn { compare, then: vec![Op::put(key, value)], otherwise: Vec::new() };
    match desk.store.txn(txn, STORE_LIMIT).await {
        Ok(reply) if reply.succeeded => {
            tracing::info!("the configuration was changed");
            spaced(StatusCode::OK, &json)
        }
        Ok(_) => text(StatusCode::CONFLICT, "somebody else changed the configuration; try again"),
        Err(error) => text(StatusCode::BAD_GATEWAY, error.to_string()),
    }
}
