//! `POST /failsafe` (contract 2.4): a Patroni leader that lost the store asks whether it may stay.
//! Answered "Accepted" only after this node has promised, on disk, to stay out of other terms.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use pgherd_core::NodeName;
use pgherd_core::postgres::{PgRole, PgState};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{Answer, Desk, text};
use crate::event::Event;

/// Patroni waits 2 s (contract 4.8).
const LIMIT: Duration = Duration::from_millis(1_500);

pub(super) async fn request(desk: &Desk, body: &Map<String, Value>) -> Answer {
    let board = desk.board.borrow().clone();
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    let config = view.as_ref().and_then(|view| view.config.as_ref());
    if !config.is_some_and(|config| config.value.failsafe_mode) {
        return text(StatusCode::BAD_GATEWAY, "Failsafe mode is disabled");
    }
    let name = body.get("name").and_then(Value::as_str);
    let Some(from) = name.and_then(|name| NodeName::new(name).ok()) else {
        return text(StatusCode::BAD_REQUEST, "the body names no leader: {\"name\": ...}");
    };
    let running = board.observed.as_ref().map(|observed| &observed.facts.state);
    let position = match running {
        Some(PgState::Running(running)) => match &running.role {
            PgRole::Primary(_) => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "Running as a leader");
            }
            PgRole::Replica(replica) => Some(replica.received),
        },
        _ => None,
    };
    let (reply, answer) = oneshot::channel();
    let refused = "this node holds another's term, or knows a newer one";
    if desk.events.send(Event::HoldFor { leader: from, reply }).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    }
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(Ok(())) => {
            let mut accepted = text(StatusCode::OK, "Accepted");
            if let Some(lsn) = position {
                accepted.headers_mut().insert("lsn", HeaderValue::from(lsn.0));
            }
            accepted
        }
        Ok(Err(_)) | Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, refused),
    }
}
