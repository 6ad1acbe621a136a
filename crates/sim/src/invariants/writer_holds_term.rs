//! Whoever can acknowledge holds a term, and its deadline has not passed.

use super::Rule;
use crate::event::Ix;
use crate::world::World;

const RULE: Rule = Rule {
    name: "writer_holds_term",
    sentence: "a PostgreSQL that can take commits has a term, and lives no longer than the ttl after the sending of its last proof",
};

/// What a guard may need, and the moment that a look takes.
const THAW: u64 = 150_000;

/// A PostgreSQL became primary.
pub(crate) fn check_reign(world: &mut World, node: Ix) {
    if world.nodes[node].pg.term.is_none() {
        world.broken(RULE, format!("n{} is primary without a term", node + 1));
    }
}

impl World {
    /// Looks whether a writable PostgreSQL has outlived its term's proof.
    pub(crate) fn check_belief(&mut self, node: Ix) {
        let paused = self.believes_in_pause(node);
        let machine = &self.nodes[node];
        let absent = machine.frozen || !machine.up || self.is_patroni(node);
        if paused || !machine.pg.writable() || absent {
            return;
        }
        let paused = self.store.view().config.as_ref().is_some_and(|c| c.value.pause);
        let thawed = machine.thawed_at > 0 && self.queue.now - machine.thawed_at < THAW;
        if paused || thawed || self.queue.now < self.ledger.operator_until {
            return;
        }
        let now = machine.clock.at(self.queue.now);
        let Some(deadline) = self.belief_ends(node) else {
            let found = format!("n{} can take commits and never had a term", node + 1);
            return self.broken(RULE, found);
        };
        let failsafe = self.store_ends(node).is_some_and(|end| now > end);
        self.stats.sometimes.failsafe += u64::from(failsafe);
        if now > deadline {
            let late = now.since(deadline);
            let found = format!("n{} can take commits {late} after its belief ended", node + 1);
            self.broken(RULE, found);
        }
    }
}
