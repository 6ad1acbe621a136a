//! The operator: asks for what people ask for, at bad moments too.

use pgherd_core::cluster::{FailoverRequest, Key, Value};
use pgherd_core::{Input, Tags};

use crate::event::{Event, Ix};
use crate::faults::Family;
use crate::world::{World, note};

impl World {
    /// The next whim.
    pub(crate) fn operator(&mut self) {
        if !self.faults.on {
            return;
        }
        let next = self.rng.between(3_000_000, 60_000_000);
        self.queue.after(next, Event::Operator);
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(10) {
            0..=4 => {
                let member = self.rng.permille(700).then_some(node);
                let stale = self.rng.permille(100);
                let leader = if stale { Some(node) } else { self.leader() };
                self.ask_failover(leader, member);
                if let Some(leader) = leader.filter(|_| self.rng.permille(300)) {
                    let lasts = self.rng.between(500_000, 8_000_000);
                    self.strike(Family::CutPg, leader, lasts);
                }
            }
            5 => self.pause(true),
            6 => {
                self.stats.sometimes.shutdown += 1;
                note!(self, "operator: stop n{}", node + 1);
                self.tell_agent(node, 1_000, Input::Shutdown);
            }
            7 => {
                self.stats.sometimes.agent_crash += 1;
                note!(self, "operator: restart the agent of n{}", node + 1);
                self.agent_crash(node);
                let delay = self.rng.between(50_000, 400_000);
                self.queue.after(delay, Event::AgentStart { node });
            }
            8 => {
                if self.leader().is_some_and(|leader| leader != node) {
                    self.reinitialize(node);
                } else {
                    self.restart(node);
                }
            }
            _ => self.pause(false),
        }
    }

    /// A node's file has other tags, and its agent reads them.
    pub(crate) fn retag(&mut self, node: Ix, tags: Tags) {
        note!(self, "operator: n{} {tags:?}", node + 1);
        self.options.tags[node] = tags.clone();
        self.tell_agent(node, 1_000, Input::Tags(tags));
    }

    pub(crate) fn reinitialize(&mut self, node: Ix) {
        self.stats.sometimes.reinitialize += 1;
        note!(self, "operator: reinitialize n{}", node + 1);
        self.tell_agent(node, 1_000, Input::Reinitialize);
    }

    pub(crate) fn restart(&mut self, node: Ix) {
        self.stats.sometimes.restart += 1;
        note!(self, "operator: restart n{}", node + 1);
        self.tell_agent(node, 1_000, Input::Restart);
    }

    /// Writes the request as the API would. Without a leader it asks for a failover.
    pub(crate) fn ask_failover(&mut self, leader: Option<Ix>, member: Option<Ix>) {
        if leader.is_none() && member.is_none() {
            return;
        }
        self.stats.sometimes.switchover += u64::from(leader.is_some());
        let name = |ix: Ix| self.names[ix].clone();
        let request = FailoverRequest { leader: leader.map(name), member: member.map(name) };
        note!(self, "operator: {request:?}");
        self.operator_writes(&Key::Failover, Value::Failover(Some(request)));
    }

    pub(crate) fn pause(&mut self, pause: bool) {
        let Some(config) = self.store.view().config.as_ref() else { return };
        let was = config.value.pause;
        if was == pause {
            return;
        }
        let mut policy = config.value.clone();
        policy.pause = pause;
        self.stats.sometimes.paused += u64::from(pause);
        note!(self, "operator: pause {pause}");
        if was {
            self.ledger.operator_until = self.queue.now + 2 * self.ttl().0;
        }
        self.operator_writes(&Key::Config, Value::Config(policy));
    }
}
