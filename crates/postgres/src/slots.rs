//! Replication slots as somebody wants them on this server: made, moved on while nobody uses them,
//! and gone when nobody wants them. Only slots that pgherd made, or that have the name of one it
//! wants, are ever dropped: Patroni's names have no prefix to know them by, so what was made is
//! written down. Leaves which slots to the caller, and those that a new follower needs at once to
//! [`pgherd_core::postgres::PgOp::EnsureSlots`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pgherd_core::{Instance, Lsn};

use crate::durable::{read_durable, write_durable};
use crate::facts::blocking;
use crate::server::Core;
use crate::sql::{Row, Sql, literal};
use crate::{PgError, files};

/// Dropping and moving wait for a process that holds the slot.
const BOUND: Duration = Duration::from_secs(5);
/// Everything about all slots. Columns that a version lacks are read through JSON.
const QUERY: &str = "SELECT slot_name, slot_type, active, coalesce(wal_status = 'lost', false), \
    CASE WHEN slot_type = 'logical' THEN confirmed_flush_lsn ELSE restart_lsn END, \
    xmin IS NOT NULL OR catalog_xmin IS NOT NULL, \
    coalesce((to_jsonb(s) ->> 'synced')::bool, false), pg_is_in_recovery(), plugin, database, \
    restart_lsn, catalog_xmin \
    FROM pg_replication_slots AS s WHERE NOT temporary";

/// The slots that are wanted on this server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotWishes {
    /// Physical slots that must be there.
    pub physical: BTreeSet<String>,
    /// Physical slots that must be there while the data directory has that life: in another one, who
    /// streams through them must find nothing.
    pub cascading: BTreeMap<String, Instance>,
    /// Logical slots that must be there while this server is primary. Before PostgreSQL 17 a standby
    /// has them too, as soon as it can ([`crate::Server::carry_slots`]).
    pub logical: BTreeMap<String, LogicalSlot>,
    /// How far slots that nobody uses are moved on.
    pub advance: BTreeMap<String, Lsn>,
    /// Slots that are nobody's business (`ignore_slots`).
    pub untouched: Vec<SlotPattern>,
    /// Whether what nobody wants goes.
    pub dropping: Dropping,
}

/// Whether slots are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dropping {
    /// Not now: management is paused.
    #[default]
    No,
    /// Those that pgherd made.
    Yes,
}

/// A logical slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalSlot {
    /// Its database.
    pub database: String,
    /// Its output plugin.
    pub plugin: String,
}

/// What a slot must be like to match; `None` matches everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotPattern {
    /// Its name.
    pub name: Option<String>,
    /// `physical` or `logical`.
    pub kind: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its output plugin.
    pub plugin: Option<String>,
}

/// A slot as it was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotSeen {
    /// Its name.
    pub name: String,
    /// It is a logical one.
    pub logical: bool,
    /// `restart_lsn`, or `confirmed_flush_lsn` of a logical one.
    pub at: Option<Lsn>,
    /// Somebody uses it.
    pub active: bool,
    /// The WAL that it should hold is gone.
    pub(crate) lost: bool,
    holds_xmin: bool,
    synced: bool,
    pub(crate) in_recovery: bool,
    plugin: Option<String>,
    pub(crate) database: Option<String>,
    /// `restart_lsn`.
    pub(crate) restart: Option<Lsn>,
    pub(crate) catalog_xmin: Option<Xid>,
}

/// A transaction's number, of 32 bits that are used in turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Xid(pub(crate) u32);

impl Xid {
    /// Half of all numbers come before each, the others behind it.
    pub(crate) fn reaches(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) < 1 << 31
    }
}

impl SlotSeen {
    fn new(row: &Row) -> Option<Self> {
        let cell = |at: usize| row.get(at).and_then(Option::as_deref);
        let yes = |at: usize| cell(at) == Some("t");
        Some(Self {
            name: cell(0)?.to_owned(),
            logical: cell(1) == Some("logical"),
            active: yes(2),
            lost: yes(3),
            at: cell(4).and_then(|text| text.parse().ok()),
            holds_xmin: yes(5),
            synced: yes(6),
            in_recovery: yes(7),
            plugin: cell(8).map(str::to_owned),
            database: cell(9).map(str::to_owned),
            restart: cell(10).and_then(|text| text.parse().ok()),
            catalog_xmin: cell(11).and_then(|text| text.parse().ok()).map(Xid),
        })
    }

    /// A slot that can't serve any more: its WAL is gone (a primary's logical one is its consumer's
    /// business), somebody made it without a position, or, in recovery, it still holds back what a
    /// follower of former days needed.
    fn is_useless(&self, wishes: &SlotWishes) -> bool {
        if self.logical {
            return self.in_recovery && self.lost;
        }
        let former = self.in_recovery && !wishes.cascading.contains_key(&self.name);
        self.lost || self.at.is_none() || (former && self.holds_xmin)
    }
}

impl SlotPattern {
    pub(crate) fn matches(&self, slot: &SlotSeen) -> bool {
        let kind = if slot.logical { "logical" } else { "physical" };
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        fits(&self.name, Some(&slot.name))
            && fits(&self.kind, Some(kind))
            && fits(&self.database, slot.database.as_deref())
            && fits(&self.plugin, slot.plugin.as_deref())
    }
}

impl Core {
    /// Brings the slots to what is wanted. Gives what was there before.
    pub(crate) async fn keep_slots(
        self: &Arc<Self>,
        wishes: &SlotWishes,
    ) -> Result<Vec<SlotSeen>, PgError> {
        let mut kept = self.slots.lock().await;
        let (sql, seen) = self.see_slots(kept.take()).await?;
        // Read with a connection to the server at hand: in another life that is gone.
        let core = Arc::clone(self);
        let instance = blocking(move || files::instance(&core.settings)).await??;
        let mut wishes = wishes.clone();
        let alike = wishes.cascading.iter().filter(|(_, life)| **life == instance);
        wishes.physical.extend(alike.map(|(name, _)| name.clone()));
        let wishes = &wishes;
        let gone = self.drop_slots(&sql, wishes, &seen).await?;
        let there = |name: &str| seen.iter().any(|slot| slot.name == name && !gone.contains(name));
        for name in wishes.physical.iter().filter(|name| !there(name)) {
            create_physical(&sql, name).await?;
        }
        let primary = match seen.first() {
            Some(slot) => !slot.in_recovery,
            None => is_primary(&sql).await?,
        };
        if primary {
            for (name, slot) in wishes.logical.iter().filter(|(name, _)| !there(name)) {
                self.create_logical(name, slot).await?;
            }
        }
        for slot in seen.iter().filter(|slot| !slot.logical && !slot.active) {
            let to = wishes.advance.get(&slot.name).copied();
            if let (Some(to), Some(at)) = (to, slot.at)
                && at < to
                && there(&slot.name)
            {
                advance(&sql, &slot.name, to).await?;
            }
        }
        *kept = Some(sql);
        Ok(seen)
    }

    /// Over the connection of last time, or another when the server is another by now.
    pub(crate) async fn see_slots(
        &self,
        kept: Option<Sql>,
    ) -> Result<(Sql, Vec<SlotSeen>), PgError> {
        if let Some(sql) = kept
            && let Ok(seen) = seen(&sql).await
        {
            return Ok((sql, seen));
        }
        let sql = Sql::local(&self.settings, BOUND).await?;
        let seen = seen(&sql).await?;
        Ok((sql, seen))
    }

    /// Drops what nobody wants and what is useless, and writes down what is ours from now on.
    async fn drop_slots(
        self: &Arc<Self>,
        sql: &Sql,
        wishes: &SlotWishes,
        seen: &[SlotSeen],
    ) -> Result<BTreeSet<String>, PgError> {
        let mut made = self.made_slots().await?;
        let mut gone = BTreeSet::new();
        for slot in seen {
            let ignored = wishes.untouched.iter().any(|pattern| pattern.matches(slot));
            let wanted = if slot.logical {
                // From PostgreSQL 17 a standby's own logical slot is stale, and in the way of the one
                // that is kept in step with the primary's.
                let stale = slot.in_recovery && !slot.synced && !self.carries_slots();
                wishes.logical.contains_key(&slot.name) && !stale
            } else {
                wishes.physical.contains(&slot.name)
            };
            let ours = made.contains(&slot.name) || (wanted && !slot.logical);
            let end = !wanted || slot.is_useless(wishes);
            let may = wishes.dropping == Dropping::Yes && !ignored && !slot.active && !slot.synced;
            if ours && end && may {
                tracing::info!(slot = slot.name, lost = slot.lost, wanted, "dropping a slot");
                drop_slot(sql, &slot.name).await?;
                gone.insert(slot.name.clone());
            }
        }
        // Written down first: a slot that was made and forgotten would stay for ever.
        made.retain(|name| seen.iter().any(|slot| slot.name == *name) && !gone.contains(name));
        made.extend(wishes.physical.iter().chain(wishes.logical.keys()).cloned());
        self.write_made_slots(&made).await?;
        Ok(gone)
    }

    async fn create_logical(&self, name: &str, slot: &LogicalSlot) -> Result<(), PgError> {
        let sql = Sql::local_to(&self.settings, &slot.database, BOUND).await?;
        // PostgreSQL 17 keeps such a slot on standbys too, where `sync_replication_slots` is on.
        let failover = if self.settings.bin.major >= 17 { ", failover => true" } else { "" };
        let create = format!(
            "SELECT pg_create_logical_replication_slot({}, {}{failover})",
            literal(name),
            literal(&slot.plugin)
        );
        sql.rows("creating a logical slot", &create, BOUND).await?;
        tracing::warn!(
            slot = name,
            "a logical slot was made; a consumer that had it elsewhere misses what came before"
        );
        Ok(())
    }

    /// Names of the slots that pgherd made here.
    pub(crate) async fn made_slots(self: &Arc<Self>) -> Result<BTreeSet<String>, PgError> {
        let path = self.settings.slots_file();
        let text = blocking(move || read_durable(&path)).await??.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    pub(crate) async fn write_made_slots(
        self: &Arc<Self>,
        made: &BTreeSet<String>,
    ) -> Result<(), PgError> {
        let path = self.settings.slots_file();
        let text: String = made.iter().map(|name| format!("{name}\n")).collect();
        blocking(move || {
            if read_durable(&path)?.unwrap_or_default() == text.as_bytes() {
                return Ok(());
            }
            write_durable(&path, text.as_bytes())
        })
        .await?
    }
}

/// The slots of a server.
pub(crate) async fn seen(sql: &Sql) -> Result<Vec<SlotSeen>, PgError> {
    let rows = sql.rows("reading slots", QUERY, BOUND).await?;
    Ok(rows.iter().filter_map(SlotSeen::new).collect())
}

async fn is_primary(sql: &Sql) -> Result<bool, PgError> {
    let query = "SELECT pg_is_in_recovery()";
    Ok(sql.cell("reading the role", query, BOUND).await? == "f")
}

pub(crate) async fn create_physical(sql: &Sql, name: &str) -> Result<(), PgError> {
    let create = format!("SELECT pg_create_physical_replication_slot({}, true)", literal(name));
    sql.rows("creating a slot", &create, BOUND).await.map(|_| ())
}

pub(crate) async fn drop_slot(sql: &Sql, name: &str) -> Result<(), PgError> {
    let drop = format!("SELECT pg_drop_replication_slot({})", literal(name));
    sql.rows("dropping a slot", &drop, BOUND).await.map(|_| ())
}

/// Not past what this server has itself.
pub(crate) async fn advance(sql: &Sql, name: &str, to: Lsn) -> Result<(), PgError> {
    let query = format!(
        "SELECT pg_replication_slot_advance({}, least('{to}'::pg_lsn, CASE \
         WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END))",
        literal(name)
    );
    sql.rows("moving a slot on", &query, BOUND).await.map(|_| ())
}
