//! This node holds the key: get PostgreSQL to be primary, keep it so, or let go.

use std::collections::BTreeSet;

use crate::cluster::{Accession, HistoryLine, Key, Purpose, ReignEnd};
use crate::disk::Ailment;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::plan::replica::STARTING;
use crate::postgres::{PgOp, PgState, SyncNames};
use crate::reason::{Reason, Situation};
use crate::state::Pg;
use crate::{Duration, Lsn, NodeName, Time, Timeline};

/// A primary that doesn't answer a new connection for this long is killed.
const UNRESPONSIVE: Duration = Duration::secs(3);
/// The same while the replicas see that it still commits: a saturated machine is no dead one.
const STARVED: Duration = Duration::secs(20);
/// WAL that came to a replica this long ago still speaks for the leader's PostgreSQL.
const WAL_MOVES: Duration = Duration::millis(2_500);

impl Node {
    pub(crate) fn plan_leader(&mut self) -> (Situation, Reason) {
        if self.reign.as_ref().is_some_and(|r| r.ended.is_some()) {
            return (Situation::Leader, self.send_release_again());
        }
        if self.reign.as_ref().is_some_and(|r| r.key_lost) && !self.deciding() {
            self.take_key_back();
        }
        self.withdraw_claim_against_me();
        if let Some(reason) = self.plan_mortal() {
            return (Situation::Leader, reason);
        }
        if self.reign.as_ref().is_some_and(|r| r.handover.is_some()) {
            return (Situation::Switchover, self.continue_handover());
        }
        if let Some(reason) = self.plan_restart() {
            return (Situation::Leader, reason);
        }
        if self.kill.is_some() {
            return (Situation::Leader, self.while_killed());
        }
        if let Some(decided) = self.plan_standby_leader() {
            return decided;
        }
        if let Some(reason) = self.plan_full() {
            return (Situation::Leader, reason);
        }
        let state = match &self.pg {
            Pg::Exited => {
                if self.breaks(Mutant::ReleasesBeforeDead) {
                    return (Situation::Leader, self.after_death());
                }
                self.kill_now();
                return (Situation::Leader, Reason::ReleasedAfterDeath);
            }
            Pg::Empty => return (Situation::Leader, self.after_death()),
            Pg::Unknown => {
                let reason = if self.op.is_some() { Reason::Busy } else { Reason::WaitingForFacts };
                return (Situation::Leader, self.progress().unwrap_or(reason));
            }
            Pg::Facts(facts) => facts.state.clone(),
        };
        let reason = match state {
            PgState::Running(_) if self.primary().is_some() => return self.lead(),
            PgState::Running(_) => self.promote(),
            PgState::Stopped(_) => self.start_or_release(),
            PgState::NotAccepting(_) => self.wait_for_start(),
            PgState::Unresponsive { since, halted } => self.unresponsive(since, halted),
            PgState::Absent | PgState::Broken(_) => self.data_vanished(),
        };
        (Situation::Leader, reason)
    }

    /// What the running operation is for.
    fn progress(&self) -> Option<Reason> {
        match &self.op.as_ref()?.op {
            PgOp::StartPrimary { .. } => Some(Reason::StartingInPlace),
            PgOp::Promote { .. } => Some(Reason::Promoting),
            PgOp::Init
            | PgOp::StartReplica { .. }
            | PgOp::Follow { .. }
            | PgOp::Stop
            | PgOp::Kill
            | PgOp::Rewind { .. }
            | PgOp::Clone { .. }
            | PgOp::SetNames { .. }
            | PgOp::EnsureSlots { .. } => None,
        }
    }

    fn take_key_back(&mut self) {
        let carried = self.serving() && self.primary().is_some();
        self.take_over(Accession::Return, None, carried);
    }

    fn send_release_again(&mut self) -> Reason {
        let end = self.reign.as_ref().and_then(|r| r.ended.clone());
        if let Some(end) = end.clone()
            && !self.deciding()
        {
            self.read();
            self.release(end);
        }
        match end {
            Some(ReignEnd::HandedOver { to, .. }) => Reason::HandedOver(to),
            Some(ReignEnd::Died | ReignEnd::Stopped { .. }) | None if self.promotion_refused() => {
                Reason::PromotionRefused
            }
            Some(ReignEnd::Died | ReignEnd::Stopped { .. }) | None => self.released_dead(),
        }
    }

    /// A ballot against a leader that lives can only do harm.
    fn withdraw_claim_against_me(&mut self) {
        let Some(claim) = &self.view.claim else { return };
        let other = claim.value.candidate != self.config.name;
        let ballot = claim.modified;
        if other && !claim.value.withdrawn && self.primary().is_some() && self.serving() {
            self.withdraw(ballot);
        }
    }

    // === getting there ===

    /// The list that stands from the first moment: of the voters that the takeover published, or of those
    /// that stood before, or nobody, where a commit must not be acknowledged before the voters of this
    /// term are known.
    fn first_names(&self) -> SyncNames {
        if self.reign.as_ref().is_none_or(|reign| reign.gate.is_none()) {
            return SyncNames::default();
        }
        let names: Vec<_> = self.first_listed().into_iter().collect();
        // What goes with the published quorum, whatever the policy says by now.
        let sync = self.view.sync.as_ref().map(|sync| &sync.value);
        let count = sync.map_or(0, |s| (s.voters.len() as u32).saturating_sub(s.quorum));
        if count == 0 || names.len() < count as usize {
            return SyncNames::nobody();
        }
        SyncNames { count, names }
    }

    fn promote(&mut self) -> Reason {
        if self.promotion_refused() {
            return self.leave_unpromoted();
        }
        if self.op.is_none() && self.all_persisted() && self.believes_for(Duration::millis(300)) {
            let names = self.first_names();
            if self.start_op(PgOp::Promote { names })
                && let Some(reign) = &mut self.reign
            {
                reign.promoted = true;
            }
        }
        if self.reign.as_ref().is_some_and(|r| r.start_failures >= 3) {
            self.kill_now();
            return Reason::StartFailed;
        }
        Reason::Promoting
    }

    pub(crate) fn promotion_refused(&self) -> bool {
        self.now < self.refused_until
    }

    /// Nothing was written in this reign: what this node holds is what it held before.
    fn leave_unpromoted(&mut self) -> Reason {
        if let Some(reign) = &self.reign {
            let before = reign.before.clone();
            self.durable.wal_term = before.wal_term;
            self.durable.wal_lineage = before.wal_lineage;
            self.durable.data_terms = before.data_terms;
            self.durable.data_from = before.data_from;
            self.durable.data_via = before.data_via;
            self.persist();
        }
        self.release(ReignEnd::Died);
        Reason::PromotionRefused
    }

    fn believes_for(&self, span: Duration) -> bool {
        self.belief_until().is_some_and(|end| self.now + span < end)
    }

    fn start_or_release(&mut self) -> Reason {
        let Some(reign) = &self.reign else { return Reason::Busy };
        if reign.was_primary || reign.start_failures >= 2 {
            return self.after_death();
        }
        self.start_in_place()
    }

    fn start_in_place(&mut self) -> Reason {
        if self.op.is_none() && self.all_persisted() && self.believes_for(Duration::millis(300)) {
            // A replica's directory gets a new timeline: it starts as a replica, and promotes.
            if self.stopped().is_some_and(|control| !Self::primary_data(control)) {
                self.start_op(PgOp::StartReplica { upstream: None });
            } else {
                let names = self.first_names();
                self.start_op(PgOp::StartPrimary { names });
            }
        }
        Reason::StartingInPlace
    }

    /// Recovery may take its time, but not for ever while others could go on.
    fn wait_for_start(&mut self) -> Reason {
        let unheeded = self.reign.as_ref().is_some_and(|r| r.unheeded);
        let least = if unheeded { STARTING } else { Duration::ZERO };
        let patience = self.policy().primary_start_timeout.max(least);
        let late = self.busy_since.is_some_and(|since| self.passed(since, patience));
        if late && !self.policy().pause && self.somebody_could_lead() {
            if let Some(reign) = &mut self.reign {
                reign.start_failures = 2;
            }
            self.kill_now();
            return Reason::StartFailed;
        }
        Reason::StartingInPlace
    }

    /// PostgreSQL is dead and nothing of it is left. Somebody who has every commit goes on at
    /// once; otherwise it starts in place.
    pub(crate) fn after_death(&mut self) -> Reason {
        if self.op.is_some() || self.policy().pause {
            return Reason::Busy;
        }
        if self.in_flight(Purpose::TakeOver) > 0 {
            return Reason::StartingInPlace;
        }
        let failed = self.reign.as_ref().is_some_and(|r| r.start_failures >= 2);
        let at_once = self.policy().primary_start_timeout == Duration::ZERO
            || self.ailment().is_some_and(Ailment::unfits);
        if failed || self.somebody_can_follow() || (at_once && self.somebody_could_lead()) {
            self.release(ReignEnd::Died);
            return if failed { Reason::StartFailed } else { self.released_dead() };
        }
        if self.reign.as_ref().is_some_and(|r| r.was_primary) {
            return self.begin_anew();
        }
        if self.stopped().is_some() { self.start_in_place() } else { Reason::WaitingForFacts }
    }

    /// The same leader, but PostgreSQL starts again: under a new term, so that nothing that was said
    /// under the old one, and may still be on its way, speaks for the new primary. What it recovers
    /// must be on the voters before clients see it.
    pub(crate) fn begin_anew(&mut self) -> Reason {
        if !self.deciding() {
            self.take_over(Accession::Return, None, false);
        }
        Reason::StartingInPlace
    }

    /// In synchronous modes: enough voters live to elect one of them.
    pub(crate) fn somebody_can_follow(&self) -> bool {
        self.somebody_can_follow_if(|_| true)
    }

    fn somebody_can_follow_if(&self, counts: impl Fn(&NodeName) -> bool) -> bool {
        let Some(sync) = self.view.sync.as_ref().map(|s| &s.value) else { return false };
        if !self.policy().synchronous() || !sync.names_voters() {
            return false;
        }
        let living = sync
            .voters
            .iter()
            .filter(|(name, _)| counts(name))
            .filter(|(name, admitted)| {
                self.patroni_electable(name)
                    || self.heard(name, Duration::millis(500)).is_some_and(|p| {
                        let same =
                            admitted.is_none_or(|instance| p.beat.instance == Some(instance));
                        same && p.beat.electable && matches!(p.beat.pg, PeerPg::Replica { .. })
                    })
            })
            .count();
        living > sync.quorum as usize
    }

    /// A replica that streamed from here a moment ago and may lead: in synchronous modes a voter, else
    /// one that doesn't lag too far.
    pub(crate) fn somebody_could_lead(&self) -> bool {
        self.somebody_could_lead_if(|_| true)
    }

    /// The same, of those that `counts` says.
    pub(crate) fn somebody_could_lead_if(&self, counts: impl Fn(&NodeName) -> bool) -> bool {
        if self.policy().synchronous() {
            return self.somebody_can_follow_if(counts);
        }
        let end = self.last_known_lsn();
        let most = self.policy().maximum_lag_on_failover;
        self.view.members.keys().filter(|name| counts(name)).any(|name| {
            self.patroni_electable(name)
                || self.heard(name, Duration::millis(500)).is_some_and(|peer| {
                    let beat = &peer.beat;
                    let near = beat.position.is_some_and(|p| p.lsn.lag_behind(end) <= most);
                    beat.electable && near && matches!(beat.pg, PeerPg::Replica { .. })
                })
        })
    }

    /// A starved PostgreSQL answers late and goes on committing, which the replicas see; one that
    /// hangs does not.
    fn unresponsive(&mut self, since: Time, halted: bool) -> Reason {
        let moves = !halted && self.wal_moves();
        let patience = if moves { STARVED } else { UNRESPONSIVE };
        if self.policy().pause || !self.passed(since, patience) {
            return Reason::AnswersLate;
        }
        self.kill_now();
        Reason::Unresponsive
    }

    /// Replicas have got more of this leader's WAL within the last moments.
    fn wal_moves(&mut self) -> bool {
        let term = self.leads();
        let positions = self.peers.values().filter_map(|peer| peer.beat.position);
        let end = positions.filter(|p| Some(p.term) == term).map(|p| p.lsn).max();
        let now = self.now;
        let Some(reign) = &mut self.reign else { return false };
        match (reign.wal_seen, end) {
            (Some((seen, _)), Some(end)) if end > seen => reign.wal_seen = Some((end, Some(now))),
            (None, Some(end)) => reign.wal_seen = Some((end, None)),
            (Some(_), Some(_)) | (_, None) => {}
        }
        let moved = reign.wal_seen.and_then(|(_, moved)| moved);
        moved.is_some_and(|at| now.since(at) <= WAL_MOVES)
    }

    pub(super) fn data_vanished(&mut self) -> Reason {
        if self.op.is_some() {
            return Reason::Busy;
        }
        if self.maybe_alive {
            return Reason::DataVanished;
        }
        self.durable.wal_term = None;
        self.durable.wal_lineage = Vec::new();
        self.persist();
        self.release(ReignEnd::Died);
        Reason::DataVanished
    }

    // === being there ===

    fn lead(&mut self) -> (Situation, Reason) {
        self.ensure_slots();
        self.note_start();
        if let Some(reign) = &mut self.reign {
            reign.wal_seen = None;
        }
        if let Some(decided) = self.plan_switchover() {
            return decided;
        }
        self.publish_initialize();
        self.publish_timelines();
        self.publish_failsafe();
        self.arrange_list();
        self.open_for_clients();
        let serving = self.reign.as_ref().is_some_and(|r| r.serving);
        let reason = match (serving, self.failsafe_active()) {
            (false, _) => Reason::WaitingForVoters,
            (true, true) => Reason::Failsafe,
            (true, false) => self.leads_ailing().unwrap_or(Reason::Leading),
        };
        (Situation::Leader, reason)
    }

    /// Where this term's WAL begins: the switch point after a promotion, the end of recovery
    /// otherwise.
    fn note_start(&mut self) {
        let Some(timeline) = self.timeline() else { return };
        let Some(primary) = self.primary() else { return };
        let promoted = primary.history.last().map(|line| line.end);
        let flushed = primary.flushed;
        let ended = primary.history.len() as u32;
        let now = self.now;
        // Who follows at once finds its slot: otherwise it comes back only after a pause.
        let alone = self.view.members.len() <= 1;
        let failing = self.backoff.failures > 0;
        let Some(reign) = &mut self.reign else { return };
        reign.was_primary = true;
        if reign.start.is_none() && (reign.slots.is_some() || alone || failing) {
            let branch = promoted.filter(|_| reign.promoted);
            let start = branch.unwrap_or(flushed);
            reign.start = Some((timeline, start));
            reign.timelines_ended = ended;
            reign.next_beat = now;
        }
    }

    pub(super) fn ensure_slots(&mut self) {
        let have = self.reign.as_ref().and_then(|r| r.slots.as_ref());
        // A member that is away for a while finds its WAL still there.
        let known = self.view.members.keys().chain(have.into_iter().flatten());
        let nodes = self.with_slots(known);
        if have != Some(&nodes) && !(nodes.is_empty() && have.is_none()) {
            self.start_op(PgOp::EnsureSlots { nodes });
        }
    }

    /// Those of them who stream from whoever leads here.
    fn with_slots<'a>(&self, known: impl Iterator<Item = &'a NodeName>) -> Vec<NodeName> {
        let streams = |node: &&NodeName| {
            **node != self.config.name
                && self.view.members.get(*node).is_none_or(|m| !m.value.tags.nostream)
        };
        let nodes: BTreeSet<&NodeName> = known.filter(streams).collect();
        nodes.into_iter().cloned().collect()
    }

    /// Before the promotion, while others are waited for: a standby can have slots too.
    pub(crate) fn ensure_slots_ahead(&mut self) {
        let nodes = self.with_slots(self.view.members.keys());
        if self.slots_ahead.as_ref() != Some(&nodes) && !nodes.is_empty() {
            self.start_op(PgOp::EnsureSlots { nodes });
        }
    }

    /// Whoever follows finds its slot; and nothing waits for it.
    pub(super) fn slots_while_waiting(&mut self) {
        let receives = self.replica().is_none_or(|r| r.upstream.is_some() || r.streaming);
        if !receives && self.op.is_none() {
            self.ensure_slots_ahead();
        }
    }

    /// `history` has a line for each timeline that ended (contract 1.3).
    fn publish_timelines(&mut self) {
        let Some(primary) = self.primary() else { return };
        let known = self.view.history.as_ref().map(|h| h.value.clone()).unwrap_or_default();
        let same = known.len() == primary.history.len()
            && known
                .iter()
                .zip(&primary.history)
                .all(|(k, p)| k.timeline == p.timeline && k.end == p.end);
        if same {
            return;
        }
        let last = primary.history.len().saturating_sub(1);
        let lines = primary.history.iter().enumerate().map(|(i, line)| {
            let old = known.iter().find(|k| k.timeline == line.timeline && k.end == line.end);
            old.cloned().unwrap_or_else(|| self.history_line(line.timeline, line.end, i == last))
        });
        let lines = lines.collect();
        self.publish_history(lines);
    }

    fn history_line(&self, timeline: Timeline, end: Lsn, mine: bool) -> HistoryLine {
        let reason = "no recovery target specified".to_owned();
        HistoryLine { timeline, end, reason, at: 0, leader: mine.then(|| self.config.name.clone()) }
    }

    /// Clients are let in: at once where nothing was promised to voters, else when a list of this
    /// term is published, whose voters have the end of recovery, and commits wait for it.
    fn open_for_clients(&mut self) {
        let Some(primary) = self.primary() else { return };
        let listed = !primary.names.is_nobody();
        let published = self.view.modified(&Key::Sync);
        let early = self.breaks(Mutant::ServesTooEarly);
        let now = self.now;
        let Some(reign) = &mut self.reign else { return };
        let open = reign.gate.is_none() || reign.is_safe_to_read(published) && listed;
        if !reign.serving && (open || early) {
            reign.serving = true;
            reign.next_beat = now;
        }
    }

    /// Nodes that stream from here.
    pub(crate) fn streaming_nodes(&self) -> BTreeSet<NodeName> {
        let senders = self.primary().map(|p| p.senders.as_slice()).unwrap_or_default();
        senders.iter().filter(|s| s.streaming).map(|s| s.node.clone()).collect()
    }
}
