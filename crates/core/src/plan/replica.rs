//! Somebody else leads: follow it, with the data that one has, repaired data, or a new copy.

use crate::cluster::Beat;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{BrokenData, ControlFacts, ControlState, PgOp, PgState, Source, Upstream};
use crate::reason::Reason;
use crate::state::Pg;
use crate::{Duration, Lsn, NodeName, Timeline};

/// Not streaming for this long from a leader that is ready: the data is looked at harder.
const NOT_STREAMING: Duration = Duration::secs(30);

/// A start that waits for WAL which only a leader has is given up when there is one for this long.
const START_ALONE: Duration = Duration::secs(5);

/// A replica that doesn't come up within this is started again, however short the patience with a
/// primary.
pub(crate) const STARTING: Duration = Duration::secs(60);

/// A Patroni leader has written its member key anew within this, whatever its `loop_wait`.
const MEMBER_KEY: Duration = Duration::secs(30);

/// How this node's WAL stands to the leader's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lineage {
    /// It is a beginning of the leader's.
    Same,
    /// It goes past the branch; pg_rewind knows where.
    Diverged,
    /// Its timeline's number may be the leader's though it diverged: pg_rewind would not notice.
    SameNumber,
    /// The leader has not published enough.
    Unknown,
}

impl Node {
    pub(crate) fn plan_replica(&mut self) -> Reason {
        if let Some(pledged) = self.bound_to_candidate() {
            return Reason::Pledged(pledged);
        }
        if let Some(reason) = self.plan_restart() {
            return reason;
        }
        if self.starts_in_vain() {
            self.kill_now();
        }
        if self.op.is_some() || self.kill.is_some() {
            let ill = self.mortally_ill().filter(|_| self.kill.is_some());
            return ill.unwrap_or_else(|| self.busy_with());
        }
        let Some(leader) = self.other_leader().cloned() else { return self.return_soon() };
        let state = match &self.pg {
            Pg::Unknown => return Reason::WaitingForFacts,
            Pg::Exited => {
                self.kill_now();
                return Reason::StartingReplica;
            }
            Pg::Empty => return Reason::WaitingForFacts,
            Pg::Facts(facts) => facts.state.clone(),
        };
        if self.reinitialize {
            if !self.may_leave() {
                return Reason::Leaving;
            }
            return self.copy_anew(leader, self.leaving_or(Reason::Reinitializing));
        }
        match state {
            PgState::Absent => self.copy(leader, Reason::Copying),
            PgState::Broken(what) => self.repair(leader, what),
            PgState::Stopped(_) if self.gives_way() => Reason::WaitingForLeader,
            PgState::Stopped(control) => self.start_following(leader, &control),
            PgState::Running(_) if self.voters_decide() && self.leader_says_it_died() => {
                self.let_go_of_dead();
                Reason::WaitingForLeader
            }
            PgState::Running(_) => self.follow(leader),
            PgState::NotAccepting(control) if Self::starts_as_primary(&control) => {
                self.kill_now();
                Reason::Deposed
            }
            PgState::NotAccepting(_) => {
                let patience = self.policy().primary_start_timeout.max(STARTING);
                if self.busy_since.is_some_and(|since| self.passed(since, patience)) {
                    self.kill_now();
                }
                Reason::StartingReplica
            }
            PgState::Unresponsive { since, .. } => {
                if !self.passed(since, Duration::secs(10)) {
                    return Reason::AnswersLate;
                }
                self.kill_now();
                Reason::Unresponsive
            }
        }
    }

    /// Begun without an upstream, while nobody led. Data that was just rewound takes no connection
    /// before it has what its source wrote meanwhile, and now there is somebody to get it from.
    fn starts_in_vain(&self) -> bool {
        let alone = Some(&PgOp::StartReplica { upstream: None });
        self.op.as_ref().map(|running| &running.op) == alone
            && self.ready_beat().is_some()
            && self.busy_since.is_some_and(|since| self.passed(since, START_ALONE))
    }

    fn busy_with(&self) -> Reason {
        match self.op.as_ref().map(|o| &o.op) {
            Some(PgOp::Clone { .. }) => Reason::Copying,
            Some(PgOp::Rewind { .. }) => Reason::Diverged,
            Some(PgOp::StartReplica { .. }) => Reason::StartingReplica,
            Some(PgOp::Follow { upstream: None }) => Reason::WaitingForLeader,
            Some(PgOp::Follow { upstream: Some(_) }) => Reason::FollowNewLeader,
            Some(
                PgOp::Init
                | PgOp::StartPrimary { .. }
                | PgOp::Promote { .. }
                | PgOp::Stop
                | PgOp::Kill
                | PgOp::SetNames { .. }
                | PgOp::EnsureSlots { .. },
            )
            | None => Reason::Busy,
        }
    }

    /// The leader key carries this node's name from an earlier life of the agent.
    fn return_soon(&mut self) -> Reason {
        self.plan_return()
    }

    // === data ===

    /// Data that is about to be replaced or rewritten is of no term for sure any more, and will be
    /// of the leader's: that is on disk before anything is touched.
    fn forget_wal(&mut self) -> bool {
        let Some(term) = self.view.current_term() else { return false };
        if self.durable.wal_term.is_some() || !self.durable.data_terms.contains(&term) {
            self.durable.wal_term = None;
            self.durable.wal_lineage = Vec::new();
            self.durable.data_terms.push(term);
            self.durable.data_from = None;
            self.durable.data_via = None;
            self.persist();
        }
        self.all_persisted()
    }

    fn copy(&mut self, leader: NodeName, reason: Reason) -> Reason {
        if self.ready_beat().is_none() {
            return Reason::WaitingForLeader;
        }
        if self.forget_wal() {
            let source = match self.stand_in() {
                Some(member) => Source::Member(member),
                None => self.leaders_data(leader),
            };
            self.start_op(PgOp::Clone { source });
        }
        reason
    }

    /// A replica tagged `clonefrom` that is in the leader's term for sure; after a failure it is the
    /// leader's turn again. Which of several: chance, for each copy anew.
    fn stand_in(&self) -> Option<NodeName> {
        let term = self.view.current_term();
        let fit = |name: &&NodeName| {
            self.heard(name, Duration::secs(1)).is_some_and(|peer| {
                peer.beat.pg == PeerPg::Replica { streaming: true }
                    && peer.beat.position.map(|position| position.term) == term
            })
        };
        let tagged = self.view.members.iter().filter(|(_, member)| member.value.tags.clonefrom);
        let names = tagged.map(|(name, _)| name).filter(|name| **name != self.config.name);
        let fit: Vec<&NodeName> = names.filter(fit).collect();
        if fit.is_empty() || self.backoff.failures % 2 == 1 {
            return None;
        }
        let at = (self.config.seed ^ self.now.0) % fit.len() as u64;
        Some(fit[usize::try_from(at).unwrap_or(0)].clone())
    }

    /// Replaces data of a PostgreSQL that may still run.
    fn copy_anew(&mut self, leader: NodeName, reason: Reason) -> Reason {
        if self.ready_beat().is_none() {
            return Reason::WaitingForLeader;
        }
        if self.running().is_some() {
            if reason == Reason::RewindImpossible {
                self.diverged = true;
                self.backoff.repaired = false;
                self.backoff.rewind_impossible = true;
            }
            self.start_op(PgOp::Stop);
            return reason;
        }
        self.copy(leader, reason)
    }

    fn repair(&mut self, leader: NodeName, what: BrokenData) -> Reason {
        match what {
            BrokenData::RewindInterrupted if self.may_rewind() => self.rewind(leader),
            BrokenData::RewindInterrupted => self.replace(leader),
            BrokenData::InitInterrupted | BrokenData::ControlFile => {
                self.copy(leader, Reason::BrokenData)
            }
        }
    }

    fn rewind(&mut self, leader: NodeName) -> Reason {
        if self.ready_beat().is_none() {
            return Reason::WaitingForLeader;
        }
        self.diverged = true;
        self.backoff.repaired = false;
        // pg_rewind wants a primary.
        if !self.may_rewind() || self.policy().standby {
            return self.replace(leader);
        }
        if self.running().is_some() {
            self.start_op(PgOp::Stop);
        } else if self.forget_wal() {
            self.start_op(PgOp::Rewind { source: leader });
        }
        Reason::Diverged
    }

    fn may_rewind(&self) -> bool {
        self.config.repair.rewind && !self.backoff.rewind_impossible
    }

    /// Data that diverged, and isn't rewound: a new copy takes its place, where the settings say so.
    fn replace(&mut self, leader: NodeName) -> Reason {
        if !self.config.repair.copies() {
            // Nothing of another history is to come on top.
            if self.replica().is_some_and(|replica| replica.upstream.is_some()) {
                self.start_op(PgOp::Follow { upstream: None });
            }
            return Reason::MayNotRepair;
        }
        self.copy_anew(leader, Reason::RewindImpossible)
    }

    // === following ===

    fn start_following(&mut self, leader: NodeName, control: &ControlFacts) -> Reason {
        let Some(beat) = self.ready_beat() else { return Reason::WaitingForLeader };
        if self.backoff.start_failures >= 3 && self.config.repair.copies() {
            return self.copy(leader, Reason::BrokenData);
        }
        let lineage = if self.foreign_term() {
            Lineage::SameNumber
        } else if self.diverged {
            Lineage::Diverged
        } else if self.backoff.repaired {
            Lineage::Same
        } else if Self::primary_data(control) {
            self.former_primary(control, &beat)
        } else {
            self.compared(control.timeline, control.min_recovery_end, &beat)
        };
        match self.believed(lineage) {
            Lineage::Same => {
                let upstream = self.upstream_for(&leader, None);
                if self.expect_wal(&upstream) {
                    self.start_op(PgOp::StartReplica { upstream: Some(upstream) });
                }
                Reason::StartingReplica
            }
            Lineage::Diverged => self.rewind(leader),
            Lineage::SameNumber => self.replace(leader),
            Lineage::Unknown => Reason::WaitingForLeader,
        }
    }

    fn believed(&self, lineage: Lineage) -> Lineage {
        if self.breaks(Mutant::NeverRewinds) { Lineage::Same } else { lineage }
    }

    fn follow(&mut self, leader: NodeName) -> Reason {
        let Some(replica) = self.replica().cloned() else { return Reason::Deposed };
        let Some(timeline) = self.timeline() else { return Reason::WaitingForFacts };
        let Some(beat) = self.ready_beat() else {
            return self.wait_for_leader(&leader, replica.upstream.as_ref(), replica.streaming);
        };
        let upstream = self.upstream_for(&leader, Some(&replica));
        let pointed = replica.upstream.as_ref() == Some(&upstream) && self.expects(&upstream);
        let streams = replica.streaming || upstream == Upstream::Archive;
        if pointed && streams && beat.timeline == Some(timeline) {
            return Self::following(&upstream);
        }
        if !pointed && self.leave_member(replica.upstream.as_ref()) {
            return Reason::FollowNewLeader;
        }
        let end = replica.received.max(replica.replayed);
        if self.foreign_term() && self.believed(Lineage::SameNumber) != Lineage::Same {
            return self.replace(leader);
        }
        let waited = self.waits_in_vain(&leader);
        if self.backoff.repaired && !waited && pointed {
            return Reason::WaitingForLeader;
        }
        match self.believed(self.compared(timeline, end, &beat)) {
            Lineage::Same => {}
            Lineage::Diverged => return self.rewind(leader),
            Lineage::SameNumber => return self.replace(leader),
            Lineage::Unknown => return Reason::WaitingForLeader,
        }
        if !pointed {
            if self.expect_wal(&upstream) {
                self.start_op(PgOp::Follow { upstream: Some(upstream.clone()) });
            }
            return match upstream {
                Upstream::Member { node, .. } => Reason::GoingOver(node),
                Upstream::Leader(_)
                | Upstream::StandbyLeader(_)
                | Upstream::Remote
                | Upstream::Archive => Reason::FollowNewLeader,
            };
        }
        if upstream == Upstream::Archive {
            return Reason::FromArchive;
        }
        if waited {
            // The leader is ready and the lineage looks right, yet nothing comes: WAL that this
            // node needs is gone, or the numbers deceive.
            if self.backoff.rewind_impossible {
                return self.replace(leader);
            }
            if beat.timeline == Some(timeline) {
                self.backoff.rewind_impossible = true;
            }
            return self.rewind(leader);
        }
        Reason::WaitingForLeader
    }

    /// The leader's PostgreSQL isn't ready to be followed. Another one, whose term is over, is not
    /// followed meanwhile: what it has next may be of another history under the same number.
    fn wait_for_leader(
        &mut self,
        leader: &NodeName,
        upstream: Option<&Upstream>,
        streaming: bool,
    ) -> Reason {
        let another = |now: &Upstream| now.node().is_some_and(|node| node != leader);
        if upstream.is_some_and(another) {
            self.start_op(PgOp::Follow { upstream: None });
            return Reason::WaitingForLeader;
        }
        if streaming { Reason::Following } else { Reason::WaitingForLeader }
    }

    /// The leader is ready, and this node's WAL is a beginning of its.
    pub(crate) fn may_follow(&self) -> bool {
        let (Some(beat), Some(replica)) = (self.ready_beat(), self.replica()) else { return false };
        let end = replica.received.max(replica.replayed);
        !self.foreign_term()
            && self.timeline().is_some_and(|t| self.compared(t, end, &beat) == Lineage::Same)
    }

    /// The leader of this term has been ready for long, and this node pointed at it: yet nothing
    /// streams. What was before the leader was ready doesn't count.
    fn waits_in_vain(&mut self, leader: &NodeName) -> bool {
        let Some(term) = self.view.current_term() else { return false };
        let from_leader = Some(self.leaders_wal(leader));
        let pointed = self.replica().is_some_and(|r| r.upstream == from_leader);
        if !pointed || self.followed.is_none_or(|(known, _)| known != term) {
            self.followed = Some((term, self.now));
        }
        let ready = self.followed.is_some_and(|(_, since)| self.passed(since, NOT_STREAMING));
        ready && self.fruitless.is_some_and(|since| self.passed(since, NOT_STREAMING))
    }

    /// A directory that was a primary's: only after an orderly stop is its end known without
    /// reading it, and the shutdown checkpoint is the last record.
    fn former_primary(&self, control: &ControlFacts, beat: &Beat) -> Lineage {
        let clean = control.state == ControlState::ShutDown;
        match self.branch_of(control.timeline, beat) {
            None => Lineage::Unknown,
            Some(Branch::Current) => self.same_number(),
            Some(Branch::Ended(at)) if clean && control.checkpoint < at => Lineage::Same,
            Some(Branch::Ended(_) | Branch::NotThere) => Lineage::Diverged,
        }
    }

    /// What came by way of a member may be of terms that this node never heard of.
    fn compared(&self, timeline: Timeline, end: Lsn, beat: &Beat) -> Lineage {
        let told = self.standby_lineage(timeline, beat).or_else(|| self.through_member(timeline));
        told.unwrap_or_else(|| self.lineage(timeline, end, beat))
    }

    fn lineage(&self, timeline: Timeline, end: Lsn, beat: &Beat) -> Lineage {
        let Some(branch) = self.branch_of(timeline, beat) else { return Lineage::Unknown };
        match branch {
            Branch::Current if self.number_deceives() => self.same_number(),
            Branch::Current => Lineage::Same,
            Branch::Ended(at) if end <= at => Lineage::Same,
            Branch::Ended(_) | Branch::NotThere => Lineage::Diverged,
        }
    }

    /// This node may hold WAL of a term that the leader's doesn't continue. Timeline numbers and
    /// history files can't tell then: two promotions may have made the same number at the same LSN.
    pub(crate) fn foreign_term(&self) -> bool {
        // What a foreign leader continues, its timelines tell (and nothing else does).
        let Some(now) = self.view.written_term() else { return false };
        let Some(record) = self.view.term.as_ref().map(|t| &t.value) else { return false };
        let mut mine = self.durable.data_terms.iter().chain(&self.durable.wal_term);
        mine.any(|term| *term < now && !record.continues(*term))
    }

    /// A foreign leader that followed another has been promoted since, so its timeline is a new one.
    /// When it is this data's though, which came from another leader, two promotions made the same number.
    fn number_deceives(&self) -> bool {
        let leader = self.other_leader();
        let durable = &self.durable;
        let from_another = durable.data_from.is_some() && durable.data_from.as_ref() != leader;
        let by_way = durable.data_via.as_ref().is_some_and(|via| Some(&via.node) != leader)
            && Some(durable.data_terms.as_slice())
                != self.view.current_term().as_ref().map(std::slice::from_ref);
        self.view.foreign_leader() && (from_another || by_way)
    }

    /// A foreign leader's member key may still tell of what it was before its promotion.
    fn same_number(&self) -> Lineage {
        let seen = self.foreign_seen.map_or(self.born, |(_, at)| at);
        if self.view.foreign_leader() && !self.passed(seen, MEMBER_KEY) {
            return Lineage::Unknown;
        }
        Lineage::SameNumber
    }

    fn branch_of(&self, timeline: Timeline, beat: &Beat) -> Option<Branch> {
        let leaders = beat.timeline?;
        if timeline == leaders {
            return Some(Branch::Current);
        }
        let lines = self.view.history.as_ref().map(|h| h.value.as_slice()).unwrap_or_default();
        let complete = lines.len() == beat.timelines_ended as usize;
        if timeline < leaders && !complete {
            return None;
        }
        let line = lines.iter().find(|line| line.timeline == timeline);
        Some(line.map_or(Branch::NotThere, |line| Branch::Ended(line.end)))
    }
}

/// Where a timeline stands in the leader's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Branch {
    Current,
    Ended(Lsn),
    NotThere,
}
