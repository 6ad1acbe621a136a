//! Physical slots for the nodes that stream from here, before they come. Slots that nobody wants any
//! more are `slots`' business.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgherd_core::NodeName;

use crate::PgError;
use crate::server::Core;
use crate::slots::{create_physical, drop_slot};
use crate::wanted::MemberSlots;

impl Core {
    pub(super) async fn ensure_slots(self: &Arc<Self>, nodes: &[NodeName]) -> Result<(), PgError> {
        self.running()?;
        if self.confs().primary.member_slots == MemberSlots::Unused {
            return Ok(());
        }
        // One at a time with the keeping of slots, over its connection: a promotion waits for this.
        let mut kept = self.slots.lock().await;
        let (sql, slots) = self.see_slots(kept.take()).await?;
        let wanted: BTreeSet<String> = nodes.iter().map(NodeName::slot_name).collect();
        let mut there = BTreeSet::new();
        for slot in slots {
            if slot.lost && !slot.active && wanted.contains(&slot.name) {
                drop_slot(&sql, &slot.name).await?;
            } else {
                there.insert(slot.name);
            }
        }
        // Written down first: a slot that was made and forgotten would stay for ever.
        let mut made = self.made_slots().await?;
        made.extend(wanted.iter().cloned());
        self.write_made_slots(&made).await?;
        for name in wanted.difference(&there) {
            create_physical(&sql, name).await?;
        }
        *kept = Some(sql);
        Ok(())
    }
}
