//! From what is known to what is done: one situation, one plan, one reason.
//! Each situation has its own file; this one tells them apart and does what all have in common.

mod ailing;
mod bootstrap;
mod cascade;
mod election;
mod fetch;
mod first;
mod hold;
mod leader;
mod leave;
mod list;
mod patroni;
mod replica;
mod restart;
mod shutdown;
mod standby;
mod switchover;
mod voter;

pub(crate) use ailing::Health;

use crate::cluster::{Accession, Initialize, MemberRecord, MemberRole, MemberState, Purpose};
use crate::disk::Ailment;
use crate::input::Action;
use crate::mutant::Mutant;
use crate::node::{Node, PEER_BEAT};
use crate::peer::{PeerBeat, PeerMessage, PeerPg};
use crate::postgres::{ControlFacts, PgFailureKind, PgOp, PgOpResult, PgRole, PgState, Source};
use crate::reason::{Reason, Situation};
use crate::state::{Lease, Pg, Reign, RunningOp};
use crate::{Duration, Lsn, Tags};

impl Node {
    /// Everything that is due, in the order in which it matters: first belief and the fence, then
    /// the plan, then telling others.
    pub(crate) fn drive(&mut self) {
        if self.exit_reached() {
            return;
        }
        self.renew_lease();
        self.end_belief();
        self.arm_guard();
        self.learn_wal_term();
        self.kill_without_data();
        self.end_slow_stop();
        self.follow_restart();
        self.note_leaving();
        let (situation, reason) = self.plan();
        self.answer_pledge();
        self.answer_hold();
        self.ask_holds();
        self.beat_if_due();
        self.arm_guard();
        self.publish_member();
        self.tell_peers();
        self.decide(situation, reason);
    }

    fn exit_reached(&self) -> bool {
        self.decision().reason == Reason::Stopped
    }

    /// Without a confirmed beat in time this node stops believing, and PostgreSQL stops with it.
    fn end_belief(&mut self) {
        let over = match self.belief_until() {
            Some(end) => self.now >= end,
            None => self.leads().is_some(),
        };
        if !over || self.policy().pause || self.breaks(Mutant::NoFence) {
            return;
        }
        self.reign = None;
        self.lease = Lease::None;
        if self.may_write() {
            self.kill_now();
        }
    }

    /// `primary_stop_timeout`: the voters go on without the end of an orderly stop.
    fn end_slow_stop(&mut self) {
        let policy = self.policy();
        let Some(patience) = policy.primary_stop_timeout.filter(|_| policy.synchronous()) else {
            return;
        };
        let late =
            |running: &RunningOp| running.op == PgOp::Stop && self.passed(running.began, patience);
        let slow = self.op.as_ref().is_some_and(late);
        if slow && self.leads().is_some() && self.restart.is_none() {
            self.kill_now();
        }
    }

    /// Processes may go on in a directory that has no name any more; they must not.
    fn kill_without_data(&mut self) {
        let gone =
            matches!(self.pg_facts().map(|f| &f.state), Some(PgState::Absent | PgState::Broken(_)));
        let building = matches!(
            self.op.as_ref().map(|o| &o.op),
            Some(PgOp::Init | PgOp::Clone { .. } | PgOp::Rewind { .. })
        );
        if gone && self.maybe_alive && !building {
            self.kill_now();
        }
    }

    /// PostgreSQL is primary here, or may become so by itself.
    fn may_write(&self) -> bool {
        if self.health.killed.is_some() {
            return false;
        }
        if let Some(running) = &self.op {
            match running.op {
                PgOp::StartPrimary { .. } | PgOp::Promote { .. } => return true,
                PgOp::Init
                | PgOp::StartReplica { .. }
                | PgOp::Follow { .. }
                | PgOp::Stop
                | PgOp::Kill
                | PgOp::Rewind { .. }
                | PgOp::Clone { .. }
                | PgOp::SetNames { .. }
                | PgOp::EnsureSlots { .. } => {}
            }
        }
        match self.pg_facts().map(|f| &f.state) {
            Some(PgState::Running(running)) => matches!(running.role, PgRole::Primary(_)),
            Some(PgState::NotAccepting(control)) => Self::primary_data(control),
            Some(PgState::Unresponsive { .. }) => self.replica().is_none(),
            Some(PgState::Absent | PgState::Broken(_) | PgState::Stopped(_)) => false,
            None => matches!(self.pg, Pg::Exited),
        }
    }

    /// The one situation, and what its plan says.
    fn plan(&mut self) -> (Situation, Reason) {
        if self.shutdown.is_some() {
            return (Situation::Shutdown, self.plan_shutdown());
        }
        if !self.seen_view {
            return self.plan_without_store();
        }
        if self.reign.is_some() {
            return self.plan_leader();
        }
        if self.foreign_data() {
            return (Situation::Starting, Reason::ForeignData);
        }
        if let Some(decided) = self.plan_stray_primary() {
            return decided;
        }
        if self.policy().pause && self.view.initialize.is_some() {
            return (Situation::Paused, self.plan_paused());
        }
        match self.view.initialize.as_ref().map(|i| i.value) {
            None | Some(Initialize::Bootstrapping) => (Situation::Bootstrap, self.plan_bootstrap()),
            Some(Initialize::Done(_)) => {
                if self.holds() && self.other_leader().is_none() {
                    self.leave_election();
                    (Situation::Replica, Reason::Holding)
                } else if self.vacant() {
                    (Situation::Election, self.plan_election())
                } else {
                    self.leave_election();
                    (Situation::Replica, self.plan_replica())
                }
            }
        }
    }

    /// The guard's deadline from an earlier life stands meanwhile; where none does, a primary that
    /// nobody vouches for ends when that deadline would have passed.
    fn plan_without_store(&mut self) -> (Situation, Reason) {
        let patience = self.config.founding_policy.ttl;
        if self.passed(self.born, patience) && self.may_write() && !self.durable.paused {
            self.kill_now();
            return (Situation::Fence, Reason::BeliefEnded);
        }
        (Situation::Starting, Reason::WaitingForStore)
    }

    fn foreign_data(&self) -> bool {
        let Some(Initialize::Done(ours)) = self.view.initialize.as_ref().map(|i| i.value) else {
            return false;
        };
        let found = match self.pg_facts().map(|f| &f.state) {
            Some(PgState::Running(running)) => running.system_id,
            Some(PgState::Stopped(control) | PgState::NotAccepting(control)) => control.system_id,
            Some(PgState::Absent | PgState::Broken(_) | PgState::Unresponsive { .. }) | None => {
                return false;
            }
        };
        found != ours
    }

    /// PostgreSQL is primary without a reign: an agent that restarted takes its own term up again;
    /// anything else is fenced. Until the view tells, the guard's old deadline stands.
    fn plan_stray_primary(&mut self) -> Option<(Situation, Reason)> {
        let killed = self.health.killed.is_some();
        if killed || self.primary().is_none() && !self.unresponsive_primary() {
            return None;
        }
        if self.kill.is_some() {
            return Some((Situation::Fence, Reason::BeliefEnded));
        }
        if self.deciding() {
            return Some((Situation::Leader, Reason::TakingOver));
        }
        let free = self.other_leader().is_none();
        if self.was_last_leader() && free && self.view.reign_end().is_none() {
            let carried = self.view.current_beat().is_some_and(|b| b.value.serving);
            if self.primary().is_some() && self.lease_id().is_some() {
                self.take_over(Accession::Return, None, carried);
            }
            return Some((Situation::Leader, Reason::TakingOver));
        }
        if self.policy().pause {
            return None;
        }
        self.kill_now();
        let reason = if free { Reason::PrimaryWithoutTerm } else { Reason::Deposed };
        Some((Situation::Fence, reason))
    }

    /// Nobody leads, and PostgreSQL is starting. In pause no guard has a deadline for what an earlier
    /// agent began: it may open for writes as soon as it has recovered.
    fn starts_unasked(&mut self, control: &ControlFacts) -> Reason {
        if !Self::starts_as_primary(control) {
            return Reason::StartingReplica;
        }
        self.kill_now();
        Reason::PrimaryWithoutTerm
    }

    fn unresponsive_primary(&self) -> bool {
        self.was_last_leader()
            && matches!(self.pg_facts().map(|f| &f.state), Some(PgState::Unresponsive { .. }))
    }

    /// Keeps the guard's deadline where belief ends: it stands from before any start that could
    /// open for writes until PostgreSQL is known to be no primary.
    fn arm_guard(&mut self) {
        if self.breaks(Mutant::NoFence) {
            return;
        }
        let wanted = match (self.leads(), self.belief_until()) {
            // A leader in recovery needs none, until it is to be promoted.
            _ if self.policy().standby && !self.may_write() && self.pg != Pg::Unknown => None,
            // In pause it is known for which term, and never fires.
            (Some(term), _) if self.policy().pause => Some((term, crate::Time::NEVER)),
            (Some(term), Some(end)) => Some((term, end)),
            _ => {
                if self.pg == Pg::Unknown || self.may_write() {
                    return;
                }
                None
            }
        };
        if wanted == self.armed {
            return;
        }
        self.armed = wanted;
        self.push(match wanted {
            Some((term, deadline)) => Action::Arm { term, deadline },
            None => Action::Disarm,
        });
    }

    // === telling others ===

    fn publish_member(&mut self) {
        let Some(lease) = self.lease_id() else { return };
        if self.in_flight(Purpose::PublishMember) > 0 || !self.seen_view {
            return;
        }
        let record = self.member_record();
        // A request of an earlier life may land after this one's, and take the key away with its lease.
        let shown = self.view.members.get(&self.config.name);
        let displaced = shown.is_none_or(|key| key.lease != Some(lease));
        if displaced && self.view.revision >= self.member_at {
            self.member = None;
        }
        let quiet = |m: &MemberRecord| MemberRecord { lsn: None, replayed: None, ..m.clone() };
        let changed = self.member_stale
            || self.member.as_ref().is_none_or(|old| quiet(old) != quiet(&record));
        let moved = self.member.as_ref() != Some(&record);
        if !changed && (!moved || self.now < self.member_next) {
            return;
        }
        self.member_next = self.now + self.policy().beat_interval();
        self.member = Some(record.clone());
        self.member_stale = false;
        let key = crate::cluster::Key::Member(self.config.name.clone());
        let put = crate::cluster::Op::Put(key, crate::cluster::Value::Member(record), Some(lease));
        self.txn(Purpose::PublishMember, Vec::new(), vec![put]);
    }

    fn member_record(&self) -> MemberRecord {
        let (role, lsn, replayed, streaming) = match self.running().map(|r| &r.role) {
            Some(PgRole::Primary(p)) => (MemberRole::Primary, Some(p.flushed), None, false),
            Some(PgRole::Replica(r)) => {
                let leads = self.leads_standby();
                let role = if leads { MemberRole::StandbyLeader } else { MemberRole::Replica };
                (role, Some(r.received), Some(r.replayed), r.streaming)
            }
            None => {
                let role = match self.pg_facts().map(|f| &f.state) {
                    Some(PgState::Absent) => MemberRole::Uninitialized,
                    Some(PgState::Stopped(c)) if Self::primary_data(c) => MemberRole::Demoted,
                    _ => self.member.as_ref().map_or(MemberRole::Replica, |m| m.role),
                };
                (role, None, None, false)
            }
        };
        MemberRecord {
            state: self.member_state(),
            role,
            lsn,
            replayed,
            timeline: self.running().map(|r| r.timeline),
            streaming,
            tags: self.shown_tags(),
            paused: self.policy().pause,
            checkpoint_pending: self.primary().is_some_and(|p| !p.checkpointed),
            patroni: false,
        }
    }

    /// Who is about to stop is not to be waited for.
    fn shown_tags(&self) -> Tags {
        let tags = self.config.tags.clone();
        if self.leaving.is_some() { Tags { sync_priority: 0, ..tags } } else { tags }
    }

    fn member_state(&self) -> MemberState {
        match self.op.as_ref().map(|o| &o.op) {
            Some(PgOp::Init) => return MemberState::Initializing,
            Some(PgOp::Clone { .. } | PgOp::Rewind { .. }) => return MemberState::CreatingReplica,
            Some(PgOp::Stop) => return MemberState::Stopping,
            Some(PgOp::StartPrimary { .. } | PgOp::StartReplica { .. }) => {
                return MemberState::Starting;
            }
            Some(
                PgOp::Follow { .. }
                | PgOp::Promote { .. }
                | PgOp::Kill
                | PgOp::SetNames { .. }
                | PgOp::EnsureSlots { .. },
            )
            | None => {}
        }
        if self.health.killed.is_some() {
            return MemberState::Crashed;
        }
        match (&self.pg, self.pg_facts().map(|f| &f.state)) {
            (Pg::Exited | Pg::Empty, _) if self.stopping_or_stopped() => MemberState::Stopped,
            (Pg::Exited | Pg::Empty, _) if !self.ran() => MemberState::Stopped,
            (Pg::Exited | Pg::Empty, _) => MemberState::Crashed,
            (_, Some(PgState::Running(_))) => MemberState::Running,
            (_, Some(PgState::NotAccepting(_))) => MemberState::Starting,
            (_, Some(PgState::Unresponsive { .. })) => MemberState::Other,
            (_, Some(PgState::Absent | PgState::Broken(_) | PgState::Stopped(_))) => {
                MemberState::Stopped
            }
            (_, None) => self.member.as_ref().map_or(MemberState::Other, |m| m.state),
        }
    }

    /// PostgreSQL was seen to run, or to be about to, in this agent's life.
    fn ran(&self) -> bool {
        let said = self.member.as_ref().map(|m| m.state);
        self.health.has_seen_wal()
            || matches!(said, Some(MemberState::Running | MemberState::Starting))
    }

    /// PostgreSQL ended because it was told to.
    fn stopping_or_stopped(&self) -> bool {
        let said = self.member.as_ref().map(|m| m.state);
        matches!(said, Some(MemberState::Stopping | MemberState::Stopped))
    }

    fn tell_peers(&mut self) {
        if !self.seen_view {
            self.next_peer_beat = self.now + PEER_BEAT;
            return;
        }
        let beat = self.peer_beat();
        let plain = |b: &PeerBeat| PeerBeat { position: None, hears_leader: false, ..b.clone() };
        let news = self.told.as_ref().is_none_or(|told| plain(told) != plain(&beat));
        if self.now < self.next_peer_beat && !news {
            return;
        }
        self.next_peer_beat = self.now + PEER_BEAT;
        self.told = Some(beat.clone());
        let view = self.view.clone();
        for to in view.members.keys() {
            if *to == self.config.name {
                continue;
            }
            self.push(Action::Send { to: to.clone(), message: PeerMessage::Beat(beat.clone()) });
        }
    }

    fn peer_beat(&self) -> PeerBeat {
        let pg = match (&self.pg, self.pg_facts().map(|f| &f.state)) {
            _ if self.health.killed.is_some() => PeerPg::Down,
            (Pg::Exited | Pg::Empty, _) | (_, Some(PgState::Stopped(_))) => PeerPg::Down,
            (Pg::Unknown, _) => self.told.as_ref().map_or(PeerPg::Busy, |told| told.pg),
            (_, Some(PgState::Absent | PgState::Broken(_))) => PeerPg::Absent,
            (_, Some(PgState::NotAccepting(_) | PgState::Unresponsive { .. }) | None) => {
                PeerPg::Busy
            }
            (_, Some(PgState::Running(running))) => match &running.role {
                PgRole::Primary(_) => PeerPg::Primary,
                PgRole::Replica(r) => PeerPg::Replica { streaming: r.streaming },
            },
        };
        let ailment = self.ailment();
        let believes = self.belief_until().is_some_and(|end| self.now < end);
        PeerBeat {
            incarnation: self.incarnation,
            leads: self.leads().filter(|_| believes),
            pg,
            position: self.position(),
            timeline: self.timeline(),
            instance: self.instance(),
            hears_leader: self.hears_leader(),
            electable: !self.config.tags.nofailover()
                && self.shutdown.is_none()
                && !self.policy().pause
                && !self.promotion_refused()
                && !ailment.is_some_and(Ailment::unfits),
            ailment,
            waits_for: self.primary().map(|p| p.names.names.clone()).unwrap_or_default(),
            follows: self.durable.data_via.as_ref().map(|via| via.instance),
            died: self.leader_died(),
        }
    }

    /// Leads, and PostgreSQL ended unasked.
    pub(super) fn leader_died(&self) -> bool {
        let asked = self.shutdown.is_some()
            || self.restart.is_some()
            || self.op.as_ref().is_some_and(|running| running.op == PgOp::Stop);
        let unasked = |reign: &Reign| reign.was_primary && reign.handover.is_none();
        !asked
            && matches!(self.pg, Pg::Exited | Pg::Empty)
            && self.reign.as_ref().is_some_and(unasked)
    }

    // === what operations leave behind ===

    /// Remembers failures: patience grows, and some failures change what is tried next.
    pub(crate) fn note_result(&mut self, running: &RunningOp, result: &PgOpResult) {
        let op = &running.op;
        let failure = match result {
            PgOpResult::Done => {
                self.note_done(running);
                return;
            }
            PgOpResult::Cancelled => return,
            PgOpResult::Failed(failure) => failure,
        };
        self.backoff.failures += 1;
        // What makes a first data directory, a restored backup for one, is costly to repeat.
        let least = if *op == PgOp::Init { 2_000 } else { 250 };
        let wait = Duration::millis(least << self.backoff.failures.min(5));
        self.backoff.until = self.now + wait;
        match op {
            PgOp::StartPrimary { .. } | PgOp::Promote { .. } => {
                if failure.kind == PgFailureKind::Refused {
                    self.refused_until = self.now + self.policy().ttl;
                } else if let Some(reign) = &mut self.reign {
                    reign.start_failures += 1;
                }
                self.note_failed_start();
            }
            PgOp::Rewind { .. } => match failure.kind {
                PgFailureKind::RewindImpossible => self.backoff.rewind_impossible = true,
                // A copy needs more room than a repair: there is none for it either, and it would take
                // the place of the data that is there.
                PgFailureKind::DiskFull => {}
                PgFailureKind::TimedOut
                | PgFailureKind::SourceUnreachable
                | PgFailureKind::ToolFailed
                | PgFailureKind::QueryFailed
                | PgFailureKind::Refused => {
                    self.backoff.rewind_impossible |= self.backoff.failures >= 3;
                }
            },
            PgOp::StartReplica { .. } => {
                if failure.kind != PgFailureKind::DiskFull {
                    self.backoff.start_failures += 1;
                }
                self.note_failed_start();
            }
            PgOp::Init
            | PgOp::Follow { .. }
            | PgOp::Stop
            | PgOp::Kill
            | PgOp::Clone { .. }
            | PgOp::SetNames { .. }
            | PgOp::EnsureSlots { .. } => {}
        }
    }

    fn note_done(&mut self, running: &RunningOp) {
        let op = &running.op;
        let rewind_impossible = self.backoff.rewind_impossible;
        let start_failures = self.backoff.start_failures;
        let repaired = self.backoff.repaired;
        self.backoff = crate::node::Backoff::default();
        if matches!(op, PgOp::Rewind { .. } | PgOp::Clone { .. }) {
            self.backoff.repaired = true;
            // A backup, or another cluster's data, is of whatever terms: none is known.
            let known = !matches!(op, PgOp::Clone { source: Source::Backup | Source::Remote });
            self.durable.data_terms = running.begun_in.filter(|_| known).into_iter().collect();
            self.durable.data_from = None;
            self.durable.data_via = None;
            self.persist();
        } else {
            self.backoff.repaired = repaired;
        }
        if self.backoff.repaired {
            self.diverged = false;
        }
        match op {
            PgOp::Clone { .. } => self.reinitialize = false,
            PgOp::EnsureSlots { nodes } => {
                if let Some(reign) = &mut self.reign {
                    reign.slots = Some(nodes.clone());
                } else {
                    self.slots_ahead = Some(nodes.clone());
                }
            }
            PgOp::StartReplica { .. }
            | PgOp::Init
            | PgOp::StartPrimary { .. }
            | PgOp::Follow { .. }
            | PgOp::Promote { .. }
            | PgOp::Stop
            | PgOp::Kill
            | PgOp::Rewind { .. }
            | PgOp::SetNames { .. } => {
                // A start that succeeds says nothing about WAL that can't be streamed.
                self.backoff.rewind_impossible =
                    rewind_impossible && !matches!(op, PgOp::Rewind { .. });
                self.backoff.start_failures =
                    if matches!(op, PgOp::StartReplica { .. }) { 0 } else { start_failures };
            }
        }
    }

    /// The end of the WAL that the leader said it had last.
    pub(crate) fn last_known_lsn(&self) -> Lsn {
        let beat = self.view.beat.as_ref().map(|b| b.value.lsn);
        let status = self.view.status.as_ref().map(|s| s.value.optime);
        beat.max(status).unwrap_or_default()
    }
}
