//! When the wanted slots may be others, and what is said of those that were seen.
//! Leaves which are wanted to `crate::slots`.

use pgherd_postgres::SlotSeen;

use super::Agent;
use crate::clock;
use crate::configuration::Leads;

impl Agent {
    /// Slots follow the members, and the node's part in the cluster.
    pub(super) fn wish_slots(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let leads = if self.node.leads().is_some() { Leads::Yes } else { Leads::No };
        let below = &self.cascading;
        if let Some(wishes) = self.slots.wishes(cluster, &self.name, leads, below, clock::now()) {
            self.postgres.want_slots(wishes);
        }
    }

    /// Who says that it comes to stream from this replica finds its slot.
    pub(super) fn notice_cascading(&mut self) {
        let below = self.node.cascading();
        if below != self.cascading {
            self.cascading = below;
            self.wish_slots();
        }
    }

    /// The leader says where its slots stand; whoever leads next goes on with what was said.
    pub(super) fn on_slots(&mut self, seen: &[SlotSeen]) {
        let Some(cluster) = &self.cluster else { return };
        if self.node.leads().is_some() {
            self.store.say_slots(self.slots.status(cluster, &self.name, seen));
        }
        // Who is gone for long enough is nobody's news: the time itself is.
        self.wish_slots();
    }
}
