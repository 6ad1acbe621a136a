//! The cluster follows another one (`standby_cluster`, contract 4.14): who holds the key streams from there, and is
//! no primary; the others follow it. Leaves where the other cluster is to the shell, and following to `replica`.

use std::cmp::Ordering;

use super::replica::Lineage;
use crate::cluster::{Beat, ReignEnd};
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{PgOp, PgState, Source, Upstream};
use crate::reason::{Reason, Situation};
use crate::state::Pg;
use crate::{Duration, Lsn, NodeName, Timeline};

/// A PostgreSQL in recovery that doesn't answer for this long is killed.
const UNRESPONSIVE: Duration = Duration::secs(10);

impl Node {
    /// What the holder of the key does where the cluster has no primary, and when it is to have one again.
    pub(super) fn plan_standby_leader(&mut self) -> Option<(Situation, Reason)> {
        if !self.policy().standby {
            // What it had from the other cluster is of the old term; what it writes itself is of a new one, so
            // that nobody takes more of the former for some of the latter.
            let was = self.reign.as_ref().is_some_and(|reign| reign.standby);
            return was.then(|| {
                if self.policy().pause {
                    return (Situation::Leader, Reason::Paused);
                }
                self.begin_anew();
                (Situation::Leader, Reason::Promoting)
            });
        }
        let state = match &self.pg {
            Pg::Exited if self.op.is_none() => {
                self.kill_now();
                return Some((Situation::Leader, Reason::StartingReplica));
            }
            Pg::Exited | Pg::Empty | Pg::Unknown => {
                return Some((Situation::Leader, self.standby_busy()));
            }
            Pg::Facts(facts) => facts.state.clone(),
        };
        let reason = match state {
            PgState::Running(_) if self.primary().is_some() => self.end_primary(),
            PgState::Running(_) => return Some(self.lead_standby()),
            PgState::Stopped(_) => self.start_standby(),
            // A copy says so too, until this start has begun.
            PgState::NotAccepting(control)
                if self.op.is_none() && Self::starts_as_primary(&control) =>
            {
                self.kill_now();
                Reason::EndsPrimary
            }
            PgState::NotAccepting(_) => Reason::StartingReplica,
            PgState::Unresponsive { since, .. } => {
                if self.passed(since, UNRESPONSIVE) && !self.policy().pause {
                    self.kill_now();
                }
                Reason::AnswersLate
            }
            PgState::Absent | PgState::Broken(_) => self.data_vanished(),
        };
        Some((Situation::Leader, reason))
    }

    /// It leads a cluster that follows another one.
    pub(crate) fn leads_standby(&self) -> bool {
        self.policy().standby && self.reign.as_ref().is_some_and(|reign| reign.ended.is_none())
    }

    fn standby_busy(&self) -> Reason {
        match self.op.as_ref().map(|running| &running.op) {
            Some(PgOp::Stop) => Reason::EndsPrimary,
            Some(PgOp::StartReplica { .. }) => Reason::StartingReplica,
            Some(
                PgOp::Init
                | PgOp::StartPrimary { .. }
                | PgOp::Follow { .. }
                | PgOp::Promote { .. }
                | PgOp::Kill
                | PgOp::Rewind { .. }
                | PgOp::Clone { .. }
                | PgOp::SetNames { .. }
                | PgOp::EnsureSlots { .. },
            ) => Reason::Busy,
            None => Reason::WaitingForFacts,
        }
    }

    /// The primary stops in order: who streams from it, the other cluster for one, gets its last record.
    fn end_primary(&mut self) -> Reason {
        let now = self.now;
        if !self.policy().pause
            && self.start_op(PgOp::Stop)
            && let Some(reign) = &mut self.reign
        {
            reign.was_primary = true;
            reign.serving = false;
            reign.next_beat = now;
        }
        Reason::EndsPrimary
    }

    fn start_standby(&mut self) -> Reason {
        if self.policy().pause {
            return Reason::Paused;
        }
        if self.reign.as_ref().is_some_and(|reign| reign.was_primary) {
            self.begin_anew();
            return Reason::EndsPrimary;
        }
        if self.backoff.start_failures >= 3 && self.somebody_could_lead() {
            self.release(ReignEnd::Died);
            return Reason::StartFailed;
        }
        if self.op.is_none() && self.all_persisted() {
            self.start_op(PgOp::StartReplica { upstream: Some(Upstream::Remote) });
        }
        Reason::StartingReplica
    }

    fn lead_standby(&mut self) -> (Situation, Reason) {
        self.ensure_slots();
        self.note_standby();
        if let Some(decided) = self.plan_switchover() {
            return decided;
        }
        self.publish_initialize();
        self.publish_failsafe();
        let Some(replica) = self.replica() else {
            return (Situation::Leader, Reason::WaitingForFacts);
        };
        let (pointed, streaming) = (replica.upstream == Some(Upstream::Remote), replica.streaming);
        if !pointed && !self.policy().pause {
            self.start_op(PgOp::Follow { upstream: Some(Upstream::Remote) });
        }
        let reason = if streaming { Reason::LeadsStandby } else { Reason::WaitingForRemote };
        (Situation::Leader, reason)
    }

    /// Where it stands is where its term begins for the others, on whichever timeline the other cluster is.
    fn note_standby(&mut self) {
        let (Some(timeline), Some(replica)) = (self.timeline(), self.replica()) else { return };
        let received = replica.received;
        let alone = self.view.members.len() <= 1;
        let (now, failing) = (self.now, self.backoff.failures > 0);
        let Some(reign) = &mut self.reign else { return };
        let ready = reign.slots.is_some() || alone || failing;
        if ready && reign.start.is_none_or(|(known, _)| known != timeline) {
            reign.standby = true;
            reign.start = Some((timeline, received));
            reign.timelines_ended = 0;
            reign.next_beat = now;
        }
    }

    /// Nothing need stop for it: all have the same WAL, from the same place.
    pub(super) fn let_go_for(&mut self, to: NodeName) -> Reason {
        self.release(ReignEnd::HandedOver { to: to.clone(), lsn: Lsn::ZERO });
        Reason::HandedOver(to)
    }

    /// It streams from here, and may lead.
    pub(super) fn follows_me(&self, node: &NodeName) -> bool {
        self.fresh(node, Duration::secs(1)).is_some_and(|said| {
            said.electable
                && said.pg == PeerPg::Replica { streaming: true }
                && said.position.map(|position| position.term) == self.leads()
        })
    }

    pub(super) fn best_follower(&self) -> Option<NodeName> {
        let fit = self.view.members.keys().filter(|name| self.follows_me(name));
        let place = |name: &&NodeName| {
            let position = self.peers.get(*name).and_then(|peer| peer.beat.position);
            (self.failover_priority(name), position)
        };
        fit.max_by_key(place).cloned()
    }

    // === the others ===

    /// No key tells the other cluster's history: streaming finds out whether a timeline leads to the leader's.
    pub(super) fn standby_lineage(&self, timeline: Timeline, beat: &Beat) -> Option<Lineage> {
        if !self.policy().standby {
            return None;
        }
        Some(match beat.timeline.map(|leaders| timeline.cmp(&leaders)) {
            Some(Ordering::Less | Ordering::Equal) => Lineage::Same,
            // The leader goes there too, or is not to be followed.
            Some(Ordering::Greater) | None => Lineage::Unknown,
        })
    }

    /// Where the leader's WAL is had from.
    pub(super) fn leaders_wal(&self, leader: &NodeName) -> Upstream {
        if self.policy().standby {
            Upstream::StandbyLeader(leader.clone())
        } else {
            Upstream::Leader(leader.clone())
        }
    }

    /// Where a copy of the leader is had from.
    pub(super) fn leaders_data(&self, leader: NodeName) -> Source {
        if self.policy().standby { Source::Member(leader) } else { Source::Leader(leader) }
    }
}

#[cfg(test)]
mod tests;
