//! Observing: one query on a persistent connection, a probe on new ones, pg_control when it is down.
//! Leaves judging, and how old an observation may be, to the core.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgherd_core::postgres::{
    BrokenData, PgFacts, PgFailureKind, PgRole, PgState, PrimaryFacts, ReplicaFacts, RunningFacts,
    SenderFacts, SyncNames, TimelineEnd, WaitingBackend,
};
use pgherd_core::{Instance, Lsn, NodeName, SystemId, Time, Timeline};
use pgherd_guard::boottime_micros;

use crate::control::read_control;
use crate::life::Life;
use crate::ops::diverged::{self, LostWal};
use crate::server::Core;
use crate::sql::{Row, Sql};
use crate::{PgError, conf, files, names};

/// A bound for everything that observes: what takes longer is an observation too.
const BOUND: Duration = Duration::from_secs(1);
/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Everything at once. Startup's wait events: it has used up all WAL there is and waits for more
/// (PostgreSQL docs, "Wait Events of type Activity / Timeout").
const QUERY: &str = "SELECT pg_is_in_recovery(), \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN pg_is_in_recovery() THEN NULL \
         ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
    current_setting('synchronous_standby_names'), \
    (SELECT string_agg(application_name || ' ' || state || ' ' || coalesce(flush_lsn, '0/0') \
         || ' ' || coalesce(replay_lsn, '0/0'), ',') FROM pg_stat_replication \
         WHERE application_name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' \
         AND state IN ('startup', 'catchup', 'streaming')), \
    pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), current_setting('primary_conninfo'), \
    (SELECT status FROM pg_stat_wal_receiver), (SELECT received_tli FROM pg_stat_wal_receiver), \
    (SELECT wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval') \
         FROM pg_stat_activity WHERE backend_type = 'startup'), \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
    current_setting('restore_command', true) <> '', \
    (SELECT json_agg(json_build_object('usename', usename, 'application_name', application_name, \
         'client_addr', client_addr, 'state', state, 'sync_state', sync_state, \
         'sync_priority', sync_priority)) FROM pg_stat_replication), pg_conf_load_time(), \
    current_setting('primary_slot_name'), \
    CASE WHEN NOT pg_is_in_recovery() AND current_setting('synchronous_standby_names') <> '' THEN \
         (SELECT string_agg(pid || ' ' || coalesce((extract(epoch FROM xact_start) * 1000000)::bigint, 0), ',') \
         FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
         AND (application_name <> 'pgherd' OR client_addr IS NOT NULL)) END";

/// What only readers want to know of a running server (contract 2.6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// When the postmaster started, in unix microseconds.
    pub started: Option<i64>,
    /// When the last replayed transaction was committed, in unix microseconds.
    pub replayed: Option<i64>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// There is a `restore_command`: a replica that doesn't stream reads the archive.
    pub restores: bool,
    /// `pg_stat_replication`, as a JSON array of rows; empty when there are none.
    pub senders: String,
    /// How many more clients it takes, as a new connection saw within the last second or two.
    pub room_for_clients: Option<u32>,
    /// WAL of this node that is in nobody's history, kept aside.
    pub lost: Arc<[LostWal]>,
}

/// What is kept between observations.
#[derive(Default)]
pub(crate) struct Memory {
    connection: tokio::sync::Mutex<Option<Sql>>,
    /// History files by timeline: they don't change.
    history: Mutex<HashMap<Timeline, Vec<TimelineEnd>>>,
    /// The timeline that pg_control was last seen to name.
    checkpointed: Mutex<Option<Timeline>>,
    /// The highest timeline that a replica was seen on since its start.
    reached: Mutex<Option<Timeline>>,
    /// What the latest observation says to readers.
    shown: Mutex<Shown>,
    /// Where replay stood when it was last seen at the end, nothing being received.
    end: Mutex<Option<Lsn>>,
    /// The last state that the disk answered.
    last_static: Mutex<Option<PgState>>,
    /// What can't change while a postmaster lives.
    constants: Mutex<Option<Constants>>,
    /// WAL that is kept aside; looked for once, and again after each rewind.
    pub(crate) lost: Mutex<Option<Arc<[LostWal]>>>,
    /// When the files were read last, as PostgreSQL says it.
    loaded: Mutex<Option<String>>,
    /// One thread at most waits for a hung disk.
    disk: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy)]
struct Constants {
    system_id: SystemId,
    instance: Instance,
}

impl Memory {
    /// After a promotion: the connection goes on, what was known of the timeline doesn't.
    pub(crate) fn forget_timeline(&self) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Recovery never goes back to an earlier timeline. Where a segment is being replaced by the one from
    /// the archive, no file says for a moment that it went on to a later one.
    fn no_earlier(&self, seen: Timeline) -> Timeline {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = seen.max(reached.unwrap_or(seen));
        *reached.insert(highest)
    }

    /// What the latest observation of a running server says to readers.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a start, stop or anything that changes what a connection means.
    pub(crate) async fn forget(&self) {
        *self.connection.lock().await = None;
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.constants.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Core {
    /// One observation.
    pub(crate) async fn observe(self: &Arc<Self>, at: Time) -> PgFacts {
        let state = match self.fence.life() {
            Some(life) if life.is_empty() => self.at_rest(false).await,
            Some(life) if !life.is_running() => self.at_rest(true).await,
            Some(life) => self.alive(&life).await,
            None => {
                let living =
                    self.fence.unguarded.load(Ordering::SeqCst) || self.fence.is_starting();
                self.at_rest(living).await
            }
        };
        PgFacts { at, state }
    }

    async fn alive(self: &Arc<Self>, life: &Life) -> PgState {
        let answer = self.ask().await;
        let probe_failed = life.probe_failed.load(Ordering::SeqCst);
        match answer {
            Ok(running) if !probe_failed => {
                life.accepted.store(true, Ordering::SeqCst);
                PgState::Running(running)
            }
            // It ended while it was asked.
            Err(_) if !life.is_running() => self.at_rest(true).await,
            Err(error) if cannot_connect_now(&error) => self.at_rest(true).await,
            Err(_) if !life.accepted.load(Ordering::SeqCst) => self.at_rest(true).await,
            Ok(_) | Err(_) => {
                let since = Time(life.last_probe.load(Ordering::SeqCst)).max(life.began);
                PgState::Unresponsive { since, halted: false }
            }
        }
    }

    /// The persistent connection's answer; one new connection when the old one fails.
    async fn ask(self: &Arc<Self>) -> Result<RunningFacts, PgError> {
        let mut connection = self.memory.connection.lock().await;
        let mut rows = Err(PgError::Cancelled);
        if let Some(sql) = connection.as_ref() {
            rows = sql.rows("observing", QUERY, BOUND).await;
        }
        if rows.is_err() {
            let sql = Sql::local(&self.settings, BOUND).await?;
            rows = sql.rows("observing", QUERY, BOUND).await;
            *connection = rows.is_ok().then_some(sql);
        }
        drop(connection);
        let row = rows?.into_iter().next().unwrap_or_default();
        let core = Arc::clone(self);
        self.with_disk(move || core.read_row(&row)).await
    }

    /// Looks at the disk, within the bound.
    async fn with_disk<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> Result<T, PgError> + Send + 'static,
    ) -> Result<T, PgError> {
        let disk = Arc::clone(&self.memory.disk);
        let looking = async {
            let turn = disk.lock_owned().await;
            blocking(move || {
                let _turn = turn;
                look()
            })
            .await?
        };
        let late = |_| PgError::failed(PgFailureKind::TimedOut, "the disk doesn't answer");
        tokio::time::timeout(BOUND, looking).await.map_err(late)?
    }

    fn read_row(&self, row: &Row) -> Result<RunningFacts, PgError> {
        let cell = |at: usize| row.get(at).and_then(Option::as_deref);
        let lsn = |at: usize| cell(at).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO);
        let number = |at: usize| cell(at).and_then(|text| text.parse().ok());
        *self.memory.shown.lock().unwrap_or_else(PoisonError::into_inner) = Shown {
            started: number(11),
            replayed: number(12),
            replay_paused: cell(13) == Some("t"),
            restores: cell(14) == Some("t"),
            senders: cell(15).unwrap_or_default().to_owned(),
            room_for_clients: self
                .fence
                .life()
                .and_then(|life| u32::try_from(life.room_for_clients.load(Ordering::SeqCst)).ok()),
            lost: self.lost(),
        };
        let Constants { system_id, instance } = self.constants()?;
        self.note_reload(cell(16), cell(13) == Some("t"));
        let (timeline, role) = if cell(0) == Some("t") {
            let receiving = cell(8);
            let (received, replayed) = (lsn(5).max(lsn(6)), lsn(6));
            let tli = cell(9).and_then(|text| text.parse().ok()).map(Timeline);
            let streaming = receiving == Some("streaming");
            let timeline = match tli.filter(|_| streaming) {
                Some(timeline) => timeline,
                None => timeline_of(&self.settings.data_dir, received)?,
            };
            let timeline = self.memory.no_earlier(timeline);
            let waits = cell(10) == Some("t");
            let at_end = self.is_at_end(receiving.is_none(), waits, replayed);
            let upstream = cell(7)
                .and_then(|conninfo| conf::upstream_of(conninfo, cell(17).unwrap_or_default()));
            let facts = ReplicaFacts { received, replayed, streaming, upstream, at_end };
            (timeline, PgRole::Replica(facts))
        } else {
            let timeline = cell(2).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let timeline = Timeline(timeline.unwrap_or(1));
            let names = self.list_of(cell(3).unwrap_or_default());
            let senders = cell(4).map(senders).unwrap_or_default();
            let history = self.history(timeline)?;
            let checkpointed = self.is_checkpointed(timeline)?;
            let waiting = cell(18).map(waiting).unwrap_or_default();
            let flushed = lsn(1);
            let facts = PrimaryFacts { flushed, names, senders, history, checkpointed, waiting };
            (timeline, PgRole::Primary(facts))
        };
        Ok(RunningFacts { system_id, instance, timeline, role })
    }

    fn lost(&self) -> Arc<[LostWal]> {
        let mut known = self.memory.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let found = || diverged::read_all(&self.settings.data_dir).into();
        Arc::clone(known.get_or_insert_with(found))
    }

    /// The list, unless it is the user's own, which promises nothing.
    fn list_of(&self, text: &str) -> SyncNames {
        let users = self.confs().primary.standby_names.as_deref() == Some(text);
        if users { SyncNames::default() } else { names::parse(text) }
    }

    /// A reload by anybody, or replay that is paused, may mean that a restart is due.
    fn note_reload(&self, loaded: Option<&str>, paused: bool) {
        let state = loaded.map(|loaded| format!("{loaded} {paused}"));
        let mut known = self.memory.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != state {
            *known = state;
            self.news.send_modify(|news| *news += 1);
        }
    }

    fn constants(&self) -> Result<Constants, PgError> {
        let mut known = self.memory.constants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(constants) = *known {
            return Ok(constants);
        }
        let system_id = read_control(&self.settings.data_dir)?.system_id;
        let constants = Constants { system_id, instance: files::instance(&self.settings)? };
        *known = Some(constants);
        Ok(constants)
    }

    /// Whether pg_control names the timeline that is written. Once it does, it does for good.
    fn is_checkpointed(&self, timeline: Timeline) -> Result<bool, PgError> {
        let mut known = self.memory.checkpointed.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != Some(timeline) && read_control(&self.settings.data_dir)?.timeline == timeline {
            *known = Some(timeline);
        }
        Ok(*known == Some(timeline))
    }

    /// Between two waits the startup process is awake for a moment: once at the end, and not moved
    /// since, is still at the end.
    fn is_at_end(&self, no_receiver: bool, waits: bool, replayed: Lsn) -> bool {
        let mut end = self.memory.end.lock().unwrap_or_else(PoisonError::into_inner);
        let at_end = no_receiver && (waits || *end == Some(replayed));
        *end = at_end.then_some(replayed);
        at_end
    }

    fn history(&self, timeline: Timeline) -> Result<Vec<TimelineEnd>, PgError> {
        if timeline == Timeline(1) {
            return Ok(Vec::new());
        }
        let mut known = self.memory.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = known.get(&timeline) {
            return Ok(lines.clone());
        }
        let path = self.settings.data_dir.join(format!("pg_wal/{:08X}.history", timeline.0));
        let text = std::fs::read_to_string(&path).map_err(PgError::io("reading", &path))?;
        let lines: Vec<_> = text.lines().filter_map(history_line).collect();
        known.insert(timeline, lines.clone());
        Ok(lines)
    }

    /// What the disk says when no SQL can: processes may still be `living`.
    async fn at_rest(self: &Arc<Self>, living: bool) -> PgState {
        let core = Arc::clone(self);
        let look = self.with_disk(move || {
            let settings = &core.settings;
            if !living && settings.rewinding_mark().exists() {
                return Ok(PgState::Broken(BrokenData::RewindInterrupted));
            }
            if settings.building_mark().exists() {
                return Ok(PgState::Broken(BrokenData::InitInterrupted));
            }
            if files::is_empty(&settings.data_dir)? {
                return Ok(PgState::Absent);
            }
            let Ok(control) = read_control(&settings.data_dir) else {
                return Ok(PgState::Broken(BrokenData::ControlFile));
            };
            let facts = control.facts(files::instance(settings)?);
            Ok(if living { PgState::NotAccepting(facts) } else { PgState::Stopped(facts) })
        });
        let looked = look.await;
        let mut last = self.memory.last_static.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(state) => {
                *last = Some(state.clone());
                state
            }
            // The disk doesn't answer: what it said last, or that nothing is usable.
            Err(_) => last.clone().unwrap_or(PgState::Broken(BrokenData::ControlFile)),
        }
    }

    /// Waits for lives and probes each once a second; when a guard was killed, kills what it left.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut lives = self.fence.lives();
        loop {
            let Ok(life) = lives.wait_for(Option::is_some).await.map(|life| life.clone()) else {
                return;
            };
            let Some(life) = life else { continue };
            tokio::select! {
                () = life.ended() => {}
                () = self.probe_forever(&life) => {}
            }
            self.fence.count_end();
            while life.guard.is_alive() && !life.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if !life.is_empty() {
                tracing::error!("the guard was killed; killing what PostgreSQL left behind");
                self.fence.unguarded.store(true, Ordering::SeqCst);
                while !self.fence.sweep_unguarded(BOUND).await {}
            }
            self.memory.forget().await;
            self.fence.bury(&life);
        }
    }

    async fn count_room(&self, sql: &Sql, life: &Life) -> Result<(), PgError> {
        let room = sql.cell("probing", PROBE, BOUND).await?;
        life.room_for_clients.store(room.parse().unwrap_or(-1), Ordering::SeqCst);
        Ok(())
    }

    async fn probe_forever(&self, life: &Life) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let sql = Sql::local(&self.settings, BOUND).await;
            let failed = match sql {
                Ok(sql) => self.count_room(&sql, life).await.is_err(),
                // It answers, and that is what is asked here.
                Err(error) if too_many_connections(&error) => {
                    life.room_for_clients.store(0, Ordering::SeqCst);
                    false
                }
                Err(error) => !cannot_connect_now(&error),
            };
            if !failed {
                life.last_probe.store(boottime_micros(), Ordering::SeqCst);
            }
            life.probe_failed.store(failed, Ordering::SeqCst);
        }
    }
}

/// What a new session asks: how many more clients may come, those aside for whom slots are reserved
/// (`reserved_connections` is there from 16 on). Its own is one of the reserved ones, or will be free.
const PROBE: &str = "SELECT greatest(0, current_setting('max_connections')::int \
    - current_setting('superuser_reserved_connections')::int \
    - coalesce(current_setting('reserved_connections', true)::int, 0) \
    - (SELECT count(*)::int FROM pg_stat_get_activity(NULL) AS a \
         WHERE a.datid IS NOT NULL AND a.pid <> pg_backend_pid() \
         AND a.backend_type = 'client backend'))";

fn waiting(text: &str) -> Vec<WaitingBackend> {
    let backend = |words: &str| {
        let (pid, began) = words.split_once(' ')?;
        Some(WaitingBackend { pid: pid.parse().ok()?, began: began.parse().ok()? })
    };
    text.split(',').filter_map(backend).collect()
}

fn senders(text: &str) -> Vec<SenderFacts> {
    let sender = |words: &str| {
        let mut words = words.split(' ');
        Some(SenderFacts {
            node: NodeName::new(words.next()?).ok()?,
            streaming: words.next()? == "streaming",
            flushed: words.next()?.parse().ok()?,
            replayed: words.next()?.parse().ok()?,
        })
    };
    text.split(',').filter_map(sender).collect()
}

/// `1\t0/3000148\tno recovery target specified`
pub(crate) fn history_line(line: &str) -> Option<TimelineEnd> {
    let mut words = line.split_whitespace();
    let timeline = Timeline(words.next()?.parse().ok()?);
    Some(TimelineEnd { timeline, end: words.next()?.parse().ok()? })
}

/// The timeline of the WAL at `received`: a segment is named after the timeline it was received
/// on, pg_control follows only with the next restartpoint.
pub(crate) fn timeline_of(data_dir: &Path, received: Lsn) -> Result<Timeline, PgError> {
    let control = read_control(data_dir)?;
    let least = control.timeline.max(control.min_recovery_timeline);
    let size = u64::from(control.wal_segment_size.max(1));
    let newest = received.0 / size;
    let timeline = |name: &str| {
        let hex = |part: std::ops::Range<usize>| u32::from_str_radix(name.get(part)?, 16).ok();
        let segment = u64::from(hex(8..16)?) * (0x1_0000_0000 / size) + u64::from(hex(16..24)?);
        (name.len() == 24 && segment <= newest).then(|| hex(0..8).map(Timeline)).flatten()
    };
    let wal = data_dir.join("pg_wal");
    let entries = std::fs::read_dir(&wal).map_err(PgError::io("listing", &wal))?;
    let named = entries.flatten().filter_map(|entry| timeline(entry.file_name().to_str()?));
    Ok(named.max().unwrap_or(least).max(least))
}

fn sqlstate(error: &PgError) -> Option<&str> {
    if let PgError::Sql { sqlstate, .. } = error { sqlstate.as_deref() } else { None }
}

/// 57P03: starting up, shutting down or in recovery.
fn cannot_connect_now(error: &PgError) -> bool {
    sqlstate(error) == Some("57P03")
}

/// 53300: alive, and full.
pub(crate) fn too_many_connections(error: &PgError) -> bool {
    sqlstate(error) == Some("53300")
}

/// Runs what may block on a disk where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PgError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PgError::Cancelled)
}
