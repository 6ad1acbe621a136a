//! `GET /metrics`: Patroni's series for what is known (contract 2.8), and ours.
//! Prometheus text format; every series has the labels `scope` and `name`.

use std::fmt::Write;

use pgherd_api::words;
use pgherd_config::dynamic;
use pgherd_core::cluster::ClusterView;
use pgherd_core::postgres::{PgRole, PgState, ReplicaFacts, RunningFacts};
use pgherd_postgres::Shown;

use super::Desk;
use super::status::{self, Standby};
use crate::board::Board;
use crate::clock;

/// Lines in the making.
struct Page {
    labels: String,
    text: String,
}

impl Page {
    fn put(&mut self, kind: &str, name: &str, help: &str, value: impl std::fmt::Display) {
        self.labelled(kind, name, help, "", value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.put("gauge", name, help, value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    /// One line for each file system.
    fn family(&mut self, name: &str, help: &str, of: impl Iterator<Item = (&'static str, f64)>) {
        let mut of = of.peekable();
        if of.peek().is_none() {
            return;
        }
        let Self { labels, text } = self;
        // Writing to a text can't fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (volume, value) in of {
            let _ = writeln!(text, "{name}{{{labels},volume=\"{volume}\"}} {value}");
        }
    }

    fn labelled(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        more: &str,
        value: impl std::fmt::Display,
    ) {
        let Self { labels, text } = self;
        // Writing to a text can't fail.
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}{more}}} {value}\n"
        );
    }
}

/// The whole page.
pub(super) fn render(desk: &Desk) -> String {
    let board = desk.board.borrow().clone();
    let identity = &desk.identity;
    let labels = format!("scope=\"{}\",name=\"{}\"", escaped(&identity.scope), identity.name);
    let mut page = Page { labels, text: String::with_capacity(8 << 10) };
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    postgres(&mut page, desk, &board);
    cluster(&mut page, desk, &board, view.as_deref());
    ours(&mut page, &board, view.as_deref());
    page.text
}

fn postgres(page: &mut Page, desk: &Desk, board: &Board) {
    let observed = board.observed.as_ref();
    let state = board.state(clock::now());
    let running = match state {
        Some(PgState::Running(running)) => Some(running),
        Some(
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. },
        )
        | None => None,
    };
    let shown = running.and(observed).map(|observed| &observed.shown);
    let started = epoch(shown.and_then(|shown| shown.started));
    page.gauge("patroni_version", "Patroni semver without periods.", version_number());
    page.flag(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        running.is_some(),
    );
    page.gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", started);
    let primary = match running {
        Some(RunningFacts { role: PgRole::Primary(primary), .. }) => Some(primary),
        _ => None,
    };
    let replica = match running {
        Some(RunningFacts { role: PgRole::Replica(replica), .. }) => Some(replica),
        _ => None,
    };
    page.flag(
        "patroni_primary",
        "Value is 1 if this node is the leader, 0 otherwise.",
        primary.is_some(),
    );
    let help =
        "Current location of the Postgres transaction log, 0 if this node is not the leader.";
    page.put("counter", "patroni_xlog_location", help, primary.map_or(0, |it| it.flushed.0));
    let led = board.cluster.as_ref().is_some_and(|cluster| status::standby_cluster(cluster));
    let standby_leader = led && replica.is_some() && board.leads.is_some();
    page.flag(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader, 0 otherwise.",
        standby_leader,
    );
    page.flag(
        "patroni_replica",
        "Value is 1 if this node is a replica, 0 otherwise.",
        replica.is_some() && !standby_leader,
    );
    let standby = status::standby(board, &desk.identity.name);
    let help = "Value is 1 if this node is a sync standby replica, 0 otherwise.";
    page.flag("patroni_sync_standby", help, replica.is_some() && standby == Standby::Sync);
    let help = "Value is 1 if this node is a quorum standby replica, 0 otherwise.";
    page.flag("patroni_quorum_standby", help, replica.is_some() && standby == Standby::Quorum);
    replica_series(page, board, replica, shown);
    let version = if running.is_some() { desk.server_version } else { 0 };
    let help = "Version of Postgres (if running), 0 otherwise.";
    page.gauge("patroni_postgres_server_version", help, version);
    let timeline = running.map_or(0, |it| it.timeline.0);
    let help = "Postgres timeline of this node (if running), 0 otherwise.";
    page.put("counter", "patroni_postgres_timeline", help, timeline);
    let _ = page.text.write_str(STATE_COMMENT);
    let word = status::state_word(board, board.state(clock::now()));
    let help = "Numeric representation of Postgres state.";
    page.gauge("patroni_postgres_state", help, words::state_index(word));
}

/// Unix microseconds as Prometheus has moments: seconds.
fn epoch(micros: Option<i64>) -> f64 {
    micros.map_or(0.0, |micros| micros as f64 / 1e6)
}

fn replica_series(
    page: &mut Page,
    board: &Board,
    replica: Option<&ReplicaFacts>,
    shown: Option<&Shown>,
) {
    let help = "Current location of the received Postgres transaction log, 0 if this node is not a replica.";
    let received = replica.map_or(0, |it| it.received.0);
    page.put("counter", "patroni_xlog_received_location", help, received);
    let help = "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.";
    let replayed = replica.map_or(0, |it| it.replayed.0);
    page.put("counter", "patroni_xlog_replayed_location", help, replayed);
    let replayed = epoch(shown.filter(|_| replica.is_some()).and_then(|it| it.replayed));
    let help = "Current timestamp of the replayed Postgres transaction log, 0 if null.";
    page.gauge("patroni_xlog_replayed_timestamp", help, replayed);
    let paused = replica.is_some() && shown.is_some_and(|it| it.replay_paused);
    let help = "Value is 1 if the Postgres xlog is paused, 0 otherwise.";
    page.flag("patroni_xlog_paused", help, paused);
    let state = replica.and_then(|replica| status::replication_state(board, replica));
    let streaming = state == Some("streaming");
    page.flag("patroni_postgres_streaming", "Value is 1 if Postgres is streaming", streaming);
    let archive = state == Some("in archive recovery");
    let help = "Value is 1 if Postgres is replicating from archive, 0 otherwise.";
    page.flag("patroni_postgres_in_archive_recovery", help, archive);
}

const STATE_COMMENT: &str = "# Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, \
    3=custom_bootstrap_failed, 4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, \
    8=start_failed, 9=restarting, 10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, \
    14=crashed\n";

fn cluster(page: &mut Page, desk: &Desk, board: &Board, view: Option<&ClusterView>) {
    let unlocked = view.is_some_and(|view| view.leader.is_none());
    let help = "Value is 1 if the cluster is unlocked, 0 if locked.";
    page.flag("patroni_cluster_unlocked", help, unlocked);
    let help = "Value is 1 if failsafe mode is active, 0 if inactive.";
    page.flag("patroni_failsafe_mode_is_active", help, board.failsafe);
    let config = board.cluster.as_ref().and_then(|it| it.config()).map(|it| &it.json);
    let enabled = config.and_then(|it| it.get("failsafe_mode")).and_then(dynamic::boolean);
    let help = "Value is 1 if failsafe mode is enabled, 0 if disabled.";
    page.flag("patroni_failsafe_mode_enabled", help, enabled == Some(true));
    let map = board.cluster.as_ref().and_then(|it| it.failsafe());
    let member = map.is_some_and(|map| map.get(desk.identity.name.as_str()).is_some());
    let help = "Value is 1 if this node is listed in the failsafe members, 0 otherwise.";
    page.flag("patroni_failsafe_member", help, member);
    let seen = board.store.map_or(0, |seen| seen.unix_seconds);
    let help = "Epoch timestamp when DCS was last contacted successfully by Patroni.";
    page.put("gauge", "patroni_dcs_last_seen", help, seen);
    let help = "Value is 1 if the node needs a restart, 0 otherwise.";
    let own = board.cluster.as_ref().and_then(|it| it.members().get(&desk.identity.name));
    page.flag("patroni_pending_restart", help, own.is_some_and(|own| own.pending_restart));
    let help = "Value is 1 if auto failover is disabled, 0 otherwise.";
    page.flag("patroni_is_paused", help, board.paused());
    let priority = i64::from(pgherd_config::tags::meaning(&desk.tags).failover_priority);
    page.gauge("patroni_failover_priority", "Failover priority of this node.", priority);
}

fn ours(page: &mut Page, board: &Board, view: Option<&ClusterView>) {
    let now = clock::now();
    let decision = &board.decision;
    let more = format!(
        ",situation=\"{}\",reason=\"{}\"",
        decision.situation,
        reason_word(&decision.reason)
    );
    page.labelled("gauge", "pgherd_decision", "The decision in force; always 1.", &more, 1);
    let term = view.and_then(ClusterView::current_term).map_or(0, |term| term.0);
    page.gauge("pgherd_term", "The current term, 0 before the first leader.", term);
    let leads = board.leads.map_or(0, |term| term.0);
    page.gauge("pgherd_leading_term", "The term that this node leads, 0 when it does not.", leads);
    let belief = board.belief_until.filter(|end| now < *end);
    let belief = belief.map_or(0.0, |end| end.since(now).to_std().as_secs_f64());
    let help = "For how long this node may still believe that it leads, 0 when it does not.";
    page.gauge("pgherd_belief_seconds", help, belief);
    page.flag("pgherd_serving", "Value is 1 if clients may write here.", board.leads_now(now));
    let help = "Synchronous waits that ended without the replicas, since the agent's start.";
    let name = "pgherd_sync_waits_cancelled_total";
    page.put("counter", name, help, board.cancelled_waits);
    let help = "Commits of such waits up to here are on too few nodes, 0 when there are none.";
    let unreplicated = board.unreplicated.unwrap_or_default().0;
    page.gauge("pgherd_unreplicated_location", help, unreplicated);
    if let Some(seen) = board.store {
        let age = now.since(seen.at).to_std().as_secs_f64();
        page.gauge("pgherd_store_age_seconds", "Since the store was last heard.", age);
    }
    disks(page, board);
    if !board.peers.is_empty() {
        let name = "pgherd_peer_connected";
        let _ = write!(
            page.text,
            "# HELP {name} Value is 1 if messages reach that peer.\n# TYPE {name} gauge\n"
        );
        for peer in &board.peers {
            let _ = writeln!(
                page.text,
                "{name}{{{},peer=\"{}\"}} {}",
                page.labels,
                peer.name,
                u8::from(peer.connected)
            );
        }
    }
}

/// The disks, as they were tried last; what isn't known has no line.
fn disks(page: &mut Page, board: &Board) {
    let help = "Value is 1 if something keeps this node from leading well, with its name.";
    let ill = board.ailment.and_then(|ailment| serde_json::to_value(ailment).ok());
    let word = ill.as_ref().and_then(|word| word.as_str()).unwrap_or_default();
    let more = format!(",ailment=\"{word}\"");
    page.labelled("gauge", "pgherd_ailing", help, &more, u8::from(ill.is_some()));
    let room = board.observed.as_ref().and_then(|observed| observed.shown.room_for_clients);
    if let Some(room) = room {
        let help = "How many more clients PostgreSQL takes, reserved connections aside.";
        page.gauge("pgherd_client_slots_free", help, room);
    }
    let volumes = [("data", Some(&board.disks.data)), ("wal", board.disks.wal.as_ref())];
    let known = || volumes.iter().filter_map(|(name, volume)| Some((*name, (*volume)?)));
    let now = clock::now();
    let seconds = |span: pgherd_core::Duration| span.to_std().as_secs_f64();
    page.family(
        "pgherd_disk_write_seconds",
        "How long the last write with fsync to this file system took, or takes by now.",
        known().filter_map(|(name, it)| {
            let waits =
                it.pending.map(|since| now.since(since)).filter(|waits| Some(*waits) > it.took);
            Some((name, seconds(waits.or(it.took)?)))
        }),
    );
    page.family(
        "pgherd_disk_free_bytes",
        "What PostgreSQL may still take of this file system.",
        known().filter_map(|(name, it)| Some((name, it.free? as f64))),
    );
}

/// The reason's word without its values, which would make a series of each.
fn reason_word(reason: &pgherd_core::Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
        Ok(_) | Err(_) => String::new(),
    }
}

/// `4.1.5` as Patroni's metric has it: 040105.
fn version_number() -> String {
    let parts = pgherd_api::COMPATIBLE_VERSION.split('.');
    parts.fold(String::new(), |number, part| format!("{number}{part:0>2}"))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
