//! Physical slots for the nodes that stream from here. Only slots that pgherd made are ever dropped:
//! Patroni's names have no prefix to know them by, so what was made is written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgherd_core::NodeName;

use super::QUICK;
use crate::PgError;
use crate::durable::{read_durable, write_durable};
use crate::facts::blocking;
use crate::server::Core;
use crate::sql::literal;

impl Core {
    pub(super) async fn ensure_slots(self: &Arc<Self>, nodes: &[NodeName]) -> Result<(), PgError> {
        self.running()?;
        let sql = self.sql().await?;
        let wanted: BTreeSet<String> = nodes.iter().map(NodeName::slot_name).collect();
        let mut made = self.made().await?;
        let query = "SELECT slot_name, active, coalesce(wal_status = 'lost', false) \
            FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary";
        let mut there = BTreeSet::new();
        for row in sql.rows("reading slots", query, QUICK).await? {
            let cell = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
            let (name, active, lost) = (cell(0), cell(1) == "t", cell(2) == "t");
            let unwanted = !wanted.contains(name) || lost;
            if unwanted && !active && made.contains(name) {
                let drop = format!("SELECT pg_drop_replication_slot({})", literal(name));
                sql.rows("dropping a slot", &drop, QUICK).await?;
            } else {
                there.insert(name.to_owned());
            }
        }
        made.retain(|name| there.contains(name));
        let missing: Vec<_> = wanted.difference(&there).cloned().collect();
        // Written down first: a slot that was made and forgotten would stay for ever.
        made.extend(missing.iter().cloned());
        self.write_made(&made).await?;
        for name in missing {
            let create =
                format!("SELECT pg_create_physical_replication_slot({}, true)", literal(&name));
            sql.rows("creating a slot", &create, QUICK).await?;
        }
        Ok(())
    }

    async fn made(self: &Arc<Self>) -> Result<BTreeSet<String>, PgError> {
        let path = self.settings.slots_file();
        let text = blocking(move || read_durable(&path)).await??.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    async fn write_made(self: &Arc<Self>, made: &BTreeSet<String>) -> Result<(), PgError> {
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
