//! PostgreSQL stops in order and starts where it is, because an operator asked: to load a parameter,
//! or after a new binary. A leader keeps the key meanwhile, and comes back under a new term. A replica
//! is also restarted for logical slots that only a start can bring it, but at leisure: not where
//! anything else goes on, and not while another voter is away.
//! Leaves which conditions an operator sets, and when, to the shell; a start that fails is treated
//! like any other.

use crate::Duration;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{PgOp, PgState, Upstream};
use crate::reason::Reason;
use crate::state::{Pg, Restart, RestartCause, RestartStage};

/// A PostgreSQL that is still going down after this is killed.
const STOP: Duration = Duration::secs(60);

impl Node {
    /// Notes the wish; one that is under way is that wish.
    pub(crate) fn ask_restart(&mut self) {
        let cause = RestartCause::Operator;
        match &mut self.restart {
            Some(restart) => restart.cause = cause,
            None => {
                let (since, stage) = (self.now, RestartStage::Asked);
                self.restart = Some(Restart { since, stage, cause });
            }
        }
    }

    /// Takes the offer to restart for slots, or doesn't: it comes again.
    pub(crate) fn offer_restart(&mut self) {
        if self.restart.is_none() && self.has_leisure() {
            let (since, stage) = (self.now, RestartStage::Asked);
            self.restart = Some(Restart { since, stage, cause: RestartCause::Slots });
        }
    }

    /// A replica that streams from the leader, with nothing else to do, and that nobody could miss: no
    /// pledge, hold, election, switchover, pause or operation, and every other voter streams.
    fn has_leisure(&self) -> bool {
        let Some(leader) = self.other_leader() else { return false };
        let from_leader = Upstream::Leader(leader.clone());
        let streams = self.replica().is_some_and(|replica| {
            replica.streaming && replica.upstream.as_ref() == Some(&from_leader)
        });
        let ready = self.ready_beat().is_some_and(|beat| beat.timeline == self.timeline());
        let bound = self.durable.promise.is_some() || self.asked.is_some() || self.holds();
        let stands = self.candidacy.is_some() || self.reign.is_some() || self.deciding();
        let busy = self.op.is_some() || self.kill.is_some();
        let ends = self.shutdown.is_some() || self.reinitialize;
        streams
            && ready
            && !(bound || stands || busy || ends)
            && !self.policy().pause
            && self.view.failover.is_none()
            && self.other_voters_stream()
    }

    fn other_voters_stream(&self) -> bool {
        let Some(sync) = self.view.sync.as_ref().map(|sync| &sync.value) else { return true };
        let others = sync
            .voters
            .keys()
            .filter(|name| **name != self.config.name && Some(*name) != self.other_leader());
        let streams = |name| {
            let peer = self.heard(name, Duration::secs(1));
            peer.is_some_and(|peer| peer.beat.pg == PeerPg::Replica { streaming: true })
        };
        others.into_iter().all(streams)
    }

    /// How far it has come, whatever else happens meanwhile.
    pub(crate) fn follow_restart(&mut self) {
        let Some(Restart { since, stage, cause }) = self.restart else { return };
        if (cause, stage) == (RestartCause::Slots, RestartStage::Asked) && !self.has_leisure() {
            self.restart = None;
            return;
        }
        let patience = STOP + STOP + self.policy().primary_start_timeout;
        if self.shutdown.is_some() || self.passed(since, patience) {
            return self.end_restart(Ended::Failed);
        }
        let Some(state) = self.pg_facts().map(|facts| &facts.state) else { return };
        if stage == RestartStage::Starting {
            if matches!(state, PgState::Running(_)) {
                self.end_restart(Ended::Done);
            }
            return;
        }
        if self.op.is_some() || self.kill.is_some() {
            return;
        }
        match (stage, state) {
            (RestartStage::Asked | RestartStage::Stopping, PgState::Stopped(_)) => {
                self.restart = Some(Restart { since, stage: RestartStage::Stopped, cause });
            }
            (RestartStage::Stopping, PgState::NotAccepting(_) | PgState::Unresponsive { .. }) => {
                if self.passed(since, STOP) {
                    self.kill_now();
                }
            }
            // The stop failed, or the data is gone.
            (
                RestartStage::Stopping | RestartStage::Stopped,
                PgState::Running(_) | PgState::Absent | PgState::Broken(_),
            ) => self.end_restart(Ended::Failed),
            (
                RestartStage::Stopped,
                PgState::Stopped(_) | PgState::NotAccepting(_) | PgState::Unresponsive { .. },
            )
            | (
                RestartStage::Asked,
                PgState::Absent
                | PgState::Broken(_)
                | PgState::Running(_)
                | PgState::NotAccepting(_)
                | PgState::Unresponsive { .. },
            )
            | (RestartStage::Starting, _) => {}
        }
    }

    /// Begins it and waits for the stop. `None`: nothing is asked, or what is left is an ordinary
    /// start.
    pub(crate) fn plan_restart(&mut self) -> Option<Reason> {
        match self.restart?.stage {
            RestartStage::Asked => self.begin_restart(),
            RestartStage::Stopping => {
                let ended_alone = self.pg == Pg::Exited && self.op.is_none();
                if ended_alone {
                    self.kill_now();
                }
                Some(self.leaving_or(Reason::Restarting))
            }
            // A leader goes on in a new term: nothing that was said in the old one, and may still be
            // on its way, speaks for what starts now.
            RestartStage::Stopped if self.reign.as_ref().is_some_and(|it| it.was_primary) => {
                self.begin_anew();
                Some(Reason::Restarting)
            }
            RestartStage::Stopped => {
                let restart = self.restart?;
                self.restart = Some(Restart { stage: RestartStage::Starting, ..restart });
                None
            }
            RestartStage::Starting => None,
        }
    }

    fn begin_restart(&mut self) -> Option<Reason> {
        self.running()?;
        // A leader that isn't primary yet becomes that first.
        if self.reign.as_ref().is_some_and(|reign| !reign.was_primary && !reign.standby) {
            return None;
        }
        if !self.may_leave() {
            return Some(Reason::Leaving);
        }
        if !self.start_op(PgOp::Stop) {
            return None;
        }
        let since = self.now;
        let cause = self.restart?.cause;
        self.restart = Some(Restart { since, stage: RestartStage::Stopping, cause });
        if let Some(reign) = &mut self.reign {
            // New clients wait for the restart, rather than fail in it.
            reign.serving = false;
            reign.next_beat = since;
        }
        Some(self.leaving_or(Reason::Restarting))
    }

    /// A start failed while it was the restart's.
    pub(crate) fn note_failed_start(&mut self) {
        if self.restart.is_some_and(|restart| restart.stage == RestartStage::Starting) {
            self.end_restart(Ended::Failed);
        }
    }

    fn end_restart(&mut self, how: Ended) {
        self.restart = None;
        match how {
            Ended::Done => self.restarts.done += 1,
            Ended::Failed => self.restarts.failed += 1,
        }
    }
}

#[derive(Clone, Copy)]
enum Ended {
    Done,
    Failed,
}

#[cfg(test)]
mod tests;
