//! What follows from the facts at hand: questions that several plans ask, each answered in one place.
//! Reads only; leaves what to do about the answers to `plan`.

use crate::cluster::{Beat, Purpose, TermRecord, TermStart};
use crate::mutant::Mutant;
use crate::node::{HEARING, Node};
use crate::peer::{PeerBeat, PeerPg, Position};
use crate::policy::Policy;
use crate::postgres::{
    ControlFacts, ControlState, PgFacts, PgRole, PgState, PrimaryFacts, ReplicaFacts, RunningFacts,
    Upstream,
};
use crate::state::{Peer, Pg};
use crate::{Duration, Instance, NodeName, Reason, Term, Time, Timeline};

impl Node {
    /// What was said last holds on while it is gone from the store: the leader gives it back.
    pub(crate) fn policy(&self) -> &Policy {
        let said = self.view.config.as_ref().map(|config| &config.value);
        said.or(self.policy_said.as_ref()).unwrap_or(&self.config.founding_policy)
    }

    pub(crate) fn pg_facts(&self) -> Option<&PgFacts> {
        match &self.pg {
            Pg::Facts(facts) => Some(facts),
            Pg::Unknown | Pg::Exited | Pg::Empty => None,
        }
    }

    pub(crate) fn running(&self) -> Option<&RunningFacts> {
        match &self.pg_facts()?.state {
            PgState::Running(running) => Some(running),
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. } => None,
        }
    }

    pub(crate) fn primary(&self) -> Option<&PrimaryFacts> {
        match &self.running()?.role {
            PgRole::Primary(primary) => Some(primary),
            PgRole::Replica(_) => None,
        }
    }

    pub(crate) fn replica(&self) -> Option<&ReplicaFacts> {
        match &self.running()?.role {
            PgRole::Replica(replica) => Some(replica),
            PgRole::Primary(_) => None,
        }
    }

    pub(crate) fn stopped(&self) -> Option<&ControlFacts> {
        match &self.pg_facts()?.state {
            PgState::Stopped(control) => Some(control),
            PgState::Absent
            | PgState::Broken(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. }
            | PgState::Running(_) => None,
        }
    }

    /// The data directory's life, when there is one.
    pub(crate) fn instance(&self) -> Option<Instance> {
        match &self.pg_facts()?.state {
            PgState::Running(running) => Some(running.instance),
            PgState::Stopped(control) | PgState::NotAccepting(control) => Some(control.instance),
            PgState::Absent | PgState::Broken(_) | PgState::Unresponsive { .. } => None,
        }
    }

    /// The timeline of the data.
    pub(crate) fn timeline(&self) -> Option<Timeline> {
        match &self.pg_facts()?.state {
            PgState::Running(running) => Some(running.timeline),
            PgState::Stopped(control) | PgState::NotAccepting(control) => Some(control.timeline),
            PgState::Absent | PgState::Broken(_) | PgState::Unresponsive { .. } => None,
        }
    }

    /// How far this node's WAL reaches, while PostgreSQL runs.
    pub(crate) fn position(&self) -> Option<Position> {
        // Nobody knows of which term the WAL is: an operator who names this node accepts that.
        // All WAL of a cluster that follows another one is of the same source.
        let unknown = (self.operator_named_me() || self.policy().standby).then_some(Term(0));
        let term = self.durable.wal_term.or(unknown)?;
        let lsn = match &self.running()?.role {
            PgRole::Primary(primary) => primary.flushed,
            PgRole::Replica(replica) => replica.received,
        };
        Some(Position { term, lsn })
    }

    /// A peer that was heard within `span`.
    pub(crate) fn heard(&self, node: &NodeName, span: Duration) -> Option<&Peer> {
        self.peers.get(node).filter(|p| !p.lost && self.now.since(p.heard) <= span)
    }

    /// What a peer said within `span`, by the clock: what it has counts only while it is fresh, though
    /// its silence doesn't count while this process stood still.
    pub(crate) fn fresh(&self, node: &NodeName, span: Duration) -> Option<&PeerBeat> {
        let peer = self.heard(node, span)?;
        (self.now.since(peer.said) <= span).then_some(&peer.beat)
    }

    /// The decision whose answer is awaited: a claim only asks.
    pub(crate) fn awaits(&self) -> Option<Reason> {
        let claims = self.in_flight(Purpose::Claim) > 0;
        let what = if claims { Reason::AskingPledges } else { Reason::TakingOver };
        self.deciding().then_some(what)
    }

    /// The leader, when it is another node.
    pub(crate) fn other_leader(&self) -> Option<&NodeName> {
        self.view.leader.as_ref().map(|l| &l.value).filter(|name| **name != self.config.name)
    }

    /// The last leader was seen on a later timeline than this node's.
    pub(crate) fn on_older_timeline(&self) -> bool {
        let beat = self.view.beat.as_ref().and_then(|b| b.value.timeline);
        let lines = self.view.history.as_ref().map(|h| h.value.as_slice()).unwrap_or_default();
        let ended = lines.last().map(|line| Timeline(line.timeline.0 + 1));
        self.timeline() < beat.max(ended)
    }

    /// Which of several equals leads, as a member's key says.
    pub(crate) fn failover_priority(&self, node: &NodeName) -> u32 {
        self.view.members.get(node).map_or(0, |m| m.value.tags.failover_priority)
    }

    /// The leader gives a sign of life: its agent believes and speaks, or WAL arrives.
    pub(crate) fn hears_leader(&self) -> bool {
        let Some(term) = self.view.current_term() else { return false };
        let Some(leader) = self.view.last_leader() else { return false };
        if self.view.reign_end().is_some() {
            return false;
        }
        let speaks = self.heard(leader, HEARING).is_some_and(|peer| {
            let leads = peer.beat.pg == PeerPg::Primary || self.policy().standby;
            peer.beat.leads == Some(term) && leads
        });
        speaks || self.wal_arrives()
    }

    /// From a member that isn't the leader WAL may go on coming when the leader is long dead.
    pub(crate) fn wal_arrives(&self) -> bool {
        let from_leader = |r: &ReplicaFacts| {
            matches!(r.upstream, Some(Upstream::Leader(_) | Upstream::StandbyLeader(_)))
        };
        let streaming = self.replica().is_some_and(|r| r.streaming && from_leader(r));
        streaming && self.wal_advanced.is_some_and(|(_, at)| self.now.since(at) <= HEARING)
    }

    /// The leader's beat of the current term, when its PostgreSQL is ready to be followed; for a
    /// foreign leader, what it would say.
    pub(crate) fn ready_beat(&self) -> Option<Beat> {
        if self.view.foreign_leader() {
            return self.foreign_beat();
        }
        let beat = &self.view.current_beat()?.value;
        (beat.ended.is_none() && beat.start.is_some()).then(|| beat.clone())
    }

    /// How long the leader's keys have stood still, against the ttl that its beat promised.
    pub(crate) fn silent(&self) -> bool {
        let ttl = self.view.beat.as_ref().map_or(self.policy().ttl, |b| b.value.ttl);
        let ttl =
            if self.breaks(Mutant::ImpatientSilence) { ttl.percent(40) } else { ttl.percent(101) };
        self.now.since(self.silence.since) > ttl
    }

    /// The former leader, with all that it had: this directory's WAL ends in the current term,
    /// which was this node's.
    pub(crate) fn was_last_leader(&self) -> bool {
        let Some(record) = self.view.term.as_ref().map(|t| &t.value) else { return false };
        if self.view.foreign_leader() || self.view.foreign.is_some() {
            return false;
        }
        // The term is on disk before anything is started under it: with the term before it, this
        // node died in between, and nothing was written.
        let wal = self.durable.wal_term;
        record.leader == self.config.name
            && wal.is_some()
            && (wal == self.view.current_term() || wal == record.lineage.last().copied())
    }

    /// It starts as a primary, for an agent that didn't live to see it: a replica's start says otherwise
    /// in pg_control before anything else.
    pub(crate) fn starts_as_primary(control: &ControlFacts) -> bool {
        matches!(control.state, ControlState::InCrashRecovery | ControlState::InProduction)
    }

    /// The data directory was a primary's when it was last written.
    pub(crate) fn primary_data(control: &ControlFacts) -> bool {
        match control.state {
            ControlState::ShutDown
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InProduction => true,
            ControlState::StartingUp
            | ControlState::ShutDownInRecovery
            | ControlState::InArchiveRecovery => false,
        }
    }

    /// The current term's beginning, when this node's WAL reaches it, becomes this WAL's term.
    pub(crate) fn learn_wal_term(&mut self) {
        // Also when that term is over: it may have ended before this node heard of it.
        let ours = self.view.current_beat().map(|beat| beat.value.clone());
        let beat = if self.view.foreign_leader() { self.foreign_beat() } else { ours };
        let (Some(term), Some(beat)) = (self.view.current_term(), beat) else { return };
        let (Some(running), Some(replica)) = (self.running(), self.replica()) else { return };
        let reaches = beat.start.is_some_and(|start| replica.received >= start);
        // Whatever came since this data was last compared came from that one node: its WAL on this
        // timeline past the term's beginning is the term's, also when the stream is gone by now.
        let from_leader = self.durable.data_from.is_some()
            && self.durable.data_from == self.last_leader_name().cloned()
            && !self.foreign_term();
        let reached = (from_leader || self.through_member_of(term))
            && beat.timeline == Some(running.timeline)
            && reaches;
        let latest = if reached { Some(term) } else { self.missed_term() };
        if let Some(term) = latest.filter(|term| self.durable.wal_term < Some(*term)) {
            self.enter_term(term);
            self.persist();
        }
    }

    /// The latest term that began and ended without this node's hearing of it, though its WAL came here
    /// from that term's leader.
    fn missed_term(&self) -> Option<Term> {
        let (running, replica) = (self.running()?, self.replica()?);
        let from = self.durable.data_from.as_ref().filter(|_| !self.foreign_term())?;
        let begun = &self.view.term.as_ref()?.value.begun;
        let here = |begun: &&TermStart| {
            begun.leader == *from
                && begun.timeline == running.timeline
                && replica.received >= begun.start
        };
        begun.iter().rfind(here).map(|begun| begun.term)
    }

    /// Where the terms before the next one began, as far as it was said.
    pub(crate) fn begun(&self) -> Vec<TermStart> {
        let Some(record) = self.view.term.as_ref().map(|term| &term.value) else {
            return Vec::new();
        };
        let now = self.view.current_beat().map(|beat| &beat.value).and_then(|beat| {
            let (term, leader) = (self.view.written_term()?, record.leader.clone());
            let (timeline, start) = (beat.timeline?, beat.start?);
            Some(TermStart { term, leader, timeline, start })
        });
        let mut begun: Vec<TermStart> = record.begun.iter().cloned().chain(now).collect();
        let excess = begun.len().saturating_sub(TermRecord::BEGUN);
        begun.split_off(excess)
    }

    /// A term that began and ended without this node: what it holds of WAL isn't in it for sure.
    pub(crate) fn last_leader_name(&self) -> Option<&NodeName> {
        self.view.last_leader()
    }

    /// Since `since`, at least `span` has passed.
    pub(crate) fn passed(&self, since: Time, span: Duration) -> bool {
        self.now.since(since) >= span
    }

    /// A term newer than the one that a promise was given against has begun.
    pub(crate) fn newer_term_than(&self, term: Option<Term>) -> bool {
        self.view.current_term() > term
    }

    /// The terms that this node's WAL continues, its own last.
    pub(crate) fn continued_terms(&self) -> Vec<Term> {
        let Some(mine) = self.durable.wal_term else { return Vec::new() };
        let written = self.view.term.as_ref().map(|t| t.value.lineage.as_slice());
        let known = if self.durable.wal_lineage.is_empty() {
            let known = |lineage: &&[Term]| {
                self.view.written_term() == Some(mine) || lineage.contains(&mine)
            };
            written.filter(known).unwrap_or_default()
        } else {
            self.durable.wal_lineage.as_slice()
        };
        let mut lineage: Vec<Term> = known.iter().copied().filter(|term| *term < mine).collect();
        lineage.push(mine);
        let excess = lineage.len().saturating_sub(TermRecord::LINEAGE);
        lineage.split_off(excess)
    }
}

#[cfg(test)]
mod tests;
