//! A replica that is about to stop in order, for a shutdown, a restart or a new copy, first gets the
//! leader to take it off the list, so that no commit waits for it (contract 3.9). It says so by a
//! `nosync` tag in its member key, which a Patroni leader heeds as well, and waits with a bound.
//! Leaves the change of the list, and its order, to `list`.

use crate::Duration;
use crate::node::Node;
use crate::reason::Reason;
use crate::state::{Leaving, RestartStage};

/// The leader needs half a second to hand this node's part to another, and two seconds when it has
/// to give up waiting for anybody.
const BOUND: Duration = Duration::secs(3);
/// A Patroni leader looks each `loop_wait`, 10 s by default.
const PATRONI: Duration = Duration::secs(15);

impl Node {
    /// Since when this node is about to stop.
    pub(crate) fn note_leaving(&mut self) {
        let restarts = self.restart.is_some_and(|restart| match restart.stage {
            RestartStage::Asked | RestartStage::Stopping => true,
            RestartStage::Stopped | RestartStage::Starting => false,
        });
        let leaves = self.shutdown.is_some() || restarts || self.reinitialize;
        if self.reign.is_some() || !leaves {
            self.leaving = None;
        } else if self.leaving.is_none() {
            self.leaving = Some(Leaving { since: self.now, in_vain: false });
        }
    }

    /// PostgreSQL may be stopped: no commit waits for it, or it has waited for long enough.
    pub(crate) fn may_leave(&mut self) -> bool {
        let Some(leaving) = self.leaving else { return true };
        if !self.commits_wait_for_me() {
            return true;
        }
        let bound = if self.view.foreign_leader() { PATRONI } else { BOUND };
        let in_vain = self.passed(leaving.since, bound);
        self.leaving = Some(Leaving { in_vain, ..leaving });
        in_vain
    }

    /// What is said while it waits and stops.
    pub(crate) fn leaving_or(&self, usual: Reason) -> Reason {
        match self.leaving {
            Some(Leaving { in_vain: true, .. }) => Reason::LeftListed,
            Some(Leaving { in_vain: false, .. })
                if self.running().is_some() && self.op.is_none() =>
            {
                Reason::Leaving
            }
            Some(Leaving { in_vain: false, .. }) | None => usual,
        }
    }

    /// `sync` or the leader's list names this node, and there is a leader that could change that.
    fn commits_wait_for_me(&self) -> bool {
        let streams = self.replica().is_some_and(|replica| replica.streaming);
        let policy = self.policy();
        let (true, true, false) = (streams, policy.synchronous(), policy.pause) else {
            return false;
        };
        let Some(leader) = self.other_leader() else { return false };
        let said = self.fresh(leader, Duration::secs(1));
        if said.is_some_and(|beat| !beat.electable) {
            // It stops too, or may not lead for long: the list stays.
            return false;
        }
        let me = &self.config.name;
        let votes = self.view.sync.as_ref().is_some_and(|sync| sync.value.voters.contains_key(me));
        votes || said.is_some_and(|beat| beat.waits_for.contains(me))
    }
}
