//! Permanent logical slots on replicas, before PostgreSQL 17: a standby can't make one there, but it takes
//! up one whose files it finds when it starts, and moves it on. So each start from a leader brings what is
//! missing; where a replica runs without, it says that a restart would help, one replica at a time; and
//! each look moves the slots to what the leader has published. It also knows which could be used at once
//! after a promotion. Leaves deciding on a restart to the core, and what a slot's files are to `slot_file`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgherd_core::postgres::{PgFailureKind, Upstream};
use pgherd_core::{Lsn, NodeName};

use crate::PgError;
use crate::conf::Role;
use crate::facts::blocking;
use crate::server::Core;
use crate::slot_file::{self, SlotFile, Snapshot, has_wal_from, is_slot_name};
use crate::slots::{Dropping, SlotSeen, SlotWishes, Xid, advance, drop_slot, seen};
use crate::sql::{Sql, literal};

/// For one question.
const BOUND: Duration = Duration::from_secs(5);
/// What a start waits for the leader's slots: they can come later, the replica should come now.
const FETCH: Duration = Duration::from_secs(4);
/// The advisory lock on the leader that makes one replica at a time restart. Any number that no
/// application has: these are the letters "pgherd" and "sl".
const TURN: i64 = 0x7067_6865_7264_736C;
/// Who has the turn and doesn't restart within this (there is a pause, or a voter is away) gives it back.
const TURN_UNUSED: Duration = Duration::from_secs(30);
/// A restart takes seconds. Who isn't back after this holds up no other one.
const TURN_AT_MOST: Duration = Duration::from_secs(120);
/// After the second start that did not bring a slot; twice as long after each further one.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// It doesn't get longer than about an hour, and what was longer ago than this doesn't count.
const MOST_DOUBLED: u32 = 6;
const FORGOTTEN: Duration = Duration::from_secs(3 * 3600);
/// A start that failed with slots that it brought counts as so many that did not bring them.
const FAILED_START: u32 = 6;
/// More snapshots than a slot needs that moves on now and then; PostgreSQL writes four a minute.
const SNAPSHOTS: usize = 1000;
/// "undefined_file" (PostgreSQL docs, appendix A): WAL that isn't there.
const UNDEFINED_FILE: &str = "58P01";

/// What came of a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Carried {
    /// Nothing is to be done.
    Settled,
    /// A restart of this replica would bring these slots, and it is its turn.
    WantsRestart(Vec<String>),
}

/// What is remembered of slots between looks and starts.
#[derive(Default)]
pub(crate) struct Carry {
    /// The logical slots that are wanted.
    wanted: Mutex<BTreeSet<String>>,
    /// Starts that did not bring a slot, and the last of them.
    tried: Mutex<BTreeMap<String, (u32, Instant)>>,
    look: tokio::sync::Mutex<Look>,
}

#[derive(Default)]
struct Look {
    /// Whom this replica streams from, and which timeline: what was known of readiness holds for it.
    under: Option<(NodeName, String)>,
    slots: BTreeMap<String, Readiness>,
    turn: Option<Turn>,
}

/// Whether a slot here could be used after a promotion: all rows of catalogs that its decoding needs are
/// there. They are from when this node's physical slot on the leader holds them: what the leader's own
/// slot held at that moment, and everything behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readiness {
    /// The leader doesn't hold anything for this node yet.
    Unheld,
    /// It holds from here on; the slot isn't there yet.
    HeldFrom(Xid),
    Ready,
}

/// This replica's turn to restart. The lock ends with the connection.
struct Turn {
    _sql: Sql,
    since: Instant,
}

/// What this server says of itself.
struct Here {
    in_recovery: bool,
    replayed: Lsn,
    /// The timeline that it streams; empty when it doesn't.
    timeline: String,
}

impl Core {
    /// Whether slots are carried from the leader: PostgreSQL 17 does that itself.
    pub(crate) fn carries_slots(&self) -> bool {
        self.settings.bin.major < 17
    }

    /// The logical slots that starts bring from now on.
    pub(crate) fn want_logical(&self, wishes: &SlotWishes) {
        let names = wishes.logical.keys().filter(|name| is_slot_name(name)).cloned().collect();
        *lock(&self.carry.wanted) = names;
    }

    /// Moves this replica's logical slots on, and sees what they lack.
    pub(crate) async fn carry_slots(
        self: &Arc<Self>,
        wishes: &SlotWishes,
    ) -> Result<Carried, PgError> {
        let mut look = self.carry.look.lock().await;
        let look = &mut *look;
        look.turn.take_if(|turn| turn.since.elapsed() > TURN_AT_MOST);
        if !self.carries_slots() || wishes.logical.is_empty() {
            *look = Look::default();
            return Ok(Carried::Settled);
        }
        let sql = Sql::local(&self.settings, BOUND).await?;
        let here = Here::read(&sql).await?;
        let ours = seen(&sql).await?;
        if !here.in_recovery {
            look.tell_promoted(&ours);
            *look = Look::default();
            return Ok(Carried::Settled);
        }
        self.move_on(&sql, wishes, &here, &ours).await;
        let (_, upstream) = self.upstream_read(&sql).await?;
        let Some(Upstream::Leader(leader)) = upstream.filter(|_| !here.timeline.is_empty()) else {
            return Ok(Carried::Settled);
        };
        look.follow(&leader, &here.timeline, wishes, &ours);
        let missing = self.missing(wishes, &ours);
        if missing.is_empty() {
            look.turn = None;
            if look.slots.values().all(|slot| *slot == Readiness::Ready) {
                return Ok(Carried::Settled);
            }
        }
        let leaders = Sql::remote(&self.address(&leader)?, &self.settings.rewind, BOUND).await?;
        let theirs = seen(&leaders).await?;
        if theirs.iter().any(|slot| slot.in_recovery) {
            return Ok(Carried::Settled);
        }
        look.judge(&self.settings.node.slot_name(), &ours, &theirs);
        let mut can = self.can_be_brought(&missing, &here, &theirs).await?;
        if wishes.dropping == Dropping::No {
            return Ok(Carried::Settled);
        }
        if look.turn.is_none() {
            can = self.only_readable(can, &leaders).await;
        }
        if can.is_empty() { Ok(Carried::Settled) } else { look.take_turn(leaders, can).await }
    }

    /// What can't be had is no reason to restart.
    async fn only_readable(&self, all: Vec<String>, leaders: &Sql) -> Vec<String> {
        let mut readable = Vec::new();
        for name in all {
            match fetch(leaders, &name).await {
                Ok(_) => readable.push(name),
                Err(error) => {
                    tracing::warn!(slot = name, %error, "a logical slot can't be read on the leader");
                    self.note_tried(&name, 1);
                }
            }
        }
        readable
    }

    /// Wanted, and not here. One that is ignored is somebody else's business.
    fn missing(&self, wishes: &SlotWishes, ours: &[SlotSeen]) -> BTreeSet<String> {
        let mut missing = lock(&self.carry.wanted).clone();
        missing.retain(|name| wishes.logical.contains_key(name));
        for slot in ours {
            missing.remove(&slot.name);
        }
        missing
    }

    /// What a restart would bring: this replica has replayed what the slot's consumer has confirmed, it
    /// has the WAL that decoding begins with, and the leader keeps a slot for it.
    async fn can_be_brought(
        self: &Arc<Self>,
        missing: &BTreeSet<String>,
        here: &Here,
        theirs: &[SlotSeen],
    ) -> Result<Vec<String>, PgError> {
        let own = self.settings.node.slot_name();
        let held = theirs.iter().any(|slot| slot.name == own && !slot.logical && slot.active);
        let mut can = Vec::new();
        for slot in theirs.iter().filter(|slot| slot.logical && missing.contains(&slot.name)) {
            let (Some(from), Some(confirmed)) = (slot.restart, slot.at) else { continue };
            if !held || slot.lost || confirmed > here.replayed || !self.may_try(&slot.name) {
                continue;
            }
            let core = Arc::clone(self);
            let fits = blocking(move || {
                let data_dir = &core.settings.data_dir;
                Ok::<_, PgError>(has_wal_from(data_dir, from)? && core.has_room()?)
            });
            if fits.await?? {
                can.push(slot.name.clone());
            }
        }
        Ok(can)
    }

    /// PostgreSQL refuses to start with a slot too many, and with a logical one where the WAL isn't for it.
    fn has_room(&self) -> Result<bool, PgError> {
        let confs = self.confs();
        let line = &confs.of(Role::Standby).command_line;
        let most = line.get("max_replication_slots").and_then(|most| most.trim().parse().ok());
        let logical =
            line.get("wal_level").is_some_and(|level| level.trim().eq_ignore_ascii_case("logical"));
        let there = slot_file::there(&self.settings.data_dir)?.len();
        Ok(logical && most.is_some_and(|most: usize| there < most))
    }

    fn may_try(&self, name: &str) -> bool {
        let tried = lock(&self.carry.tried);
        let Some((times, last)) = tried.get(name) else { return true };
        let doubled = times.saturating_sub(2).min(MOST_DOUBLED);
        *times < 2 || last.elapsed() >= TRY_AGAIN * (1 << doubled)
    }

    fn note_tried(&self, name: &str, times: u32) {
        let mut tried = lock(&self.carry.tried);
        let (count, last) = tried.entry(name.to_owned()).or_insert((0, Instant::now()));
        if last.elapsed() > FORGOTTEN {
            *count = 0;
        }
        *count = count.saturating_add(times);
        *last = Instant::now();
    }

    /// Not past what the leader has published, nor what is replayed here. PostgreSQL reads all WAL in
    /// between; what takes longer than a look goes on by itself, and the slot is in use meanwhile.
    async fn move_on(&self, sql: &Sql, wishes: &SlotWishes, here: &Here, ours: &[SlotSeen]) {
        for slot in ours.iter().filter(|slot| slot.logical && !slot.active && !slot.lost) {
            let ignored = wishes.untouched.iter().any(|pattern| pattern.matches(slot));
            let to = wishes.advance.get(&slot.name).copied().map(|to| to.min(here.replayed));
            let (Some(to), Some(at), Some(database)) = (to, slot.at, &slot.database) else {
                continue;
            };
            if ignored || at >= to || !wishes.logical.contains_key(&slot.name) {
                continue;
            }
            let moved = async {
                let sql = Sql::local_to(&self.settings, database, BOUND).await?;
                advance(&sql, &slot.name, to).await
            };
            match moved.await {
                Ok(()) => {}
                Err(PgError::Sql { sqlstate: Some(state), words, .. })
                    if state == UNDEFINED_FILE && wishes.dropping == Dropping::Yes =>
                {
                    tracing::warn!(slot = slot.name, words, "a logical slot lacks WAL: it goes");
                    if let Err(error) = drop_slot(sql, &slot.name).await {
                        tracing::debug!(slot = slot.name, %error, "the slot could not be dropped");
                    }
                    self.note_tried(&slot.name, 1);
                }
                Err(error) => {
                    tracing::debug!(slot = slot.name, %error, "the slot could not be moved on");
                }
            }
        }
    }

    // === at a start ===

    /// Before a start as replica of a leader: puts the slots there that are missing. Gives their names.
    /// What can't be had is no reason not to start.
    pub(crate) async fn bring_slots(self: &Arc<Self>, upstream: Option<&Upstream>) -> Vec<String> {
        let Some(Upstream::Leader(leader)) = upstream else { return Vec::new() };
        if !self.carries_slots() || lock(&self.carry.wanted).is_empty() {
            return Vec::new();
        }
        let work = tokio::time::timeout(FETCH, self.bring_from(leader));
        match work.await {
            Ok(Ok(brought)) => brought,
            Ok(Err(error)) => {
                tracing::warn!(%leader, %error, "logical slots could not be brought from the leader");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(%leader, "logical slots were not to be had within {FETCH:?}");
                Vec::new()
            }
        }
    }

    async fn bring_from(self: &Arc<Self>, leader: &NodeName) -> Result<Vec<String>, PgError> {
        let core = Arc::clone(self);
        let there = blocking(move || slot_file::there(&core.settings.data_dir)).await??;
        let mut missing = lock(&self.carry.wanted).clone();
        missing.retain(|name| !there.contains(name) && self.may_try(name));
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        for name in &missing {
            self.note_tried(name, 1);
        }
        let sql = Sql::remote(&self.address(leader)?, &self.settings.rewind, FETCH).await?;
        let theirs = seen(&sql).await?;
        let mut files = Vec::new();
        for name in &missing {
            let slot = theirs.iter().find(|slot| slot.logical && slot.name == *name);
            match slot.filter(|slot| !slot.lost && !slot.in_recovery) {
                Some(_) => files.push(fetch(&sql, name).await?),
                // Nothing was tried.
                None => drop(lock(&self.carry.tried).remove(name)),
            }
        }
        let core = Arc::clone(self);
        blocking(move || core.put_slots(&files)).await?
    }

    /// Blocks.
    fn put_slots(&self, files: &[SlotFile]) -> Result<Vec<String>, PgError> {
        // A cancelled operation's thread may be here when the next one begins.
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let data_dir = &self.settings.data_dir;
        let mut put = Vec::new();
        if self.settings.rewinding_mark().exists() {
            return Ok(put);
        }
        for file in files {
            if has_wal_from(data_dir, file.restart)? && self.has_room()? {
                file.put(data_dir)?;
                tracing::info!(slot = file.name, at = %file.confirmed, "brought a logical slot");
                put.push(file.name.clone());
            }
        }
        Ok(put)
    }

    /// PostgreSQL did not start with them, and has ended: the next start is without.
    pub(crate) async fn take_slots_back(self: &Arc<Self>, brought: Vec<String>) {
        for name in &brought {
            self.note_tried(name, FAILED_START);
        }
        let core = Arc::clone(self);
        let work = blocking(move || {
            let _turn = core.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut all = brought.iter();
            all.try_for_each(|name| slot_file::take_back(&core.settings.data_dir, name))
        });
        if let Ok(Err(error)) = work.await {
            tracing::warn!(%error, "slots that were brought could not be taken back");
        }
    }
}

/// A slot's files. Its snapshots stay as long as the slot stays where it is.
async fn fetch(sql: &Sql, name: &str) -> Result<SlotFile, PgError> {
    let state = format!("pg_replslot/{name}/state");
    for _ in 0..3 {
        let bytes = read_file(sql, &state).await?.unwrap_or_default();
        let slot = SlotFile::new(name, bytes.clone()).ok_or_else(|| {
            let words = format!("{state} on the leader: not what a slot's file should be");
            PgError::failed(PgFailureKind::ToolFailed, words)
        })?;
        let list = "SELECT pg_ls_dir('pg_logical/snapshots', true, false)";
        let rows = sql.rows("listing snapshots", list, BOUND).await?;
        let places = rows.into_iter().flatten().flatten();
        let places = places.filter_map(|name| Snapshot::place(&name));
        let mut wanted: Vec<Lsn> = places.filter(|at| slot.begins_with(*at)).collect();
        wanted.sort_unstable();
        wanted.truncate(SNAPSHOTS);
        let mut snapshots = Vec::new();
        for at in wanted {
            if let Some(bytes) = read_file(sql, &Snapshot::path(at)).await? {
                snapshots.push(Snapshot { at, bytes });
            }
        }
        if read_file(sql, &state).await?.as_ref() == Some(&bytes) {
            return Ok(slot.with(snapshots));
        }
    }
    let words = format!("the slot {name} moves too fast to be read");
    Err(PgError::failed(PgFailureKind::ToolFailed, words))
}

/// `None`: it isn't there.
async fn read_file(sql: &Sql, path: &str) -> Result<Option<Vec<u8>>, PgError> {
    // The length is more than any of these files has.
    let query =
        format!("SELECT encode(pg_read_binary_file({}, 0, 16777216, true), 'hex')", literal(path));
    let rows = sql.rows("reading a slot's file", &query, BOUND).await?;
    let Some(hex) = rows.into_iter().flatten().flatten().next() else { return Ok(None) };
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    Ok((0..hex.len()).step_by(2).map(byte).collect())
}

impl Here {
    async fn read(sql: &Sql) -> Result<Self, PgError> {
        let query = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), \
            (SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming')";
        let rows = sql.rows("looking before slots", query, BOUND).await?;
        let mut cells = rows.into_iter().flatten().map(Option::unwrap_or_default);
        Ok(Self {
            in_recovery: cells.next().as_deref() == Some("t"),
            replayed: cells.next().and_then(|at| at.parse().ok()).unwrap_or_default(),
            timeline: cells.next().unwrap_or_default(),
        })
    }
}

impl Look {
    /// Another leader holds nothing for this node until it is seen to.
    fn follow(
        &mut self,
        leader: &NodeName,
        timeline: &str,
        wishes: &SlotWishes,
        ours: &[SlotSeen],
    ) {
        let under = Some((leader.clone(), timeline.to_owned()));
        if self.under != under {
            self.slots.clear();
            self.under = under;
        }
        let kept =
            ours.iter().filter(|slot| slot.logical && wishes.logical.contains_key(&slot.name));
        let kept: BTreeSet<&String> = kept.map(|slot| &slot.name).collect();
        self.slots.retain(|name, _| kept.contains(name));
        for name in kept {
            self.slots.entry(name.clone()).or_insert(Readiness::Unheld);
        }
    }

    /// `own`: this node's physical slot on the leader.
    fn judge(&mut self, own: &str, ours: &[SlotSeen], theirs: &[SlotSeen]) {
        let xmin_in = |all: &[SlotSeen], name: &str| {
            all.iter().find(|slot| slot.name == name).and_then(|slot| slot.catalog_xmin)
        };
        let held = xmin_in(theirs, own);
        for (name, readiness) in &mut self.slots {
            let here = xmin_in(ours, name);
            let next = readiness.next(held, xmin_in(theirs, name), here);
            if next == Readiness::Ready && *readiness != next {
                tracing::info!(slot = name, "a logical slot is fit to be used after a promotion");
            }
            *readiness = next;
        }
    }

    fn tell_promoted(&self, ours: &[SlotSeen]) {
        let unready = |slot: &&SlotSeen| {
            self.slots.get(&slot.name).is_some_and(|readiness| *readiness != Readiness::Ready)
        };
        for slot in ours.iter().filter(unready) {
            tracing::warn!(
                slot = slot.name,
                "this logical slot might be unsafe to use after the promotion: rows of catalogs that its \
                 decoding needs may have been removed before the former leader knew to keep them"
            );
        }
    }

    /// One replica at a time.
    async fn take_turn(&mut self, leaders: Sql, can: Vec<String>) -> Result<Carried, PgError> {
        if let Some(turn) = &self.turn {
            if turn.since.elapsed() > TURN_UNUSED {
                self.turn = None;
                return Ok(Carried::Settled);
            }
            return Ok(Carried::WantsRestart(can));
        }
        let query = format!("SELECT pg_try_advisory_lock({TURN})");
        if leaders.cell("taking the turn to restart", &query, BOUND).await? != "t" {
            return Ok(Carried::Settled);
        }
        self.turn = Some(Turn { _sql: leaders, since: Instant::now() });
        tracing::info!(slots = ?can, "a restart would bring logical slots from the leader");
        Ok(Carried::WantsRestart(can))
    }
}

impl Readiness {
    /// `held`: from where the leader keeps rows for this node; `theirs` and `here`: from where the
    /// slot's decoding needs them there and here.
    fn next(self, held: Option<Xid>, theirs: Option<Xid>, here: Option<Xid>) -> Self {
        let Some(held) = held else {
            return if self == Self::Ready { self } else { Self::Unheld };
        };
        let from = match (self, theirs) {
            (Self::Ready, _) => return self,
            (Self::HeldFrom(from), _) => from,
            (Self::Unheld, Some(theirs)) if theirs.reaches(held) => theirs,
            (Self::Unheld, Some(_)) => held,
            (Self::Unheld, None) => return self,
        };
        match here {
            Some(here) if here.reaches(from) => Self::Ready,
            Some(_) | None => Self::HeldFrom(from),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Readiness, Xid};

    #[test]
    fn a_slot_is_ready_behind_what_the_leader_held_when_it_began_to_hold() {
        let xid = |number| Some(Xid(number));
        let unheld = Readiness::Unheld;
        assert_eq!(unheld.next(None, xid(10), xid(10)), Readiness::Unheld);
        assert_eq!(unheld.next(xid(10), xid(10), xid(10)), Readiness::Ready);
        // The leader's slot had moved on before anything was held: rows of 10 to 14 may be gone.
        let held = unheld.next(xid(10), xid(15), xid(10));
        assert_eq!(held, Readiness::HeldFrom(Xid(15)));
        assert_eq!(held.next(xid(12), xid(20), xid(14)), held);
        assert_eq!(held.next(xid(12), xid(20), xid(15)), Readiness::Ready);
        // It holds for other slots that are further: not for this one.
        assert_eq!(unheld.next(xid(18), xid(15), xid(15)), Readiness::HeldFrom(Xid(18)));
        assert_eq!(held.next(None, xid(15), xid(15)), Readiness::Unheld);
        assert_eq!(unheld.next(xid(10), None, xid(10)), Readiness::Unheld);
        // Numbers come in turns.
        assert!(Xid(5).reaches(Xid(u32::MAX - 5)) && !Xid(u32::MAX - 5).reaches(Xid(5)));
    }
}
