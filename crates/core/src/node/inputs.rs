//! Taking inputs in: what each says of the world, before anything is decided.
//! Leaves deciding to `plan`, and the answers of the store to `requests`.

use std::sync::Arc;

use super::{Node, STALLED};
use crate::cluster::ClusterView;
use crate::input::OpId;
use crate::peer::PeerMessage;
use crate::postgres::{PgFacts, PgOp, PgOpResult, PgRole, PgState, RunningFacts};
use crate::state::{Asked, Peer, Pg, RequestKind, Silence};
use crate::{Duration, Lsn, NodeName, Revision, Time};

/// Who streams for this long without a break, though nothing is written, streams.
const STEADY: Duration = Duration::secs(2);

impl Node {
    pub(super) fn advance(&mut self, now: Time) {
        let gap = now.since(self.now);
        if gap > STALLED {
            for peer in self.peers.values_mut() {
                peer.heard += gap;
            }
            self.stream_lost = self.stream_lost.map(|at| at + gap);
            self.fruitless = self.fruitless.map(|at| at + gap);
            self.health.stood_still(gap);
        }
        self.now = self.now.max(now);
    }

    pub(super) fn on_view(&mut self, mut view: Arc<ClusterView>) {
        if self.seen_view && view.revision <= self.view.revision {
            return;
        }
        self.add_foreign_term(&mut view);
        let leader = view.modified(&crate::cluster::Key::Leader);
        let beat = view.modified(&crate::cluster::Key::Beat);
        // That the key's lease expired is no sign of life.
        let expired = leader == Revision(0) && beat == self.silence.beat;
        let moved = leader != self.silence.leader || beat != self.silence.beat;
        if !self.seen_view || (moved && !expired) {
            self.silence = Silence { leader, beat, since: self.now };
        }
        let asked = view.modified(&crate::cluster::Key::Failover);
        if self.asked_failover.0 != asked {
            self.asked_failover = (asked, self.now);
        }
        let claimed = view.modified(&crate::cluster::Key::Claim);
        if self.claim_seen.0 != claimed {
            self.claim_seen = (claimed, self.now);
        }
        if view.modified(&crate::cluster::Key::Sync)
            != self.view.modified(&crate::cluster::Key::Sync)
        {
            // What was sent before compares another revision: it has landed, or never will.
            self.sent_syncs.clear();
        }
        self.seen_view = true;
        self.view = view;
        if let Some(config) = &self.view.config
            && self.policy_said.as_ref() != Some(&config.value)
        {
            self.policy_said = Some(config.value.clone());
        }
        self.pending.retain(|p| p.kind != RequestKind::Read);
        self.notice_term();
        self.check_reign();
    }

    /// Remembers the greatest term seen.
    fn notice_term(&mut self) {
        let term = self.view.current_term();
        let paused = self.policy().pause;
        let foreign = self.view.foreign != self.durable.foreign;
        if term > self.durable.term_seen || paused != self.durable.paused || foreign {
            self.durable.term_seen = self.durable.term_seen.max(term);
            self.durable.paused = paused;
            self.durable.foreign.clone_from(&self.view.foreign);
            self.persist();
        }
        self.notice_patroni();
        self.notice_foreign_wal();
    }

    pub(super) fn on_facts(&mut self, facts: PgFacts) {
        if facts.at < self.facts_from {
            return;
        }
        if let PgState::Running(running) = &facts.state
            && let PgRole::Replica(replica) = &running.role
        {
            let before = self.wal_advanced.map_or(Lsn::ZERO, |(lsn, _)| lsn);
            if self.wal_advanced.is_none() || replica.received > before {
                self.wal_advanced = Some((replica.received, facts.at));
            }
            self.note_stream(replica.streaming, replica.received > before);
            if replica.streaming {
                self.backoff.repaired = false;
            }
        } else {
            self.wal_advanced = None;
            self.stream_lost = None;
            self.streams_since = None;
            self.fruitless = None;
        }
        self.health.on_facts(&facts, self.now);
        match &facts.state {
            PgState::Running(RunningFacts { role: PgRole::Primary(primary), .. }) => {
                self.waits.look(primary);
            }
            PgState::Running(RunningFacts { role: PgRole::Replica(_), .. }) => self.waits.forget(),
            // It may come back as primary.
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. } => {}
        }
        self.busy_since = match &facts.state {
            PgState::NotAccepting(_) => self.busy_since.or(Some(self.now)),
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::Unresponsive { .. }
            | PgState::Running(_) => None,
        };
        match &facts.state {
            PgState::Stopped(_) => self.maybe_alive = false,
            PgState::Running(_) | PgState::NotAccepting(_) | PgState::Unresponsive { .. } => {
                self.maybe_alive = true;
            }
            PgState::Absent | PgState::Broken(_) => {}
        }
        self.pg = Pg::Facts(facts);
        self.learn_wal_term();
    }

    /// A receiver whose WAL is no longer there streams for a moment each time, and gets nothing.
    fn note_stream(&mut self, streaming: bool, advanced: bool) {
        let now = self.now;
        if streaming {
            self.stream_lost = None;
            self.streams_since.get_or_insert(now);
        } else {
            self.stream_lost.get_or_insert(now);
            self.streams_since = None;
            self.fruitless.get_or_insert(now);
        }
        if advanced || self.streams_since.is_some_and(|since| self.passed(since, STEADY)) {
            self.fruitless = None;
        }
    }

    pub(super) fn on_exited(&mut self) {
        self.facts_from = self.now;
        self.pg = Pg::Exited;
    }

    pub(super) fn on_empty(&mut self) {
        self.facts_from = self.now;
        self.maybe_alive = self.op.is_some();
        self.pg = Pg::Empty;
    }

    pub(super) fn on_op_done(&mut self, id: OpId, result: &PgOpResult) {
        if self.kill == Some(id) {
            self.kill = None;
            self.health.killed = None;
            self.facts_from = self.now;
            let dead = *result == PgOpResult::Done;
            self.maybe_alive = !dead;
            self.pg = if dead { Pg::Empty } else { Pg::Unknown };
            return;
        }
        let Some(running) = self.op.take_if(|running| running.id == id) else { return };
        // Slots are no part of what is observed.
        if !matches!(running.op, PgOp::EnsureSlots { .. }) {
            self.facts_from = self.now;
            self.pg = Pg::Unknown;
        }
        self.note_result(&running, result);
    }

    pub(super) fn on_peer(&mut self, from: NodeName, message: PeerMessage) {
        match message {
            PeerMessage::Beat(beat) => {
                let now = self.now;
                let same = self.peers.get(&from).filter(|peer| peer.beat.pg == beat.pg);
                let pg_since = same.map_or(now, |peer| peer.pg_since);
                let peer = Peer { beat, heard: now, said: now, lost: false, pg_since };
                self.peers.insert(from, peer);
            }
            PeerMessage::AskPledge { ballot } => {
                self.asked = Some(Asked { from, ballot, at: self.now });
            }
            PeerMessage::Pledge { ballot, answer } => {
                if let Some(candidacy) = &mut self.candidacy
                    && candidacy.ballot == Some(ballot)
                {
                    candidacy.answers.insert(from, answer);
                }
            }
            PeerMessage::Hold { term, ttl, at } => self.on_hold(from, term, ttl, at),
            PeerMessage::Held { term, at } => self.on_held(from, term, at),
        }
    }

    /// A repair or copy under way is given up for a new copy.
    pub(super) fn reinitialize_now(&mut self) {
        self.reinitialize = self.reign.is_none();
        let op = self.op.as_ref().map(|running| &running.op);
        if self.reinitialize && matches!(op, Some(PgOp::Clone { .. } | PgOp::Rewind { .. })) {
            self.kill_now();
        }
    }
}
