//! The read endpoints' bodies, from the board alone (contract 2.3, 2.6, 2.7).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pgherd_api::rest::{
    ClusterBody, ExplainBody, Identity, LostBody, PatroniStatus, PeerBody, PostgresBody,
    ReplicationRow, TermBody, WaitingBody, Xlog,
};
use pgherd_api::{COMPATIBLE_VERSION, words};
use pgherd_core::cluster::MemberState;
use pgherd_core::peer::PeerPg;
use pgherd_core::postgres::{
    ControlFacts, ControlState, PgRole, PgState, PrimaryFacts, ReplicaFacts, RunningFacts,
};
use pgherd_core::{NodeName, SynchronousMode};

use super::{Answer, Desk, spaced, text};
use crate::board::{Board, PeerSeen};
use crate::clock;
use crate::postgres::Observation;

/// Three looks; who asks holds a client's cancel request meanwhile.
const LOOK_LIMIT: Duration = Duration::from_millis(300);

/// Which kind of standby `sync` makes of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standby {
    None,
    Sync,
    Quorum,
}

pub(super) fn standby(board: &Board, node: &NodeName) -> Standby {
    let Some(cluster) = &board.cluster else { return Standby::None };
    let view = cluster.view();
    let named = view.sync.as_ref().is_some_and(|sync| sync.value.voters.contains_key(node));
    match view.config.as_ref().map(|config| config.value.synchronous_mode) {
        Some(SynchronousMode::Priority) if named => Standby::Sync,
        Some(SynchronousMode::Quorum) if named => Standby::Quorum,
        Some(SynchronousMode::Off | SynchronousMode::Priority | SynchronousMode::Quorum) | None => {
            Standby::None
        }
    }
}

/// The word for PostgreSQL's state.
pub(super) fn state_word(board: &Board, state: Option<&PgState>) -> &'static str {
    if board.restarting {
        return "restarting";
    }
    words::state(member_state(state, board.operation))
}

/// The cluster follows another one (contract 3.4, `standby_cluster`).
pub(super) fn standby_cluster(cluster: &pgherd_api::Cluster) -> bool {
    cluster.config().is_some_and(|config| pgherd_config::standby_cluster(&config.json).is_some())
}

/// `GET /patroni`, and every health check's body.
pub(super) fn status(desk: &Desk) -> PatroniStatus {
    let board = desk.board.borrow().clone();
    let observed = board.observed.as_ref();
    // The role may be what was seen last; that it runs may not.
    let seen = observed.map(|observed| &observed.facts.state);
    let state = board.state(clock::now());
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    let member = board.cluster.as_ref().and_then(|it| it.members().get(&desk.identity.name));
    let led = board.cluster.as_ref().is_some_and(|cluster| standby_cluster(cluster));
    let standby_leader = led && board.leads.is_some();
    let mut status = PatroniStatus {
        state: state_word(&board, state).to_owned(),
        role: if standby_leader { "standby_leader" } else { role(seen) }.to_owned(),
        pending_restart: member.is_some_and(|member| member.pending_restart),
        pending_restart_reason: member.and_then(|member| member.pending_restart_reason.clone()),
        scheduled_restart: board.planned.as_ref().map(|planned| planned.for_status()),
        postmaster_start_time: observed
            .filter(|_| matches!(state, Some(PgState::Running(_))))
            .and_then(|observed| start_time(observed)),
        failsafe_mode_is_active: board.failsafe,
        cluster_unlocked: view.as_ref().is_some_and(|view| view.leader.is_none()),
        pause: board.paused(),
        dcs_last_seen: board.store.map_or(0, |seen| seen.unix_seconds),
        tags: desk.tags.clone(),
        patroni: Identity {
            version: COMPATIBLE_VERSION.to_owned(),
            scope: desk.identity.scope.clone(),
            name: desk.identity.name.to_string(),
        },
        ailment: board.ailment,
        term: view.as_ref().and_then(|view| view.current_term()),
        ..PatroniStatus::default()
    };
    let id = match state {
        Some(PgState::Running(running)) => {
            describe_running(&mut status, running, desk, &board);
            Some(running.system_id)
        }
        Some(PgState::Stopped(control) | PgState::NotAccepting(control)) => Some(control.system_id),
        Some(PgState::Absent | PgState::Broken(_) | PgState::Unresponsive { .. }) | None => None,
    };
    status.database_system_identifier = id.map(|id| id.to_string());
    status
}

fn describe_running(
    status: &mut PatroniStatus,
    running: &RunningFacts,
    desk: &Desk,
    board: &Board,
) {
    let observed = board.observed.as_ref();
    status.server_version = Some(desk.server_version);
    status.timeline = Some(running.timeline);
    match &running.role {
        PgRole::Primary(primary) => {
            status.xlog = Some(Xlog { location: Some(primary.flushed), ..Xlog::default() });
            status.replication = observed.map(|it| replication(it)).unwrap_or_default();
        }
        PgRole::Replica(replica) => {
            status.xlog = Some(Xlog {
                received_location: Some(replica.received),
                replayed_location: Some(replica.replayed),
                replayed_timestamp: observed.and_then(|it| it.shown.replayed).map(moment),
                paused: Some(observed.is_some_and(|it| it.shown.replay_paused)),
                ..Xlog::default()
            });
            status.replication_state = replication_state(board, replica).map(str::to_owned);
            let standby = standby(board, &desk.identity.name);
            status.sync_standby = standby == Standby::Sync;
            status.quorum_standby = standby == Standby::Quorum;
        }
    }
}

/// A replica that doesn't stream and has a `restore_command` reads the archive.
pub(super) fn replication_state(board: &Board, replica: &ReplicaFacts) -> Option<&'static str> {
    let restores = board.observed.as_ref().is_some_and(|observed| observed.shown.restores);
    match (replica.streaming, restores) {
        (true, _) => Some("streaming"),
        (false, true) => Some("in archive recovery"),
        (false, false) => None,
    }
}

/// The WAL senders as PostgreSQL shows them; what can't be read is left out.
fn replication(observed: &Observation) -> Vec<ReplicationRow> {
    serde_json::from_str(&observed.shown.senders).unwrap_or_default()
}

/// When the postmaster started, as PostgreSQL prints it. To the second, as its lock file has it,
/// until it was asked.
pub(super) fn start_time(observed: &Observation) -> Option<String> {
    let asked = observed.shown.started.filter(|at| Some(at / 1_000_000) == observed.started);
    asked.or(observed.started.map(|at| at * 1_000_000)).map(moment)
}

/// Unix microseconds as PostgreSQL prints them, in UTC.
fn moment(micros: i64) -> String {
    let second = pgherd_api::encode::iso8601(micros.div_euclid(1_000_000)).replacen('T', " ", 1);
    match micros.rem_euclid(1_000_000) {
        0 => second,
        rest => second.replacen("+00:00", &format!(".{rest:06}+00:00"), 1),
    }
}

/// The state of a member in the store's terms, from what PostgreSQL and the lane show.
pub(super) fn member_state(state: Option<&PgState>, operation: Option<&str>) -> MemberState {
    match (state, operation) {
        (_, Some("clone")) => MemberState::CreatingReplica,
        (_, Some("init")) => MemberState::Initializing,
        (_, Some("stop")) => MemberState::Stopping,
        (Some(PgState::Running(_)), _) => MemberState::Running,
        (Some(PgState::NotAccepting(_)), _) => MemberState::Starting,
        (Some(PgState::Stopped(control)), None) if crashed(control) => MemberState::Crashed,
        (Some(PgState::Stopped(_) | PgState::Absent | PgState::Broken(_)), _) => {
            MemberState::Stopped
        }
        (Some(PgState::Unresponsive { .. }) | None, _) => MemberState::Other,
    }
}

fn crashed(control: &ControlFacts) -> bool {
    match control.state {
        ControlState::InProduction | ControlState::InCrashRecovery | ControlState::ShuttingDown => {
            true
        }
        ControlState::StartingUp
        | ControlState::ShutDown
        | ControlState::ShutDownInRecovery
        | ControlState::InArchiveRecovery => false,
    }
}

fn role(state: Option<&PgState>) -> &'static str {
    match state {
        Some(PgState::Running(RunningFacts { role: PgRole::Primary(_), .. })) => "primary",
        Some(PgState::Running(_) | PgState::NotAccepting(_) | PgState::Unresponsive { .. }) => {
            "replica"
        }
        Some(PgState::Stopped(_)) => "replica",
        Some(PgState::Absent | PgState::Broken(_)) | None => "uninitialized",
    }
}

/// `GET /cluster`.
pub(super) fn cluster(desk: &Desk) -> Answer {
    let board = desk.board.borrow().clone();
    match &board.cluster {
        Some(cluster) => {
            let mut body = ClusterBody::new(cluster);
            let age = board.store.map(|seen| clock::now().since(seen.at));
            body.store_age_ms = age.filter(|age| *age > board.ttl()).map(|age| age.as_millis());
            spaced(StatusCode::OK, &body)
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the store has not answered yet"),
    }
}

/// `GET /history`.
pub(super) fn history(desk: &Desk) -> Answer {
    let history = desk.board.borrow().cluster.as_ref().map(|cluster| cluster.history());
    spaced(StatusCode::OK, &history.unwrap_or_else(|| serde_json::Value::Array(Vec::new())))
}

/// `GET /config`.
pub(super) fn config(desk: &Desk) -> Answer {
    let board = desk.board.borrow().clone();
    match board.cluster.as_ref().and_then(|cluster| cluster.config()) {
        Some(config) => spaced(StatusCode::OK, &config.json),
        None => text(StatusCode::BAD_GATEWAY, "there is no configuration yet"),
    }
}

/// `GET /failsafe`.
pub(super) fn failsafe(desk: &Desk) -> Answer {
    let board = desk.board.borrow().clone();
    match board.cluster.as_ref().and_then(|cluster| cluster.failsafe()) {
        Some(map) => spaced(StatusCode::OK, map),
        None => text(StatusCode::BAD_GATEWAY, "there is no failsafe map"),
    }
}

/// `GET /explain`.
pub(super) fn explain(desk: &Desk) -> ExplainBody {
    let board = desk.board.borrow().clone();
    let now = clock::now();
    let mut recent = desk.journal.read();
    let current = if recent.is_empty() {
        pgherd_api::rest::DecisionBody::new(&board.decision, clock::unix_millis())
    } else {
        recent.remove(0)
    };
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    let belief = board.belief_until.filter(|end| now < *end);
    ExplainBody {
        name: desk.identity.name.clone(),
        scope: desk.identity.scope.clone(),
        incarnation: board.incarnation,
        current,
        recent,
        belief_ms: belief.map(|end| end.since(now).as_millis()),
        term: view.as_ref().and_then(|view| view.current_term()),
        revision: view.as_ref().map_or(0, |view| view.revision.0),
        store_age_ms: board.store.map(|seen| now.since(seen.at).as_millis()),
        postgres: postgres(&board),
        peers: board.peers.iter().map(|peer| self::peer(peer, now)).collect(),
        asked: desk.journal.asked(),
        cancelled_waits: board.cancelled_waits,
        unreplicated: board.unreplicated.map(|end| end.to_string()),
        without: view
            .as_ref()
            .and_then(|view| view.term.as_ref()?.value.without)
            .map(|end| end.to_string()),
        lost: board.observed.iter().flat_map(|seen| seen.shown.lost.iter()).map(lost).collect(),
    }
}

fn lost(lost: &pgherd_postgres::LostWal) -> LostBody {
    LostBody {
        at: lost.at,
        timeline: lost.timeline,
        from: lost.from.to_string(),
        to: lost.to.to_string(),
        commits: lost.commits,
        left_out: lost.left_out,
        path: lost.path.display().to_string(),
    }
}

/// `GET /waiting`: looked at after the call came, or 503.
pub(super) async fn waiting(desk: &Desk) -> Answer {
    let asked = clock::now();
    let mut boards = desk.board.clone();
    let looked = |board: &Arc<Board>| {
        board.observed.as_ref().is_some_and(|observed| observed.facts.at >= asked)
    };
    let fresh = tokio::time::timeout(LOOK_LIMIT, boards.wait_for(looked)).await;
    let Ok(Ok(board)) = fresh else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL was not looked at in time");
    };
    let waiting = match board.observed.as_ref().map(|observed| &observed.facts.state) {
        Some(PgState::Running(RunningFacts { role: PgRole::Primary(primary), .. })) => {
            primary.waiting.iter().map(|backend| backend.pid).collect()
        }
        Some(
            PgState::Running(_)
            | PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. },
        )
        | None => Vec::new(),
    };
    spaced(StatusCode::OK, &WaitingBody { name: desk.identity.name.clone(), waiting })
}

/// `GET /term`. The deadline is looked at now, whatever the board's age.
pub(super) fn term(desk: &Desk) -> Answer {
    let now = clock::now();
    let vouched = desk.board.borrow().vouches.filter(|(_, until)| now < *until);
    let body = TermBody {
        name: desk.identity.name.clone(),
        scope: desk.identity.scope.clone(),
        term: vouched.map(|(term, _)| term),
        valid_ms: vouched.map_or(0, |(_, until)| until.since(now).as_millis()),
    };
    let code = if vouched.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    spaced(code, &body)
}

fn postgres(board: &Board) -> PostgresBody {
    let copied = board.observed.as_ref().and_then(|observed| observed.copied);
    let mut body = PostgresBody {
        operation: board.operation.map(str::to_owned),
        copied_bytes: copied.map(|copied| copied.done),
        total_bytes: copied.map(|copied| copied.total),
        last_failure: board.last_failure.clone(),
        ailment: board.ailment,
        room_for_clients: board.observed.as_ref().and_then(|it| it.shown.room_for_clients),
        ..PostgresBody::default()
    };
    let word = match board.observed.as_ref().map(|observed| &observed.facts.state) {
        None => "unknown",
        Some(PgState::Absent) => "absent",
        Some(PgState::Broken(_)) => "broken",
        Some(PgState::Stopped(control)) => {
            body.timeline = Some(control.timeline);
            "stopped"
        }
        Some(PgState::NotAccepting(control)) => {
            body.timeline = Some(control.timeline);
            "starting"
        }
        Some(PgState::Unresponsive { .. }) => "unresponsive",
        Some(PgState::Running(RunningFacts { timeline, role, .. })) => {
            body.timeline = Some(*timeline);
            match role {
                PgRole::Primary(primary) => describe_primary(&mut body, primary),
                PgRole::Replica(replica) => describe_replica(&mut body, replica),
            }
        }
    };
    body.state = word.to_owned();
    body.lsn_text = body.lsn.map(|lsn| lsn.to_string());
    body
}

fn describe_primary(body: &mut PostgresBody, primary: &PrimaryFacts) -> &'static str {
    body.lsn = Some(primary.flushed);
    body.replicas = primary.senders.iter().map(|sender| sender.node.clone()).collect();
    body.waits_for.clone_from(&primary.names.names);
    body.waits_for_count = Some(primary.names.count).filter(|count| *count > 0);
    "primary"
}

fn describe_replica(body: &mut PostgresBody, replica: &ReplicaFacts) -> &'static str {
    body.lsn = Some(replica.received);
    body.upstream = replica.upstream.as_ref().and_then(|upstream| upstream.node().cloned());
    body.streaming = replica.streaming;
    "replica"
}

fn peer(seen: &PeerSeen, now: pgherd_core::Time) -> PeerBody {
    let beat = seen.heard.as_ref().map(|(beat, _)| beat);
    let word = match beat.map(|beat| beat.pg) {
        None => "unknown",
        Some(PeerPg::Absent) => "absent",
        Some(PeerPg::Down) => "down",
        Some(PeerPg::Busy) => "busy",
        Some(PeerPg::Primary) => "primary",
        Some(PeerPg::Replica { .. }) => "replica",
    };
    PeerBody {
        name: seen.name.clone(),
        connected: seen.connected,
        heard_ms: seen.heard.as_ref().map(|(_, at)| now.since(*at).as_millis()),
        leads: beat.and_then(|beat| beat.leads),
        postgres: word.to_owned(),
        lsn: beat.and_then(|beat| beat.position).map(|position| position.lsn),
        hears_leader: beat.is_some_and(|beat| beat.hears_leader),
        ailment: beat.and_then(|beat| beat.ailment),
    }
}
