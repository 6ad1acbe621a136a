//! The agent stops, or management is paused: stop PostgreSQL in order and let go, or touch nothing.

use crate::Duration;
use crate::cluster::ReignEnd;
use crate::node::Node;
use crate::postgres::{ControlState, PgOp, PgState};
use crate::reason::Reason;
use crate::state::{Peer, Pg, RestartStage};

/// Replicas wait this long for the primary's last record before they stop.
const WAIT_FOR_PRIMARY: Duration = Duration::secs(15);
/// A whole cluster stops when all are told at once: within this time each has heard of the others.
const ALL_STOP: Duration = Duration::millis(200);
/// A replica that stays may say so late that it has the last record: it looks each 100 ms. Without a
/// successor that is named, everybody leaves the former leader its right to return for seconds.
const LAST_WORD: Duration = Duration::secs(1);
/// The key is let go of within this time, or the lease expires by itself.
const RELEASE: Duration = Duration::secs(3);

impl Node {
    pub(crate) fn plan_shutdown(&mut self) -> Reason {
        let since = self.shutdown.unwrap_or(self.now);
        self.candidacy = None;
        if self.op.is_some() || self.kill.is_some() {
            return self.leaving_or(Reason::Stopping);
        }
        if self.policy().pause {
            return self.stopped_now();
        }
        let running = match (&self.pg, self.pg_facts().map(|f| &f.state)) {
            (Pg::Exited, _) => {
                self.kill_now();
                return Reason::Stopping;
            }
            (Pg::Unknown | Pg::Empty, _) => return self.wait_for_facts(since),
            (
                Pg::Facts(_),
                Some(PgState::Absent | PgState::Broken(_) | PgState::Stopped(_)) | None,
            ) => false,
            (
                Pg::Facts(_),
                Some(PgState::Running(_) | PgState::NotAccepting(_) | PgState::Unresponsive { .. }),
            ) => true,
        };
        if running {
            if self.primary_stops_first(since) {
                return Reason::Stopping;
            }
            if self.may_leave() {
                self.start_op(PgOp::Stop);
            }
            return self.leaving_or(Reason::Stopping);
        }
        if self.reign.is_some() { self.let_go(since) } else { self.stopped_now() }
    }

    fn wait_for_facts(&mut self, since: crate::Time) -> Reason {
        if self.passed(since, WAIT_FOR_PRIMARY + WAIT_FOR_PRIMARY) {
            return self.stopped_now();
        }
        Reason::Stopping
    }

    /// A replica that streams from a primary which stops too gets its last record.
    fn primary_stops_first(&self, since: crate::Time) -> bool {
        let streaming = self.replica().is_some_and(|r| r.streaming);
        let leader_stops = self
            .other_leader()
            .and_then(|l| self.heard(l, Duration::secs(1)))
            .is_some_and(|p| !p.beat.electable);
        streaming && leader_stops && !self.passed(since, WAIT_FOR_PRIMARY)
    }

    /// PostgreSQL is stopped: hand over to somebody who stays, or release.
    fn let_go(&mut self, since: crate::Time) -> Reason {
        let clean = self.stopped().filter(|c| c.state == ControlState::ShutDown);
        let Some(end) = clean.map(|c| c.checkpoint) else {
            // It was killed: where its WAL ends is not known, and whoever is fit may follow.
            self.release_once(ReignEnd::Died);
            return if self.passed(since, RELEASE) { self.stopped_now() } else { Reason::Stopping };
        };
        let ended = self.reign.as_ref().is_some_and(|r| r.ended.is_some());
        if self.passed(since, WAIT_FOR_PRIMARY + RELEASE) {
            return self.stopped_now();
        }
        if ended || self.deciding() {
            if !self.deciding() {
                self.read();
                if let Some(end) = self.reign.as_ref().and_then(|r| r.ended.clone()) {
                    self.release(end);
                }
            }
            return Reason::Stopping;
        }
        let stopped = *self.shut_down.get_or_insert(self.now);
        let successor = self.successor(end);
        // Who stops at the same moment has not said so yet.
        let early = !self.passed(since, ALL_STOP);
        let comes = self.staying().next().is_some() && !self.passed(stopped, LAST_WORD);
        if (successor.is_none() && comes) || (successor.is_some() && early) {
            return Reason::Stopping;
        }
        self.release_once(match successor {
            Some(to) => ReignEnd::HandedOver { to, lsn: end },
            None => ReignEnd::Stopped { lsn: end },
        });
        Reason::Stopping
    }

    fn release_once(&mut self, end: ReignEnd) {
        let ended = self.reign.as_ref().is_some_and(|r| r.ended.is_some());
        if !ended && !self.deciding() {
            self.release(end);
        }
    }

    /// Somebody who stays and has everything; voters where there are voters.
    fn successor(&self, end: crate::Lsn) -> Option<crate::NodeName> {
        self.staying()
            .filter(|(_, peer)| {
                let position = peer.beat.position;
                position.is_some_and(|p| p.lsn > end && Some(p.term) == self.leads())
            })
            .max_by_key(|(name, peer)| (peer.beat.position, self.failover_priority(name)))
            .map(|(name, _)| name.clone())
    }

    /// Peers that could follow, whatever they have; voters where there are voters.
    fn staying(&self) -> impl Iterator<Item = (&crate::NodeName, &Peer)> {
        let voters = self.view.sync.as_ref().map(|s| &s.value).filter(|s| s.names_voters());
        let synchronous = self.policy().synchronous();
        self.peers.iter().filter(move |(name, peer)| {
            peer.beat.electable
                && self.fresh(name, Duration::millis(500)).is_some()
                && (!synchronous || voters.is_some_and(|s| s.voters.contains_key(*name)))
        })
    }

    fn stopped_now(&mut self) -> Reason {
        self.exit();
        Reason::Stopped
    }

    /// Nothing is promoted, demoted, started or stopped, except by an operator's restart; a replica
    /// may be pointed elsewhere.
    pub(crate) fn plan_paused(&mut self) -> Reason {
        if let Some(reason) = self.plan_restart() {
            return reason;
        }
        if self.restart.is_some_and(|restart| restart.stage == RestartStage::Starting) {
            return self.start_again();
        }
        if let (Some(leader), Some(replica)) =
            (self.other_leader().cloned(), self.replica().cloned())
            && self.may_follow()
            && self.bound_to_candidate().is_none()
        {
            self.point(&leader, replica.upstream.as_ref());
        }
        Reason::Paused
    }

    /// The second half of a replica's restart, in pause.
    fn start_again(&mut self) -> Reason {
        if self.other_leader().is_some() {
            return self.plan_replica();
        }
        if self.op.is_none() && self.stopped().is_some_and(|control| !Self::primary_data(control)) {
            self.start_op(PgOp::StartReplica { upstream: None });
        }
        Reason::Restarting
    }
}
