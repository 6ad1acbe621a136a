//! A planned change of leader: stop PostgreSQL in order, see that the candidate has everything,
//! hand the key over. Until the hand-over is sent it can be called off, after that never.

use crate::cluster::Compare;
use crate::cluster::{FailoverRequest, Key, Op, Purpose, ReignEnd, Value};
use crate::disk::Ailment;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{ControlState, PgOp, PgState, SenderFacts};
use crate::reason::{Reason, Situation, SwitchoverRefusal};
use crate::state::HandOver;
use crate::{Duration, Lsn, NodeName, Time};

/// A candidate that did not get the last record within this time doesn't get the key.
const CATCH_UP: Duration = Duration::secs(10);
/// How often a candidate with a Patroni agent is asked how far it is.
const ASK: Duration = Duration::millis(200);
/// A PostgreSQL that is still going down after this is killed.
const STOP: Duration = Duration::secs(60);

impl Node {
    /// Begins what the `failover` key asks for, or clears a request that can't be fulfilled.
    pub(crate) fn plan_switchover(&mut self) -> Option<(Situation, Reason)> {
        let request = self.view.failover.as_ref()?.value.clone();
        if self.op.is_some() || self.in_flight(Purpose::ClearFailover) > 0 || self.view_lags() {
            return None;
        }
        match self.judge(&request) {
            Ok(to) if self.policy().standby => Some((Situation::Switchover, self.let_go_for(to))),
            Ok(to) => {
                self.begin_handover(to.clone());
                Some((Situation::Switchover, Reason::SwitchoverStopping(to)))
            }
            Err(why) => {
                self.clear_failover();
                Some((Situation::Switchover, Reason::SwitchoverRefused(why)))
            }
        }
    }

    pub(crate) fn begin_handover(&mut self, to: NodeName) {
        let since = self.now;
        if let Some(reign) = &mut self.reign {
            reign.handover = Some(HandOver { to, since });
        }
        self.start_op(PgOp::Stop);
    }

    fn clear_failover(&mut self) {
        let compare = vec![Compare::Modified(Key::Failover, self.view.modified(&Key::Failover))];
        let put = Op::Put(Key::Failover, Value::Failover(None), None);
        self.txn(Purpose::ClearFailover, compare, vec![put]);
    }

    fn judge(&self, request: &FailoverRequest) -> Result<NodeName, SwitchoverRefusal> {
        if request.leader.as_ref().is_some_and(|l| *l != self.config.name) {
            return Err(SwitchoverRefusal::NotTheLeader);
        }
        match &request.member {
            Some(to) if *to == self.config.name => Err(SwitchoverRefusal::AlreadyLeader),
            Some(to) if !self.view.members.contains_key(to) => {
                Err(SwitchoverRefusal::UnknownCandidate)
            }
            Some(to) if self.policy().standby && self.follows_me(to) => Ok(to.clone()),
            Some(to) if self.fit(to) => Ok(to.clone()),
            Some(_) => Err(SwitchoverRefusal::CandidateUnfit),
            None if self.policy().standby => {
                self.best_follower().ok_or(SwitchoverRefusal::NobodyFit)
            }
            None => self.best_candidate().ok_or(SwitchoverRefusal::NobodyFit),
        }
    }

    /// May take over from a leader that stops in order: it streams, lives, and is a voter where
    /// there are voters.
    fn fit(&self, node: &NodeName) -> bool {
        let electable = self.patroni_electable(node)
            || self
                .fresh(node, Duration::secs(1))
                .is_some_and(|said| said.electable && matches!(said.pg, PeerPg::Replica { .. }));
        let voters = self.view.sync.as_ref().map(|s| &s.value);
        let votes = match voters {
            Some(sync) if self.policy().synchronous() && sync.names_voters() => {
                sync.voters.contains_key(node)
            }
            _ => true,
        };
        let streams = self.streaming_nodes().contains(node) || self.cascades(node);
        electable && votes && streams
    }

    pub(crate) fn best_candidate(&self) -> Option<NodeName> {
        self.best_candidate_if(|_| true)
    }

    pub(crate) fn best_candidate_if(&self, counts: impl Fn(&NodeName) -> bool) -> Option<NodeName> {
        let primary = self.primary()?;
        let fit = primary.senders.iter().filter(|s| self.fit(&s.node) && counts(&s.node));
        let near = |s: &SenderFacts| {
            s.flushed.lag_behind(primary.flushed) <= self.policy().maximum_lag_on_failover
        };
        let rank = |s: &&SenderFacts| {
            let priority = self.failover_priority(&s.node);
            (near(s), priority, s.flushed, std::cmp::Reverse(s.node.clone()))
        };
        fit.max_by_key(rank).map(|s| s.node.clone())
    }

    pub(crate) fn continue_handover(&mut self) -> Reason {
        let Some(HandOver { to, since }) = self.reign.as_ref().and_then(|r| r.handover.clone())
        else {
            return Reason::Busy;
        };
        if self.op.is_some() || self.kill.is_some() {
            return Reason::SwitchoverStopping(to);
        }
        if self.primary().is_some() {
            // The stop failed: PostgreSQL still runs, so nothing has happened.
            return self.call_off(SwitchoverRefusal::CandidateTooSlow);
        }
        let Some(control) = self.stopped() else { return self.handover_stuck(to, since) };
        if control.state != ControlState::ShutDown {
            // It had to be killed: no shutdown checkpoint says where its WAL ends. Enough voters know.
            let ill = self.ailment().is_some_and(Ailment::unfits);
            let enough = ill && self.somebody_could_lead() || self.somebody_can_follow();
            if (ill || self.policy().primary_stop_timeout.is_some()) && enough {
                if let Some(reign) = &mut self.reign {
                    reign.handover = None;
                }
                return self.after_death();
            }
            return self.call_off(SwitchoverRefusal::CandidateTooSlow);
        }
        let end = control.checkpoint;
        if self.patroni.contains_key(&to) {
            self.ask_patroni(ASK);
        }
        if self.has_all(&to, end, since) || self.breaks(Mutant::HandsOverTooEarly) {
            self.release(ReignEnd::HandedOver { to: to.clone(), lsn: end });
            return Reason::HandedOver(to);
        }
        if self.passed(since, CATCH_UP) {
            return self.call_off(SwitchoverRefusal::CandidateTooSlow);
        }
        Reason::SwitchoverCatchingUp(to)
    }

    /// The stop ended and PostgreSQL is neither up nor down.
    fn handover_stuck(&mut self, to: NodeName, since: Time) -> Reason {
        match self.pg_facts().map(|f| &f.state) {
            Some(PgState::Absent | PgState::Broken(_)) => {
                return self.call_off(SwitchoverRefusal::CandidateTooSlow);
            }
            Some(PgState::NotAccepting(_) | PgState::Unresponsive { .. })
                if self.passed(since, STOP) =>
            {
                self.kill_now();
            }
            _ => {}
        }
        Reason::SwitchoverStopping(to)
    }

    /// The candidate's WAL goes past the beginning of the shutdown checkpoint's record, the last.
    fn has_all(&self, node: &NodeName, end: Lsn, since: Time) -> bool {
        if self.patroni.contains_key(node) {
            return self.patroni_has(node, end, since);
        }
        let said = self.fresh(node, Duration::secs(1));
        let term = self.leads();
        said.and_then(|beat| beat.position).is_some_and(|p| p.lsn > end && Some(p.term) == term)
    }

    /// Starts in place again under the term that never ended.
    fn call_off(&mut self, why: SwitchoverRefusal) -> Reason {
        if self.view.failover.is_some() && self.in_flight(Purpose::ClearFailover) == 0 {
            self.clear_failover();
        }
        if let Some(reign) = &mut self.reign {
            reign.handover = None;
        }
        if self.primary().is_none() {
            self.begin_anew();
        }
        Reason::SwitchoverRefused(why)
    }
}
