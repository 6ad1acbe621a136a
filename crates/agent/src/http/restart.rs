//! `POST /restart` and `DELETE /restart` (contract 2.4): reads the conditions, asks the event loop,
//! and answers when PostgreSQL is up again. Leaves the restart to the core.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pgherd_core::postgres::PgState;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::failover::moment;
use super::{Answer, Desk, Refusal, status, text};
use crate::board::Board;
use crate::clock;
use crate::event::Event;
use crate::restart::{Conditions, Here, Planned, Role, version};

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Asked {
    pub(super) conditions: Conditions,
    /// How long the answer may take.
    pub(super) timeout: Option<Duration>,
    /// When, in unix seconds; at once without it.
    pub(super) at: Option<i64>,
}

/// Restarts now, or notes that it is to be done later.
pub(super) async fn request(desk: &Desk, body: &Map<String, Value>) -> Answer {
    let board = desk.board.borrow().clone();
    let asked = match judge(body, board.paused(), clock::unix_millis() / 1_000) {
        Ok(asked) => asked,
        Err((code, words)) => return text(code, words),
    };
    match asked.at {
        Some(at) => schedule(desk, &board, asked, at, body).await,
        None => now(desk, &board, asked).await,
    }
}

/// Takes back what is planned.
pub(super) async fn withdraw(desk: &Desk) -> Answer {
    match plan(desk, None).await {
        Some(true) => text(StatusCode::OK, "scheduled restart deleted"),
        Some(false) => text(StatusCode::NOT_FOUND, "no restarts are scheduled"),
        None => stopping(),
    }
}

/// The checks that need no PostgreSQL, in Patroni's order and words.
pub(super) fn judge(body: &Map<String, Value>, paused: bool, now: i64) -> Result<Asked, Refusal> {
    let bad = |words: &str| (StatusCode::BAD_REQUEST, words.to_owned());
    if paused && body.contains_key("schedule") {
        let words = "Can't schedule restart in the paused state".to_owned();
        return Err((StatusCode::INTERNAL_SERVER_ERROR, words));
    }
    let mut asked = Asked::default();
    for (key, value) in body {
        match key.as_str() {
            "schedule" => {
                asked.at = Some(moment(value.as_str().unwrap_or_default(), now, "restart")?);
            }
            "role" => {
                let words = "PostgreSQL role should be either primary, standby_leader, or replica";
                asked.conditions.role = match value.as_str() {
                    Some("primary") => Some(Role::Primary),
                    Some("standby_leader") => Some(Role::StandbyLeader),
                    Some("replica") => Some(Role::Replica),
                    Some(_) | None => return Err(bad(words)),
                };
            }
            "postgres_version" => {
                let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let version = version(&given).map_err(|words| bad(&words))?;
                asked.conditions.older_than = Some(version);
            }
            "timeout" => {
                let seconds = seconds(value).filter(|seconds| *seconds > 0);
                let words = "Timeout should be a positive number of seconds";
                let seconds = seconds.ok_or_else(|| bad(words))?;
                asked.timeout = Some(Duration::from_secs(seconds));
            }
            // That it is there counts, whatever it says.
            "restart_pending" => asked.conditions.pending = true,
            other => {
                return Err(bad(&format!("Unknown filter for the scheduled restart: {other}")));
            }
        }
    }
    Ok(asked)
}

/// A number of seconds, as a number or a text, perhaps with a unit.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let span = pgherd_config::parse::span(text.trim()).ok()?;
            Some(span.0.div_ceil(1_000_000))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

async fn schedule(
    desk: &Desk,
    board: &Board,
    asked: Asked,
    at: i64,
    body: &Map<String, Value>,
) -> Answer {
    let started = board.observed.as_ref().and_then(|observed| observed.started);
    let mut shown = body.clone();
    let schedule = pgherd_api::encode::iso8601(at);
    shown.insert("schedule".to_owned(), Value::String(schedule));
    if let Some(started) = board.observed.as_deref().and_then(status::start_time) {
        shown.insert("postmaster_start_time".to_owned(), Value::String(started));
    }
    let planned = Planned { at, conditions: asked.conditions, started, shown };
    match plan(desk, Some(planned)).await {
        Some(true) => text(StatusCode::ACCEPTED, "Restart scheduled"),
        Some(false) => text(StatusCode::CONFLICT, "Another restart is already scheduled"),
        None => stopping(),
    }
}

/// The event loop keeps the plan; it says whether it took the change.
async fn plan(desk: &Desk, plan: Option<Planned>) -> Option<bool> {
    let (reply, answer) = oneshot::channel();
    desk.events.send(Event::PlanRestart { plan: plan.map(Box::new), reply }).await.ok()?;
    answer.await.ok()
}

/// What keeps a restart from beginning now.
fn hindrance(desk: &Desk, board: &Board, conditions: &Conditions) -> Option<String> {
    let name = &desk.identity.name;
    let member = board.cluster.as_ref().and_then(|cluster| cluster.members().get(name));
    let here = Here {
        observed: board.observed.as_deref(),
        leads: board.leads.is_some(),
        server_version: desk.server_version,
        pending: member.is_some_and(|member| member.pending_restart),
    };
    if !conditions.hold(here) {
        return Some("restart conditions are not satisfied".to_owned());
    }
    if board.restarting {
        return Some("restart already in progress".to_owned());
    }
    if let Some(long @ ("clone" | "rewind" | "init" | "promote" | "stop")) = board.operation {
        return Some(format!("{long} already in progress"));
    }
    let state = board.observed.as_ref().map(|observed| &observed.facts.state);
    matches!(state, Some(PgState::NotAccepting(_))).then(|| "postgres is still starting".to_owned())
}

async fn now(desk: &Desk, board: &Arc<Board>, asked: Asked) -> Answer {
    let refused = |words: &str| text(StatusCode::SERVICE_UNAVAILABLE, words);
    if let Some(words) = hindrance(desk, board, &asked.conditions) {
        return refused(&words);
    }
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    let policy = view.as_ref().and_then(|view| view.config.as_ref());
    let patience = policy
        .map_or(Duration::from_secs(300), |config| config.value.primary_start_timeout.to_std());
    let until = Instant::now() + asked.timeout.unwrap_or(patience).max(Duration::from_secs(1));
    let mut watch = desk.board.clone();
    let before = board.restarts;
    if desk.events.send(Event::Restart).await.is_err() {
        return stopping();
    }
    loop {
        let ended = watch.borrow_and_update().restarts;
        if ended.done > before.done {
            return text(StatusCode::OK, "restarted successfully");
        }
        if ended.failed > before.failed {
            return refused("restart failed");
        }
        match timeout_at(until, watch.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return stopping(),
            Err(_) => return refused("postgres is still starting"),
        }
    }
}

fn stopping() -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping")
}
