//! Nobody leads, or the leader is silent: who may try, when, and with whose consent.
//! The clock decides who may try, never how many must agree (docs/protocol.md, Pledges).

use std::collections::BTreeSet;

use super::fetch::Ahead;
use crate::cluster::{Accession, Purpose, ReignEnd, SyncState};
use crate::input::{Action, Promise};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::{PeerMessage, PeerPg, PledgeAnswer, Position};
use crate::postgres::{PgOp, PgState};
use crate::reason::Reason;
use crate::state::{Candidacy, Pg};
use crate::{Duration, NodeName, Revision};

/// No beat for this long, from a peer that had been heard: its agent is silent.
const AGENT_SILENT: Duration = Duration::millis(500);
/// The same when the connection to it ended: its process is gone.
const AGENT_GONE: Duration = Duration::millis(150);
/// A peer that was never heard may still be connecting.
const NEVER_HEARD: Duration = Duration::millis(1_500);
/// How long the others have to say where they stand.
const ROLL_CALL: Duration = Duration::millis(150);
/// A better candidate that doesn't try within this time is not waited for.
const PRECEDENCE: Duration = Duration::secs(1);
/// A ballot that isn't decided within this time is withdrawn.
const BALLOT: Duration = Duration::secs(2);
/// Others get this long before a former leader that released takes its place again, and a named
/// successor before anyone else tries.
const ABSTAIN: Duration = Duration::secs(3);
/// A former leader that stopped in order comes first while it is likely to return.
const RETURN: Duration = Duration::secs(10);

impl Node {
    /// Whether the place of the leader may be open, so that it is worth thinking about.
    pub(crate) fn vacant(&mut self) -> bool {
        if self.holds() {
            return false;
        }
        let open = match (&self.view.leader, self.view.reign_end()) {
            (None, _) => true,
            // Its lease is its word, whatever name the key carries.
            (Some(_), _) if self.view.foreign_leader() => false,
            (Some(leader), _) if leader.value == self.config.name => true,
            (Some(_), _) => self.silent() || self.suspects_leader(),
        };
        if open {
            self.vacant_since.get_or_insert(self.now);
        }
        open || self.candidacy.is_some()
    }

    pub(crate) fn leave_election(&mut self) {
        self.vacant_since = None;
        self.open_since = None;
        self.slots_ahead = None;
        self.yielded_to = None;
    }

    /// The leader's agent is silent and its PostgreSQL gives no sign either.
    fn suspects_leader(&self) -> bool {
        let Some(leader) = self.last_leader_name() else { return false };
        if self.wal_arrives() {
            return false;
        }
        match self.peers.get(leader) {
            None => self.passed(self.born, NEVER_HEARD) && self.stream_is_lost(NEVER_HEARD),
            Some(peer) if peer.lost => {
                self.passed(peer.heard, AGENT_GONE) && self.stream_is_lost(Duration::ZERO)
            }
            Some(peer) => self.passed(peer.heard, AGENT_SILENT),
        }
    }

    fn stream_is_lost(&self, span: Duration) -> bool {
        self.replica().is_none() || self.stream_lost.is_some_and(|since| self.passed(since, span))
    }

    pub(crate) fn plan_election(&mut self) -> Reason {
        if let Some(reason) = self.awaits() {
            return reason;
        }
        if self.candidacy.is_some() {
            return self.continue_candidacy();
        }
        if let Some(candidate) = self.bound_to_candidate() {
            return Reason::Pledged(candidate);
        }
        if let Some(reason) = self.become_ready() {
            return reason;
        }
        if self.promotion_refused() {
            return Reason::PromotionRefused;
        }
        if self.was_last_leader() {
            return self.mortally_ill().unwrap_or_else(|| self.plan_return());
        }
        if let Some(reason) = self.wait_for_others() {
            self.open_since = None;
            return reason;
        }
        self.let_go_of_dead();
        if self.open_since.is_none() {
            self.open_since = Some(self.now);
            // Who comes first is judged by where everybody stands now.
            self.next_peer_beat = self.now;
        }
        if let Some(reason) = self.unfit() {
            return reason;
        }
        self.stand()
    }

    /// An election needs a PostgreSQL that can say how far it got.
    fn become_ready(&mut self) -> Option<Reason> {
        if (self.op.is_some() || self.kill.is_some()) && !self.stops_receiving() {
            let ill = self.mortally_ill().filter(|_| self.kill.is_some());
            return Some(ill.unwrap_or(Reason::Busy));
        }
        match &self.pg {
            Pg::Unknown | Pg::Empty => Some(Reason::WaitingForFacts),
            Pg::Exited => {
                self.kill_now();
                Some(Reason::StartingReplica)
            }
            Pg::Facts(facts) => match &facts.state {
                PgState::Running(_) => self.let_go_of_foreign(),
                PgState::Stopped(control)
                    if self.was_last_leader() && Self::primary_data(control) =>
                {
                    None
                }
                PgState::Stopped(control) => {
                    // Data of a primary whose term is not the last may have diverged: it waits for
                    // a leader to compare with.
                    let alone = self.operator_named_me() || self.policy().standby;
                    if Self::primary_data(control) && !alone {
                        return Some(Reason::WaitingForLeader);
                    }
                    self.start_op(PgOp::StartReplica { upstream: None });
                    Some(Reason::StartingReplica)
                }
                PgState::NotAccepting(control) => Some(self.starts_unasked(&control.clone())),
                PgState::Unresponsive { .. } => Some(Reason::AnswersLate),
                PgState::Absent | PgState::Broken(_) => Some(self.restore_alone()),
            },
        }
    }

    /// The next term may be the same node's, on another history: it is followed anew, by what its
    /// keys say then.
    fn let_go_of_foreign(&mut self) -> Option<Reason> {
        let points = self.replica().is_some_and(|r| r.upstream.is_some());
        if !points || !self.view.foreign_over() {
            return None;
        }
        self.start_op(PgOp::Follow { upstream: None });
        Some(Reason::WaitingForLeader)
    }

    // === returning ===

    /// The last leader has every acknowledged commit: it may lead again without asking, unless it
    /// let go for others.
    pub(crate) fn plan_return(&mut self) -> Reason {
        if !self.was_last_leader() {
            return Reason::WaitingForLeader;
        }
        if let Some(candidate) = self.bound_to_candidate() {
            return Reason::Pledged(candidate);
        }
        let patience = match self.view.reign_end() {
            Some(ReignEnd::HandedOver { to, .. }) if self.patroni.contains_key(to) => RETURN,
            Some(ReignEnd::Died | ReignEnd::HandedOver { .. }) => ABSTAIN,
            Some(ReignEnd::Stopped { .. }) | None => Duration::ZERO,
        };
        if !self.passed(self.silence.since, patience) {
            return match self.view.reign_end() {
                Some(ReignEnd::HandedOver { to, .. }) => Reason::WaitingForCandidate(to.clone()),
                _ => Reason::ReleasedAfterDeath,
            };
        }
        // A replica that took the key and died before its promotion returns as one, and promotes.
        let standby = self.policy().standby;
        let startable = self.stopped().is_some_and(|c| standby || Self::primary_data(c));
        if (startable || self.running().is_some()) && !self.deciding() && self.op.is_none() {
            self.take_over(Accession::Return, None, false);
            return Reason::TakingOver;
        }
        Reason::NoPosition
    }

    // === who comes first ===

    fn wait_for_others(&mut self) -> Option<Reason> {
        let me = &self.config.name;
        match self.view.reign_end() {
            Some(ReignEnd::HandedOver { to, lsn }) if to == me => {
                let lsn = *lsn;
                return Some(self.accept_handover(lsn));
            }
            Some(ReignEnd::HandedOver { to, .. })
                if !self.passed(self.silence.since, ABSTAIN)
                    || self.patroni_candidate_comes(to, RETURN) =>
            {
                return Some(Reason::WaitingForCandidate(to.clone()));
            }
            Some(ReignEnd::Stopped { .. }) => {
                let former = self.last_leader_name()?;
                let lives = self.heard(former, Duration::secs(1)).is_some();
                let patience = if lives { RETURN } else { ABSTAIN };
                if !self.passed(self.vacant_since.unwrap_or(self.now), patience) {
                    return Some(Reason::WaitingForFormerLeader);
                }
            }
            Some(ReignEnd::Died | ReignEnd::HandedOver { .. }) | None => {}
        }
        let released = self.view.reign_end().is_some() || self.view.foreign_over();
        if !self.voters_decide() && !released && !self.silent() {
            return Some(Reason::WaitingForSilence);
        }
        None
    }

    /// A planned hand-over names this node and says how far it must have got.
    fn accept_handover(&mut self, end: crate::Lsn) -> Reason {
        match self.position() {
            Some(position)
                if (position.lsn > end && Some(position.term) == self.view.current_term())
                    || self.breaks(Mutant::HandsOverTooEarly) =>
            {
                self.take_over(Accession::HandOver, None, false);
                self.ensure_slots_ahead();
                Reason::TakingOver
            }
            Some(_) | None => Reason::NoPosition,
        }
    }

    /// Synchronous: pledges decide, whatever the clock says.
    pub(super) fn voters_decide(&self) -> bool {
        self.policy().synchronous() && !self.operator_named_me()
    }

    /// An operator named this node though nobody leads: loss is accepted.
    pub(crate) fn operator_named_me(&self) -> bool {
        self.view.failover.as_ref().is_some_and(|f| {
            f.value.leader.is_none() && f.value.member.as_ref() == Some(&self.config.name)
        })
    }

    fn unfit(&mut self) -> Option<Reason> {
        if self.config.tags.nofailover() {
            return Some(Reason::NotElectable);
        }
        if self.operator_named_me() && self.hears_leader() {
            return Some(Reason::LeaderLives);
        }
        if let Some(named) = self.view.failover.as_ref().and_then(|f| f.value.member.as_ref())
            && *named != self.config.name
            && (self.patroni_candidate_comes(named, RETURN)
                || (self.heard(named, Duration::secs(1)).is_some_and(|p| p.beat.electable)
                    && !self.passed(self.asked_failover.1, RETURN)))
        {
            let named = named.clone();
            self.ask_patroni(ROLL_CALL);
            return Some(Reason::WaitingForCandidate(named));
        }
        if self.voters_decide() {
            let sync = self.view.sync.as_ref().map(|s| &s.value);
            match sync {
                Some(sync) if !sync.names_voters() => return Some(Reason::OnlyFormerLeader),
                None => return Some(Reason::OnlyFormerLeader),
                Some(sync) if !sync.voters.contains_key(&self.config.name) => {
                    return Some(Reason::NotAVoter);
                }
                Some(_) => {}
            }
        }
        let left_out =
            |map: &BTreeSet<NodeName>| !map.is_empty() && !map.contains(&self.config.name);
        let map = self.view.failsafe.as_ref().map(|map| &map.value);
        if !self.policy().synchronous() && !self.operator_named_me() && map.is_some_and(left_out) {
            return Some(Reason::NotInFailsafe);
        }
        let Some(position) = self.position() else { return Some(Reason::NoPosition) };
        let checks = self.policy().check_timeline && !self.policy().standby;
        if checks && !self.operator_named_me() && self.on_older_timeline() {
            return Some(Reason::OlderTimeline);
        }
        let lag = position.lsn.lag_behind(self.last_known_lsn());
        if !self.voters_decide()
            && !self.operator_named_me()
            && lag > self.policy().maximum_lag_on_failover
            && !self.breaks(Mutant::IgnoresLag)
        {
            return Some(Reason::TooFarBehind);
        }
        self.too_ill_to_lead()
            .or_else(|| self.ahead_of_me(position))
            .or_else(|| self.heed_patroni(position))
    }

    /// A peer that could lead, is further ahead or comes first among equals, and still has time.
    fn ahead_of_me(&self, mine: Position) -> Option<Reason> {
        if self.passed(self.open_since.unwrap_or(self.now), PRECEDENCE + self.jitter())
            || self.operator_named_me()
            || self.breaks(Mutant::IgnoresMoreAdvanced)
        {
            return None;
        }
        let others = self.electorate();
        let named = self.view.failover.as_ref().and_then(|f| f.value.member.as_ref());
        let chosen = named == Some(&self.config.name);
        let better = self.peers.iter().find(|(name, peer)| {
            let theirs = peer.beat.position;
            others.contains(*name)
                && self.heard(name, AGENT_SILENT).is_some()
                && peer.beat.electable
                && matches!(peer.beat.pg, PeerPg::Replica { .. })
                && theirs.is_some_and(|p| {
                    p > mine || (p == mine && !chosen && self.comes_before_me(name))
                })
        });
        better.map(|(name, _)| Reason::AnotherIsAhead(name.clone()))
    }

    /// Among equals the greater priority leads, then the first by name.
    fn comes_before_me(&self, node: &NodeName) -> bool {
        let (theirs, mine) = (self.failover_priority(node), self.config.tags.failover_priority);
        theirs > mine || (theirs == mine && *node < self.config.name)
    }

    fn jitter(&self) -> Duration {
        Duration::millis(self.config.seed % 300)
    }

    // === standing ===

    fn sync_state(&self) -> SyncState {
        self.view.sync.as_ref().map(|s| s.value.clone()).unwrap_or_default()
    }

    /// Whose pledges are asked for, this node left out.
    fn electorate(&self) -> BTreeSet<NodeName> {
        let sync = self.sync_state();
        let everyone = self.view.members.keys();
        let names: BTreeSet<NodeName> = if self.voters_decide() {
            sync.voters.keys().cloned().collect()
        } else {
            everyone
                .filter(|n| {
                    self.heard(n, AGENT_SILENT)
                        .is_some_and(|p| matches!(p.beat.pg, PeerPg::Replica { .. }))
                })
                .cloned()
                .collect()
        };
        names.into_iter().filter(|name| *name != self.config.name).collect()
    }

    fn stand(&mut self) -> Reason {
        if self.now < self.stand_back_until || self.fresh_lease().is_none() || !self.knows_others()
        {
            return Reason::AskingPledges;
        }
        if let Some(candidate) = self.open_claim() {
            return Reason::AnotherIsAhead(candidate);
        }
        if self.breaks(Mutant::PromoteWithoutKey) {
            let names = crate::postgres::SyncNames::default();
            self.start_op(PgOp::Promote { names });
            return Reason::Promoting;
        }
        let by = if self.operator_named_me() {
            Accession::Operator
        } else if self.policy().synchronous() {
            Accession::Pledges
        } else {
            Accession::Silence
        };
        self.candidacy = Some(Candidacy {
            ballot: None,
            since: self.now,
            next_ask: self.now,
            asked: self.electorate(),
            answers: std::collections::BTreeMap::new(),
            by,
            fetch: None,
        });
        self.claim(false);
        self.slots_while_waiting();
        Reason::AskingPledges
    }

    /// Somebody else's ballot is under way: a newer claim would only kill it.
    fn open_claim(&self) -> Option<NodeName> {
        let claim = self.view.claim.as_ref().filter(|c| !c.value.withdrawn)?;
        let fresh = !self.passed(self.claim_seen.1, BALLOT);
        let other = claim.value.candidate != self.config.name;
        (fresh && other && !self.operator_named_me()).then(|| claim.value.candidate.clone())
    }

    /// Everybody who lives has said where he stands since the place became vacant, or had the time
    /// to: otherwise two nodes think of themselves as the first, and hinder each other.
    fn knows_others(&self) -> bool {
        let Some(since) = self.open_since else { return true };
        let open = |name: &NodeName| {
            self.heard(name, AGENT_SILENT).is_some_and(|peer| {
                // While WAL arrives there, what it says of its position is not its last word.
                let streams = peer.beat.pg == PeerPg::Replica { streaming: true };
                peer.heard < since || (streams && peer.beat.hears_leader)
            })
        };
        let known = !self.wal_arrives() && !self.electorate().iter().any(open);
        known || self.passed(since, ROLL_CALL)
    }

    /// The claim is in the store: promise it to oneself, like any voter.
    pub(crate) fn claim_confirmed(&mut self, ballot: Revision) {
        let Some(candidacy) = &mut self.candidacy else { return };
        candidacy.ballot = Some(ballot);
        let against = self.view.current_term();
        self.durable.promise =
            Some(Promise { ballot, candidate: self.config.name.clone(), against });
        self.persist();
    }

    fn continue_candidacy(&mut self) -> Reason {
        let Some(candidacy) = &self.candidacy else { return Reason::AskingPledges };
        let Some(ballot) = candidacy.ballot else {
            if self.in_flight(Purpose::Claim) == 0 {
                self.candidacy = None;
            }
            return Reason::AskingPledges;
        };
        let lost = self.view.claim.as_ref().is_some_and(|c| c.modified > ballot);
        let over = self.durable.promise.as_ref().is_none_or(|p| self.newer_term_than(p.against));
        let late = self.passed(candidacy.since, BALLOT);
        // Where the clock decides, a leader that speaks again has not been silent.
        let released = self.view.reign_end().is_some() || self.view.foreign_over();
        let speaks = candidacy.by != Accession::Pledges && !released && !self.silent();
        if lost || over || late || speaks {
            return self.give_up(ballot, lost || over);
        }
        self.ask(ballot);
        if let Some(reason) = self.fetching() {
            return reason;
        }
        if self.replica().is_some_and(|r| r.upstream.is_some() || r.streaming) {
            self.stop_receiving();
        } else {
            self.slots_while_waiting();
        }
        self.count(ballot)
    }

    fn give_up(&mut self, ballot: Revision, decided: bool) -> Reason {
        let refused = self.candidacy.as_ref().and_then(Candidacy::last_refusal);
        let (needed, have) = (self.needed(), self.pledged().len() as u32);
        self.candidacy = None;
        self.stand_back_until = self.now + Duration::millis(200) + self.jitter();
        if !decided {
            self.withdraw(ballot);
        }
        Reason::TooFewPledges { needed, have, refused }
    }

    fn ask(&mut self, ballot: Revision) {
        let Some(candidacy) = &mut self.candidacy else { return };
        if self.now < candidacy.next_ask {
            return;
        }
        candidacy.next_ask = self.now + Duration::millis(100);
        let unanswered: Vec<NodeName> = candidacy
            .asked
            .iter()
            .filter(|n| !matches!(candidacy.answers.get(*n), Some(PledgeAnswer::Pledged { .. })))
            .cloned()
            .collect();
        for to in unanswered {
            self.push(Action::Send { to, message: PeerMessage::AskPledge { ballot } });
        }
    }

    /// How many pledges are needed, this node's included.
    fn needed(&self) -> u32 {
        match self.candidacy.as_ref().map(|c| c.by) {
            Some(Accession::Pledges) => {
                let short = u32::from(self.breaks(Mutant::OnePledgeTooFew));
                (self.sync_state().quorum + 1).saturating_sub(short).max(1)
            }
            _ => 1,
        }
    }

    /// The positions of those that pledged under the data directory that the leader admitted,
    /// this node among them.
    fn pledged(&self) -> Vec<(NodeName, Position)> {
        let Some(candidacy) = &self.candidacy else { return Vec::new() };
        let sync = self.sync_state();
        let counts = |name: &NodeName, instance| {
            candidacy.by != Accession::Pledges
                || sync
                    .voters
                    .get(name)
                    .is_some_and(|admitted| admitted.is_none_or(|i| i == instance))
        };
        let mut pledged: Vec<_> = candidacy
            .answers
            .iter()
            .filter_map(|(name, answer)| match answer {
                PledgeAnswer::Pledged { position, instance } if counts(name, *instance) => {
                    Some((name.clone(), *position))
                }
                PledgeAnswer::Pledged { .. } | PledgeAnswer::Refused(_) => None,
            })
            .collect();
        let quiet = self.replica().filter(|r| r.upstream.is_none() && !r.streaming && r.at_end);
        if let (Some(_), Some(mine), Some(instance)) = (quiet, self.position(), self.instance())
            && counts(&self.config.name, instance)
            && self.all_persisted()
            && !self.unsettled()
        {
            if candidacy.by == Accession::Pledges {
                pledged.extend(self.patroni_votes(mine));
            }
            pledged.push((self.config.name.clone(), mine));
        }
        pledged
    }

    fn count(&mut self, ballot: Revision) -> Reason {
        let pledged = self.pledged();
        let (needed, have) = (self.needed(), pledged.len() as u32);
        let refused = self.candidacy.as_ref().and_then(Candidacy::last_refusal);
        let waiting = Reason::TooFewPledges { needed, have, refused };
        let Some((_, mine)) = pledged.iter().find(|(name, _)| *name == self.config.name).cloned()
        else {
            return waiting;
        };
        let ahead = pledged.iter().max_by_key(|(_, theirs)| *theirs).filter(|(_, p)| mine < *p);
        let named = self.candidacy.as_ref().is_some_and(|c| c.by == Accession::Operator);
        if let Some((name, theirs)) = ahead.cloned()
            && !named
            && !self.breaks(Mutant::IgnoresMoreAdvanced)
        {
            match self.someone_is_ahead(&name, theirs) {
                Ahead::Leads => {
                    self.give_up(ballot, false);
                    self.stand_back_until = self.now + PRECEDENCE;
                    return Reason::AnotherIsAhead(name);
                }
                Ahead::Fetched => return self.fetching().unwrap_or(waiting),
                Ahead::LeftOut => {}
            }
        }
        if have < needed || !self.everybody_answered() {
            return waiting;
        }
        if let Some(reason) = self.heed_patroni(mine) {
            return reason;
        }
        let by = self.candidacy.as_ref().map_or(Accession::Pledges, |c| c.by);
        self.take_over(by, Some(ballot), false);
        Reason::TakingOver
    }

    /// Asynchronous: nobody's consent is needed, but whoever lives is heard first, so that the most
    /// advanced leads.
    fn everybody_answered(&self) -> bool {
        let Some(candidacy) = &self.candidacy else { return false };
        match candidacy.by {
            Accession::Pledges => true,
            Accession::Founding
            | Accession::HandOver
            | Accession::Silence
            | Accession::Return
            | Accession::Operator => {
                let pending = candidacy.asked.iter().any(|name| {
                    !matches!(candidacy.answers.get(name), Some(PledgeAnswer::Pledged { .. }))
                        && self.heard(name, AGENT_SILENT).is_some()
                });
                !pending || self.passed(candidacy.since, PRECEDENCE)
            }
        }
    }

    /// The takeover was refused: something changed in between; look again before trying again.
    pub(crate) fn takeover_failed(&mut self) {
        if let Some(ballot) = self.candidacy.as_ref().and_then(|c| c.ballot) {
            self.give_up(ballot, false);
        }
    }
}
