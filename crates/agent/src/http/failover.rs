//! Switchover and failover on request: pre-checks, the `failover` key, and waiting for what comes of
//! it (contract 2.4). The decision is the core's; this writes a wish and reports.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pgherd_api::rest::{DecisionBody, ExplainBody, paths};
use pgherd_api::{Cluster, encode};
use pgherd_core::cluster::{ClusterView, FailoverRequest, Key, MemberState};
use pgherd_core::{NodeName, Reason, SynchronousMode};
use pgherd_store::{Compare, Op, Txn};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::config::STORE_LIMIT;
use super::{Answer, Desk, Refusal, text};
use crate::clock;

/// How long an answer may take; Patroni's own words name it.
const WAIT: Duration = Duration::from_secs(20);
/// The key was emptied and nobody followed: after this long, nobody will.
const SETTLE: Duration = Duration::from_secs(3);

/// So many of a leader's latest decisions may be about the request.
const RECENT: usize = 4;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Relieve a leader.
    Switchover,
    /// Make somebody leader.
    Failover,
}

/// A checked request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    kind: Kind,
    request: FailoverRequest,
    scheduled_at: Option<String>,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    fn capital(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Switchover => "switched",
            Self::Failover => "failed",
        }
    }
}

/// Writes the wish and waits for the outcome.
pub(super) async fn request(desk: &Desk, kind: Kind, body: &Map<String, Value>) -> Answer {
    let cluster = desk.board.borrow().cluster.clone();
    let Some(cluster) = cluster else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the store has not answered yet");
    };
    let wish = match judge(&cluster, kind, body, clock::unix_millis() / 1_000) {
        Ok(wish) => wish,
        Err((code, words)) => return text(code, words),
    };
    let mark = desk.journal.mark();
    if let Err(error) = write(desk, &cluster, &wish).await {
        tracing::warn!(%error, "the failover key was not written");
        return text(StatusCode::SERVICE_UNAVAILABLE, "failed to write failover key into DCS");
    }
    tracing::info!(wish = ?wish.request, at = ?wish.scheduled_at, "an operator asks for a new leader");
    if wish.scheduled_at.is_some() {
        return text(StatusCode::ACCEPTED, format!("{} scheduled", wish.kind.capital()));
    }
    let before = leader(&cluster.view());
    outcome(desk, &wish, before.as_ref(), mark).await
}

/// Takes back what is asked for but not begun.
pub(super) async fn withdraw(desk: &Desk) -> Answer {
    let cluster = desk.board.borrow().cluster.clone();
    let asked = cluster
        .as_ref()
        .filter(|cluster| cluster.schedule().is_some() || cluster.view().failover.is_some());
    let Some(cluster) = asked else {
        return text(StatusCode::NOT_FOUND, "no switchover is scheduled");
    };
    let key = desk.keys.path(&Key::Failover);
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), cluster.failover_modified().0)],
        then: vec![Op::put(key, "{}")],
        otherwise: Vec::new(),
    };
    match desk.store.txn(txn, STORE_LIMIT).await {
        Ok(reply) if reply.succeeded => text(StatusCode::OK, "scheduled switchover deleted"),
        Ok(_) => text(StatusCode::CONFLICT, "it was changed meanwhile; look again"),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// The checks before anything is written, in Patroni's order and words.
pub(super) fn judge(
    cluster: &Cluster,
    kind: Kind,
    body: &Map<String, Value>,
    now: i64,
) -> Result<Wish, Refusal> {
    let field = |name: &str| body.get(name).and_then(Value::as_str).filter(|it| !it.is_empty());
    let bad = |words: &str| (StatusCode::BAD_REQUEST, words.to_owned());
    let leader = field("leader");
    let candidate = field("candidate").or_else(|| field("member"));
    let scheduled_at = field("scheduled_at");
    // A request that names the leader is a switchover, wherever it was sent.
    let kind = if leader.is_some() { Kind::Switchover } else { kind };
    let paused = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
    match kind {
        Kind::Failover if candidate.is_none() => {
            return Err(bad("Failover could be performed only to a specific candidate"));
        }
        Kind::Switchover if leader.is_none() => {
            return Err(bad("Switchover could be performed only from a specific leader"));
        }
        Kind::Failover | Kind::Switchover => {}
    }
    if scheduled_at.is_some() && kind == Kind::Failover {
        return Err(bad("Failover can't be scheduled"));
    }
    if scheduled_at.is_some() && paused {
        return Err(bad("Can't schedule switchover in the paused state"));
    }
    if paused && candidate.is_none() {
        return Err(bad("Switchover is possible only to a specific candidate in a paused state"));
    }
    if candidate.is_some() && leader == candidate {
        return Err(bad("Switchover target and source are the same"));
    }
    if let Some(at) = scheduled_at {
        moment(at, now, kind.word())?;
    }
    let name = |text: &str, words: &str| {
        NodeName::new(text).map_err(|_| (StatusCode::PRECONDITION_FAILED, words.to_owned()))
    };
    let request = FailoverRequest {
        leader: leader.map(|text| name(text, "leader name does not match")).transpose()?,
        member: candidate.map(|text| name(text, "candidate does not exists")).transpose()?,
    };
    possible(cluster, kind, &request)?;
    Ok(Wish { kind, request, scheduled_at: scheduled_at.map(str::to_owned) })
}

/// A moment that is unambiguous and not over, in unix seconds; `action` is for the refusal.
pub(super) fn moment(text: &str, now: i64, action: &str) -> Result<i64, Refusal> {
    let unprocessable = |words: String| (StatusCode::UNPROCESSABLE_ENTITY, words);
    let schedule = pgherd_api::Schedule { at: text.to_owned(), from: None, to: None };
    match schedule.unix_seconds() {
        Some(at) if at > now => Ok(at),
        Some(_) => Err(unprocessable(format!("Cannot schedule {action} in the past"))),
        None if schedule.lacks_offset() => Err((
            StatusCode::BAD_REQUEST,
            format!("Timezone information is mandatory for the scheduled {action}"),
        )),
        None => Err(unprocessable(
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"
                .to_owned(),
        )),
    }
}

fn possible(cluster: &Cluster, kind: Kind, request: &FailoverRequest) -> Result<(), Refusal> {
    let view = cluster.view();
    let failed = |words: &str| Err((StatusCode::PRECONDITION_FAILED, words.to_owned()));
    let action = kind.word();
    let leader = leader(&view);
    if request.leader.is_some() && request.leader != leader {
        return failed("leader name does not match");
    }
    let others = || view.members.iter().filter(|(name, _)| Some(*name) != leader.as_ref());
    if others().next().is_none() {
        return failed(&format!(
            "{action} is not possible: cluster does not have members except leader"
        ));
    }
    let mode = view.config.as_ref().map(|config| config.value.synchronous_mode);
    let priority = mode == Some(SynchronousMode::Priority) && kind == Kind::Switchover;
    let voter = |name: &NodeName| {
        view.sync.as_ref().is_some_and(|sync| sync.value.voters.contains_key(name))
    };
    if let Some(candidate) = &request.member {
        if !others().any(|(name, _)| name == candidate) {
            return failed("candidate does not exists");
        }
        if priority && !voter(candidate) {
            return failed("candidate name does not match with sync_standby");
        }
    } else if priority && !others().any(|(name, _)| voter(name)) {
        return failed(&format!("{action} is not possible: can not find sync_standby"));
    }
    let wanted = |name: &NodeName| request.member.as_ref().is_none_or(|member| member == name);
    let good = others().any(|(name, member)| {
        wanted(name)
            && !member.value.tags.nofailover()
            && member.value.state == MemberState::Running
            && (!priority || voter(name))
    });
    if good {
        Ok(())
    } else {
        failed(&format!("{action} is not possible: no good candidates have been found"))
    }
}

fn leader(view: &ClusterView) -> Option<NodeName> {
    view.leader.as_ref().map(|leader| leader.value.clone())
}

async fn write(desk: &Desk, cluster: &Cluster, wish: &Wish) -> Result<(), String> {
    let value = encode::failover(&wish.request, wish.scheduled_at.as_deref());
    let value = value.map_err(|error| error.to_string())?;
    let key = desk.keys.path(&Key::Failover);
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), cluster.failover_modified().0)],
        then: vec![Op::put(key, value)],
        otherwise: Vec::new(),
    };
    match desk.store.txn(txn, STORE_LIMIT).await {
        Ok(reply) if reply.succeeded => Ok(()),
        Ok(_) => Err("another request was faster".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until another node leads and serves, or until it is clear that none will.
async fn outcome(desk: &Desk, wish: &Wish, before: Option<&NodeName>, mark: u64) -> Answer {
    let until = Instant::now() + WAIT;
    let mut board = desk.board.clone();
    let mut seen = false;
    let mut emptied: Option<Instant> = None;
    loop {
        let now = board.borrow_and_update().clone();
        let view = now.cluster.as_ref().map(|cluster: &Arc<Cluster>| cluster.view());
        if let Some(view) = &view {
            let after = leader(view);
            if let Some(after) = after.as_ref().filter(|after| Some(*after) != before)
                && serves(view)
            {
                return succeeded(wish, after);
            }
            seen |= view.failover.is_some();
            let unchanged = after.is_some() && after.as_ref() == before;
            emptied = match (seen && view.failover.is_none() && unchanged, emptied) {
                (true, since) => since.or(Some(Instant::now())),
                (false, _) => None,
            };
        }
        let refused = refusal(&desk.journal.since(mark)).filter(|_| seen);
        if refused.is_some() || emptied.is_some_and(|since| since.elapsed() >= SETTLE) {
            let words = format!("{} failed", wish.kind.capital());
            return explained(desk, before, refused, words).await;
        }
        let turn = until.min(Instant::now() + Duration::from_millis(200));
        if let Ok(Err(_)) = timeout_at(turn, board.changed()).await {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
        }
        if Instant::now() >= until {
            let words = format!(
                "{} status unknown after 20 seconds; operation may still be in progress",
                wish.kind.capital()
            );
            return explained(desk, before, None, words).await;
        }
    }
}

/// Why the leader refused, if it is among these decisions.
fn refusal(decisions: &[DecisionBody]) -> Option<String> {
    decisions.iter().find_map(|decision| {
        let Reason::SwitchoverRefused(why) = &decision.reason else { return None };
        Some(why.to_string())
    })
}

/// The answer, with what the leader says about it: this node's own words, or those that another
/// leader gives when it is asked.
async fn explained(
    desk: &Desk,
    leader: Option<&NodeName>,
    known: Option<String>,
    words: String,
) -> Answer {
    let why = match (known, leader) {
        (Some(why), _) => Some(why),
        (None, Some(leader)) if *leader != desk.identity.name => ask_leader(desk, leader).await,
        (None, _) => Some(desk.board.borrow().decision.reason.to_string()),
    };
    let words = why.map_or_else(|| words.clone(), |why| format!("{words}: {why}"));
    text(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// What the leader decided last about a switchover. Patroni's leaders don't say.
async fn ask_leader(desk: &Desk, leader: &NodeName) -> Option<String> {
    let cluster = desk.board.borrow().cluster.clone()?;
    let url = cluster.members().get(leader)?.api_url.clone()?;
    let url = format!("{}{}", pgherd_api::client::origin(&url)?, paths::EXPLAIN);
    let explain: ExplainBody = desk.client.get(&url).await.ok()?;
    let decisions: Vec<_> = std::iter::once(explain.current).chain(explain.recent).collect();
    let recent = decisions.iter().take(RECENT);
    let why = recent.clone().find_map(|decision| refusal(std::slice::from_ref(decision)));
    why.or_else(|| decisions.first().map(|decision| decision.text.clone()))
}

/// A leader of ours says when it lets clients in; a Patroni leader doesn't.
fn serves(view: &ClusterView) -> bool {
    view.current_beat().is_none_or(|beat| beat.value.serving)
}

fn succeeded(wish: &Wish, after: &NodeName) -> Answer {
    let done = wish.kind.done();
    let words = match &wish.request.member {
        Some(wanted) if wanted != after => {
            let mut done = done.to_owned();
            done[..1].make_ascii_uppercase();
            format!("{done} over to \"{after}\" instead of \"{wanted}\"")
        }
        Some(_) | None => format!("Successfully {done} over to \"{after}\""),
    };
    text(StatusCode::OK, words)
}
