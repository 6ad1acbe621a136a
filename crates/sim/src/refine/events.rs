//! Which of the model's steps an event of a run is.

use pgherd_core::cluster::{Accession, ClusterView, Compare, Key, Op, Purpose, Txn, Value};
use pgherd_core::peer::{PeerMessage, PledgeAnswer};
use pgherd_core::{Durable, Lsn, RequestId, StoreOutcome, Term, Time};
use pgherd_model::ballot::{Action, List, Publish, Take};

use super::{Sent, Step};
use crate::event::Ix;
use crate::pg::Names;
use crate::wal::Wal;
use crate::world::World;

impl World {
    // === the store ===

    /// A transaction is sent.
    pub(crate) fn model_sent(&mut self, node: Ix, id: RequestId, txn: &Txn) {
        if !self.refine.on {
            return;
        }
        match txn.purpose {
            Purpose::TakeOver => self.take_sent(node, id, txn),
            Purpose::PublishSync => self.sync_sent(node, id, txn),
            Purpose::ReserveBootstrap
            | Purpose::AbandonBootstrap
            | Purpose::Found
            | Purpose::Beat
            | Purpose::Release
            | Purpose::Claim
            | Purpose::WithdrawClaim
            | Purpose::PublishHistory
            | Purpose::PublishFailsafe
            | Purpose::PublishMember
            | Purpose::PublishInitialize
            | Purpose::ClearFailover => {}
        }
    }

    fn take_sent(&mut self, node: Ix, id: RequestId, txn: &Txn) {
        let by = super::accession(txn);
        let ballot = txn.compare.iter().find_map(|c| match c {
            Compare::Modified(Key::Claim, revision) => Some(revision.0),
            Compare::Modified(..) | Compare::Lease(..) => None,
        });
        let first = self.first_voters(txn);
        let judged = matches!(by, Some(Accession::Pledges | Accession::Return));
        let now = (self.refine.state.term, self.store.view().modified(&Key::Sync).0);
        let over = (self.refine.views[node] == now).then_some(self.refine.changes);
        let open = ballot.is_none_or(|ballot| ballot == self.refine.state.claim);
        if judged && open && over.is_some() {
            self.model_settles_for_return(node, by);
            self.model_step(&Action::Take { node, ballot, first });
        } else {
            self.refine.judged.in_vain += u64::from(judged);
        }
        // What it rests on, which may be no more.
        let term = self.refine.views[node].0;
        let lineage = pgherd_model::ballot::wals::Wals::latest(&self.refine.state.wals, node);
        let stale = over.is_none();
        let take = Take { ballot, over: term, stale, known: true, waits: true, lineage, first };
        self.refine.state.nodes[node].take = Some(take);
        let (life, at) = (self.nodes[node].agent.life, self.clock(node));
        let sent = Sent { what: take, life, over, landed: false, at };
        self.refine.takes.insert((node, id), sent);
        self.refine.last_take[node] = Some(id);
    }

    /// Who returns may be a primary still; nobody else is one.
    fn model_settles_for_return(&mut self, node: Ix, by: Option<Accession>) {
        if by == Some(Accession::Return) {
            self.model_holds_end();
        } else {
            self.model_settles(node);
        }
    }

    fn sync_sent(&mut self, node: Ix, id: RequestId, txn: &Txn) {
        let value = txn.then.iter().find_map(|op| match op {
            Op::Put(_, Value::Sync(sync), _) => Some(sync.clone()),
            Op::Put(..) | Op::Delete(_) => None,
        });
        let Some(value) = value else { return };
        let view = self.store.view();
        let stands = |c: &Compare| match c {
            Compare::Modified(key, revision) => view.modified(key) == *revision,
            Compare::Lease(..) => true,
        };
        let over = txn.compare.iter().all(stands).then_some(self.refine.changes);
        let sync = self.sync_bits(&value);
        if over.is_some() {
            let every = 1_u8 << self.nodes.len();
            let steps: Vec<Step> =
                (0..every).map(|wanted| Action::Publish { node, wanted, sync }).collect();
            // What forbids it is said of the wish that comes next to what was done.
            self.model_steps(&steps);
        } else {
            self.refine.judged.in_vain += 1;
        }
        let publish = Publish { sync, stale: over.is_none() };
        self.refine.state.nodes[node].publish = Some(publish);
        let (life, at) = (self.nodes[node].agent.life, self.clock(node));
        let sent = Sent { what: publish, life, over, landed: false, at };
        self.refine.syncs.insert((node, id), sent);
        self.refine.last_sync[node] = Some(id);
    }

    /// A transaction was applied.
    pub(crate) fn model_applied(
        &mut self,
        node: Ix,
        id: RequestId,
        life: u32,
        txn: &Txn,
        after: &ClusterView,
    ) {
        if !self.refine.on {
            return;
        }
        let revision = after.revision.0;
        match txn.purpose {
            Purpose::TakeOver | Purpose::Found => self.term_begins(node, id, life, after),
            Purpose::PublishSync => self.sync_lands(node, id),
            Purpose::Claim => {
                self.model_settles(node);
                self.refine.claims.insert((node, id), revision);
                // One of which nobody knows stands for nothing.
                let candidate = self.nodes[node].agent.life == life
                    && !self.refine.unanswered.contains(&(node, id, life));
                self.model_step(&if candidate {
                    Action::Claim { node, ballot: revision }
                } else {
                    Action::Withdraw { ballot: revision }
                });
            }
            Purpose::WithdrawClaim => self.model_step(&Action::Withdraw { ballot: revision }),
            Purpose::ReserveBootstrap
            | Purpose::AbandonBootstrap
            | Purpose::Beat
            | Purpose::Release
            | Purpose::PublishHistory
            | Purpose::PublishFailsafe
            | Purpose::PublishMember
            | Purpose::PublishInitialize
            | Purpose::ClearFailover => {}
        }
        let begins = after.current_beat().and_then(|beat| beat.value.start);
        if let (Some(start), Some(term)) = (begins, after.current_term()) {
            let leader = usize::from(self.refine.state.leader);
            self.refine.state.wals.begins_at(term.0, leader, start.0);
        }
        self.model_agrees(after);
    }

    /// The store shows what the model has come to.
    fn model_agrees(&mut self, after: &ClusterView) {
        let state = &self.refine.state;
        let sync = after.sync.as_ref().map(|s| self.sync_bits(&s.value)).unwrap_or_default();
        let same = (sync.voters, sync.quorum) == (state.sync.voters, state.sync.quorum);
        if state.term != after.current_term().map_or(0, |t| t.0) || !same {
            let found = format!(
                "the store's term is {:?} and its sync {sync:?}, the model's {} and {:?}",
                after.current_term(),
                state.term,
                state.sync
            );
            self.broken(super::RULE, found);
        }
    }

    fn term_begins(&mut self, node: Ix, id: RequestId, life: u32, after: &ClusterView) {
        let Some(record) = after.term.as_ref() else { return };
        let Some(term) = after.current_term().map(|t| t.0) else { return };
        let agent = &self.nodes[node].agent;
        let data = self.nodes[node].pg.wal().is_some();
        let told = agent.node.is_some() && agent.life == life && data;
        self.model_holds_end();
        if self.refine.state.nodes[node].reign.is_some() && !self.is_open(node) {
            self.model_step(&Action::Resign { node });
        }
        if told && after.current_beat().is_some_and(|beat| beat.value.serving) {
            self.refine.opened[node] = term;
        }
        match record.value.by {
            // Silence elects nobody in these worlds: the model has no such step.
            Accession::Pledges | Accession::Return | Accession::Silence => {
                let sent = self.refine.takes.get(&(node, id)).copied();
                self.refine.state.nodes[node].take =
                    sent.map(|s| Take { stale: self.refine.stale(&s), known: told, ..s.what });
                if record.value.by == Accession::Silence {
                    self.refine.state.nodes[node].take = None;
                }
                self.model_step(&Action::TakeLands { node, term, told });
            }
            Accession::Founding => self.refine.judged.founded += 1,
            Accession::HandOver => self.refine.judged.handed_over += 1,
            Accession::Operator => self.refine.judged.operator += 1,
        }
        let anchors = match record.value.by {
            Accession::Founding | Accession::HandOver | Accession::Operator => true,
            Accession::Pledges | Accession::Return | Accession::Silence => false,
        };
        self.refine.changes += 1;
        if anchors {
            self.take_as_it_is(node, term, told, after, record.value.by);
        }
        if let Some(sent) = self.refine.takes.get_mut(&(node, id)) {
            sent.landed = true;
        }
    }

    /// A term began in a way that the model doesn't have.
    fn take_as_it_is(
        &mut self,
        node: Ix,
        term: u64,
        told: bool,
        after: &ClusterView,
        by: Accession,
    ) {
        use pgherd_model::ballot::wals::Wals;
        let sync = after.sync.as_ref().map(|s| self.sync_bits(&s.value)).unwrap_or_default();
        let state = &mut self.refine.state;
        if by == Accession::Operator {
            state.wals.forgive(node);
        }
        state.lineage = state.wals.latest(node);
        (state.term, state.leader, state.sync) = (term, node as u8, sync);
        for other in &mut state.nodes {
            other.take = other.take.map(|take| Take { stale: true, ..take });
            other.publish = other.publish.map(|p| Publish { stale: true, ..p });
            other.uncertain = other.uncertain.map(|p| Publish { stale: true, ..p });
        }
        let it = &mut state.nodes[node];
        (it.take, it.candidacy, it.reign) = (None, None, None);
        if told {
            state.begin_reign(node, term);
        }
    }

    fn sync_lands(&mut self, node: Ix, id: RequestId) {
        let Some(sent) = self.refine.syncs.get(&(node, id)).copied() else { return };
        let late = self.refine.uncertain[node] == Some(id);
        let stale = self.refine.stale(&sent);
        let other = self.refine.state.nodes[node].publish;
        let in_time = self.refine.last_sync[node] == Some(id);
        if !late && !in_time {
            // One of several of which nobody learned.
            let publish = Publish { stale, ..sent.what };
            self.refine.state.nodes[node].publish = Some(publish);
        }
        self.model_step(&Action::PublishLands { node, late });
        if !late && !in_time {
            self.refine.state.nodes[node].publish = other.map(|p| Publish { stale: true, ..p });
        }
        self.refine.changes += 1;
        if let Some(sent) = self.refine.syncs.get_mut(&(node, id)) {
            sent.landed = true;
        }
    }

    /// An agent hears what came of a request.
    pub(crate) fn model_answered(&mut self, node: Ix, id: RequestId, outcome: &StoreOutcome) {
        if !self.refine.on {
            return;
        }
        let unknown = *outcome == StoreOutcome::Unknown;
        let applied = matches!(outcome, StoreOutcome::Applied(_));
        let life = self.nodes[node].agent.life;
        if let Some(ballot) = self.refine.claims.get(&(node, id)).copied()
            && applied
            && self.refine.state.claim == ballot
        {
            self.model_step(&Action::Stand { node });
        }
        let take = self.refine.takes.get(&(node, id)).copied().filter(|t| t.life == life);
        let last = self.refine.last_take[node] == Some(id);
        if take.is_some_and(|t| !t.landed) && last && !applied {
            let waits = self.refine.state.nodes[node].take.is_some_and(|t| t.waits);
            if unknown && waits {
                self.model_step(&Action::TakeUnanswered { node });
            } else if !unknown && self.refine.state.nodes[node].take.is_some() {
                self.model_step(&Action::TakeRefused { node });
            }
        }
        let sync = self.refine.syncs.get(&(node, id)).copied().filter(|s| s.life == life);
        if let Some(sent) = sync.filter(|_| !applied) {
            self.sync_unanswered(node, id, sent, unknown);
        }
    }

    fn sync_unanswered(&mut self, node: Ix, id: RequestId, sent: Sent<Publish>, unknown: bool) {
        let uncertain = self.refine.state.nodes[node].uncertain;
        if sent.landed {
            // Nobody was told: as if it had landed after that.
            let it = &mut self.refine.state.nodes[node];
            it.uncertain = uncertain.or(Some(Publish { stale: true, ..sent.what }));
            return;
        }
        if self.refine.last_sync[node] != Some(id) {
            return;
        }
        if self.refine.state.nodes[node].publish.is_none() {
            return;
        }
        if unknown && uncertain.is_none() {
            self.model_step(&Action::PublishUnanswered { node });
            self.refine.uncertain[node] = Some(id);
            self.refine.last_sync[node] = None;
        } else {
            // Refused; or one of several of which nobody learned.
            self.model_step(&Action::PublishRefused { node });
            self.refine.last_sync[node] = None;
        }
    }

    /// A view reaches an agent.
    pub(crate) fn model_looks(&mut self, node: Ix, view: &ClusterView) {
        if !self.refine.on {
            return;
        }
        let term = view.current_term().map_or(0, |t| t.0);
        let seen = (term, view.modified(&Key::Sync).0);
        if self.refine.views[node] <= seen {
            self.refine.views[node] = seen;
        }
        if self.refine.state.nodes[node].seen < term {
            self.model_step(&Action::Look { node, term });
        }
    }

    // === agents ===

    /// An agent's record is on disk.
    pub(crate) fn model_persisted(&mut self, node: Ix, record: &Durable) {
        if !self.refine.on {
            return;
        }
        let before_term = |wal: Option<Term>, term| wal.is_none_or(|t| t.0 < term);
        let knows = self.nodes[node].agent.node.as_ref().map(|n| n.durable().wal_term);
        if let (Some(term), Some(known)) = (self.refine.state.wals.unsaid(node), knows)
            && before_term(record.wal_term, term)
            && before_term(known, term)
            && record.term_seen >= Some(Term(term))
            && !self.opens_for_writes(node)
        {
            // It gave up before anything was written.
            self.refine.state.wals.never_began(node, term);
        }
        let before = self.refine.state.nodes[node].promise;
        match (&record.promise, before) {
            (None, Some(_)) => self.model_step(&Action::Forget { node }),
            (Some(now), _) if before.is_none_or(|p| p.ballot != now.ballot.0) => {
                self.model_settles(node);
                let against = now.against.map_or(0, |t| t.0);
                self.model_step(&Action::Promise { node, ballot: now.ballot.0, against });
            }
            (Some(_) | None, _) => {}
        }
    }

    /// A message leaves an agent.
    pub(crate) fn model_says(&mut self, from: Ix, to: Ix, message: &PeerMessage) {
        if !self.refine.on {
            return;
        }
        match message {
            PeerMessage::Pledge { ballot, answer: PledgeAnswer::Pledged { position, .. } } => {
                let stands = self.refine.state.nodes[to].candidacy.map(|c| c.ballot);
                if ballot.0 != self.refine.state.claim || stands != Some(ballot.0) {
                    // Withdrawn, lost, or won already.
                    self.refine.judged.dead_ballots += 1;
                    return;
                }
                self.model_settles(from);
                let position = self.position_said(from, (position.term.0, position.lsn.0));
                self.model_step(&Action::Pledge { voter: from, candidate: to, position });
            }
            PeerMessage::Held { term, .. } => {
                let leads = self.refine.state.nodes[to].reign.as_ref().map(|r| r.term);
                if leads != Some(term.0) {
                    return; // nobody counts on it
                }
                self.model_settles(from);
                self.model_step(&Action::GiveUp { node: from });
                self.model_step(&Action::Hold { leader: to, member: from });
            }
            PeerMessage::Beat(_)
            | PeerMessage::AskPledge { .. }
            | PeerMessage::Pledge { answer: PledgeAnswer::Refused(_), .. }
            | PeerMessage::Hold { .. } => {}
        }
    }

    /// The guard's deadline moves on: by the store's word, or by the members'.
    pub(crate) fn model_armed(&mut self, node: Ix, term: Term, deadline: Time) {
        let rests_on_store = self.store_ends(node).is_some_and(|end| deadline <= end);
        if !self.refine.on || rests_on_store {
            return;
        }
        let belief = &self.ledger.beliefs[node];
        if belief.term != Some(term) || belief.ended || self.nodes[node].held_clock {
            return; // clocks are judged by other laws
        }
        if self.nodes[node].agent.node.as_ref().is_some_and(|n| n.durable().paused) {
            self.refine.judged.paused += 1;
            return;
        }
        if self.nodes[node].pg.killed || !self.opens_for_writes(node) {
            return; // there is nothing to be kept alive
        }
        self.model_holds_end();
        let ttl = self.ledger.beliefs[node].ttl.percent(99);
        let since = self.nodes[node].held_until;
        let counted =
            |(ix, at): (&Ix, &Time)| (*at + ttl >= deadline && *at > since).then_some(1_u8 << ix);
        let holds = self.ledger.beliefs[node].holds.iter().filter_map(counted).sum();
        self.model_step(&Action::Rely { node, holds });
    }

    /// An agent's process is gone.
    pub(crate) fn model_agent_dies(&mut self, node: Ix) {
        if !self.refine.on {
            return;
        }
        let it = &self.refine.state.nodes[node];
        let last = self.refine.last_sync[node].take();
        if it.publish.is_some() && it.uncertain.is_none() {
            self.refine.uncertain[node] = last;
        }
        self.model_step(&Action::AgentDies { node });
        let unsaid = self.refine.state.wals.unsaid(node);
        let known = self.nodes[node].agent.durable.wal_term.map_or(0, |t| t.0);
        if self.refine.state.nodes[node].reign.is_some() && !self.opens_for_writes(node) {
            self.model_step(&Action::Resign { node });
        }
        if let Some(term) = unsaid.filter(|t| *t > known && !self.opens_for_writes(node)) {
            // It died before it knew, or before it said so on disk: nothing was written.
            self.refine.state.wals.never_began(node, term);
        }
    }

    // === PostgreSQL ===

    /// Nothing of PostgreSQL is left.
    pub(crate) fn model_pg_gone(&mut self, node: Ix, was_primary: bool) {
        if !self.refine.on {
            return;
        }
        let Some(reign) = self.refine.state.nodes[node].reign.filter(|_| was_primary) else {
            return;
        };
        let nothing = reign.names == List::Nobody && reign.before.is_none();
        if self.refine.opened[node] == reign.term && !nothing {
            self.model_step(&Action::Resign { node });
        } else {
            // Its agent may not have seen it open under this term, and starts it again under the same:
            // as if it had died before. Nobody satisfies its first list.
            self.refine.judged.reopened += 1;
            self.refine.state.restarts(node);
        }
    }

    /// It opens for writes.
    pub(crate) fn model_promoted(&mut self, node: Ix, term: Option<Term>) {
        if !self.refine.on {
            return;
        }
        self.model_wrote(node);
        let term = term.map_or(0, |t| t.0);
        // A newer term of its own may have begun while it started under the one before.
        let own = self.ledger.leaders.get(&Term(term)) == Some(&node);
        let newer =
            self.refine.state.nodes[node].reign.map(|r| r.term).filter(|t| own && *t > term);
        let term = newer.unwrap_or(term);
        self.model_reopens(node, term);
        self.refine.opened[node] = term;
        self.model_step(&Action::Promote { node, term });
    }

    /// A primary wrote.
    pub(crate) fn model_wrote(&mut self, node: Ix) {
        if !self.refine.on {
            return;
        }
        self.learn_branches();
        let Some(record) = self.nodes[node].pg.dir.as_ref().map(|d| d.wal) else { return };
        if self.refine.state.nodes[node].reign.is_some() {
            self.model_step(&Action::Write { node, record });
        } else {
            // Before the cluster is founded, and in the last moment of a stop.
            self.refine.state.wals.copied(node, record);
        }
    }

    fn learn_branches(&mut self) {
        while let Some(parent) = self.branches.parent(self.refine.branches) {
            self.refine.state.wals.branch(self.refine.branches as u32, parent);
            self.refine.branches += 1;
        }
    }

    pub(crate) fn model_acknowledged(&mut self, node: Ix, commit: Wal) {
        if self.refine.on && !self.forced_out(node) {
            self.model_step(&Action::Acknowledge { node, commit });
        }
    }

    /// Some of PostgreSQL's processes act by a new list; `all`: and no process acts by another.
    pub(crate) fn model_list(&mut self, node: Ix, names: &Names, all: bool) {
        let Some(reign) = self.refine.state.nodes[node].reign.filter(|_| self.refine.on) else {
            return;
        };
        let list = if names.placeholder {
            List::Nobody
        } else {
            List::Any(names.count as u8, names.mask as u8)
        };
        if reign.names != list {
            if reign.term == self.refine.state.term {
                let every = 1_u8 << self.nodes.len();
                let steps: Vec<Step> =
                    (0..every).map(|wanted| Action::SetNames { node, wanted, list }).collect();
                self.model_steps(&steps);
            } else {
                self.refine.judged.deposed += 1;
                self.refine.state.apply(&Action::SetNames { node, wanted: 0, list });
            }
        }
        if all {
            self.model_step(&Action::Settle { node });
        }
    }

    pub(crate) fn model_flushed(&mut self, member: Ix, leader: Ix, record: Wal) {
        if self.refine.on {
            self.learn_branches();
            self.model_step(&Action::Flush { member, leader, record });
        }
    }

    pub(crate) fn model_heard(&mut self, leader: Ix, member: Ix, end: Lsn) {
        if self.refine.on && self.refine.state.nodes[leader].reign.is_some() {
            self.model_step(&Action::Hear { leader, member, end: end.0 });
        }
    }

    /// A replica streams from another node, or stops.
    pub(crate) fn model_streams(&mut self, member: Ix, from: Option<Ix>) {
        if !self.refine.on {
            return;
        }
        match from {
            Some(leader) => {
                self.model_settles(member);
                let fetches = self.refine.state.nodes[leader].reign.is_none();
                self.model_step(&if fetches && !self.opens_for_writes(leader) {
                    Action::Fetch { node: member, voter: leader }
                } else {
                    Action::Follow { member, leader }
                });
            }
            None => self.model_step(&Action::Unfollow { node: member }),
        }
    }

    /// A data directory is gone, another than it was, or has been copied.
    pub(crate) fn model_data(&mut self, node: Ix, lost: bool) {
        if !self.refine.on {
            return;
        }
        if lost {
            self.model_step(&Action::Lost { node });
        } else {
            self.model_step(&Action::Replaced { node });
        }
        self.learn_branches();
        if let Some(wal) = self.nodes[node].pg.wal().filter(|_| !self.nodes[node].pg.removed) {
            self.refine.judged.copied += 1;
            self.refine.state.wals.copied(node, wal);
        }
    }
}
