//! Talking to the store: which transactions exist, what each compares, and what their answers mean.
//! Leaves when to send them to `plan`.

use std::collections::BTreeMap;

use crate::cluster::{
    Accession, Beat, Claim, Compare, FailoverRequest, HistoryLine, Initialize, Key, Op, Purpose,
    ReignEnd, Status, SyncState, TermRecord, Txn, Value,
};
use crate::input::{Action, RequestId, StoreOutcome, StoreRequest};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::state::{Attempt, FirstList, Lease, ListState, Pending, Reign, RequestKind};
use crate::{Duration, Incarnation, LeaseId, Lsn, Revision, SystemId, Term, Time};

/// A request without an answer for this long is forgotten; a late answer is still understood by
/// what the view shows.
const FORGET: Duration = Duration::secs(4);
/// A read that brought nothing for this long is repeated.
const READ_AGAIN: Duration = Duration::millis(400);
/// After a refusal, the view gets this long to show why.
const IN_VAIN: Duration = Duration::millis(300);

impl Node {
    // === sending ===

    fn request(&mut self, kind: RequestKind, request: StoreRequest) -> RequestId {
        let id = RequestId(self.fresh_id());
        self.pending.push(Pending { id, kind, sent: self.now });
        self.push(Action::Store { id, request });
        id
    }

    pub(crate) fn txn(
        &mut self,
        purpose: Purpose,
        compare: Vec<Compare>,
        then: Vec<Op>,
    ) -> RequestId {
        let txn = Txn { purpose, compare, then };
        self.request(RequestKind::Txn(purpose), StoreRequest::Txn(txn))
    }

    /// An attempt under its number, before its request has one.
    fn attempt(&mut self, lease: LeaseId, by: Accession, ttl: Duration) -> Attempt {
        self.beat_seq += 1;
        Attempt {
            request: RequestId(0),
            seq: self.beat_seq,
            over: self.view.current_term(),
            lease,
            by,
            sent: self.now,
            serving: false,
            gated: false,
            first: FirstList::Nobody,
            ttl,
            unheeded: by == Accession::Return
                && matches!(self.view.reign_end(), Some(ReignEnd::Died)),
        }
    }

    /// How many requests of this purpose wait for their answer.
    pub(crate) fn in_flight(&self, purpose: Purpose) -> usize {
        self.pending.iter().filter(|p| p.kind == RequestKind::Txn(purpose)).count()
    }

    /// One of the transactions that change who leads waits for its answer.
    pub(crate) fn deciding(&self) -> bool {
        if self.view_lags() {
            return true;
        }
        [Purpose::TakeOver, Purpose::Found, Purpose::Release, Purpose::Claim]
            .iter()
            .any(|purpose| self.in_flight(*purpose) > 0)
    }

    /// The view doesn't show this node's own latest change yet, or has not moved since a change was
    /// refused: what would be decided on it would be refused again, or worse.
    pub(crate) fn view_lags(&self) -> bool {
        let refused = self.in_vain.is_some_and(|(revision, at)| {
            self.view.revision <= revision && !self.passed(at, IN_VAIN)
        });
        refused || self.view.revision < self.await_view
    }

    pub(crate) fn read(&mut self) {
        let now = self.now;
        let waits = |p: &Pending| p.kind == RequestKind::Read && now.since(p.sent) < READ_AGAIN;
        if !self.pending.iter().any(waits) {
            self.request(RequestKind::Read, StoreRequest::Read);
        }
    }

    pub(crate) fn lease_id(&self) -> Option<LeaseId> {
        match self.lease {
            Lease::Held { id, .. } => Some(id),
            Lease::None | Lease::Asked => None,
        }
    }

    /// The lease, when its last proof leaves belief enough to begin something: a grant that was
    /// asked for long before it was answered is renewed first.
    pub(crate) fn fresh_lease(&self) -> Option<LeaseId> {
        match self.lease {
            Lease::Held { id, confirmed, .. } => {
                let recent = self.now.since(confirmed) < self.policy().ttl.percent(50);
                recent.then_some(id)
            }
            Lease::None | Lease::Asked => None,
        }
    }

    fn unchanged(&self, key: Key) -> Compare {
        let revision = self.view.modified(&key);
        Compare::Modified(key, revision)
    }

    /// Asks for a lease, or renews the one that is held.
    pub(crate) fn renew_lease(&mut self) {
        let now = self.now;
        self.pending.retain(|p| now.since(p.sent) < FORGET);
        if self.view.revision < self.await_view {
            self.read();
        }
        let ttl = self.policy().ttl;
        let interval = self.policy().beat_interval();
        match self.lease {
            Lease::None => {
                self.lease = Lease::Asked;
                self.request(RequestKind::GrantLease, StoreRequest::GrantLease { ttl });
            }
            Lease::Asked => {
                if !self.pending.iter().any(|p| p.kind == RequestKind::GrantLease) {
                    self.lease = Lease::None;
                }
            }
            Lease::Held { id, confirmed, next } if now >= next => {
                self.lease = Lease::Held { id, confirmed, next: now + interval };
                self.request(RequestKind::KeepAlive(id), StoreRequest::KeepAlive(id));
            }
            Lease::Held { .. } => {}
        }
    }

    /// Writes the beat when it is due.
    pub(crate) fn beat_if_due(&mut self) {
        let now = self.now;
        let received = || self.replica().filter(|_| self.leads_standby()).map(|r| r.received);
        let lsn = self.primary().map(|p| p.flushed).or_else(received);
        let Some(lease) = self.lease_id() else { return };
        let optime = self.view.status.as_ref().map(|s| s.value.optime);
        let waiting = self.in_flight(Purpose::Beat);
        let unreplicated = self.waits.uncovered();
        let lsn_known = self.view.beat.as_ref().map_or_else(Default::default, |b| b.value.lsn);
        let Some(reign) = self.reign.as_mut().filter(|r| r.ended.is_none() && !r.key_lost) else {
            return;
        };
        if now < reign.next_beat || waiting >= 3 {
            return;
        }
        reign.next_beat = now + Duration(reign.ttl.0 / 5);
        self.beat_seq += 1;
        let lsn = lsn.unwrap_or(lsn_known);
        let beat = Self::make_beat(self.incarnation, self.beat_seq, reign, lsn, unreplicated);
        let term = reign.term;
        let mut then = vec![Op::Put(Key::Beat, Value::Beat(beat), None)];
        if optime != Some(lsn) {
            then.push(Op::Put(Key::Status, Value::Status(Status { optime: lsn }), None));
        }
        let mut compare = Self::still_mine(term);
        compare.push(Compare::Lease(Key::Leader, lease));
        self.txn(Purpose::Beat, compare, then);
    }

    fn make_beat(
        incarnation: Incarnation,
        seq: u64,
        reign: &Reign,
        lsn: Lsn,
        unreplicated: Option<Lsn>,
    ) -> Beat {
        Beat {
            incarnation,
            seq,
            ttl: reign.ttl,
            lsn,
            timeline: reign.start.map(|(timeline, _)| timeline),
            timelines_ended: reign.timelines_ended,
            start: reign.start.map(|(_, start)| start),
            serving: reign.serving,
            unreplicated,
            ended: reign.ended.clone(),
        }
    }

    /// The term is the reigning one, and the leader key is as that term wrote it.
    fn still_mine(term: Term) -> Vec<Compare> {
        let at = Revision(term.0);
        vec![Compare::Modified(Key::Term, at), Compare::Modified(Key::Leader, at)]
    }

    /// A change that only this term may make.
    pub(crate) fn under_term(&mut self, purpose: Purpose, key: Key, value: Value) {
        self.txn_under_term(purpose, &key.clone(), Op::Put(key, value, None));
    }

    pub(crate) fn txn_under_term(&mut self, purpose: Purpose, key: &Key, op: Op) {
        let Some(term) = self.leads() else { return };
        let mut compare = Self::still_mine(term);
        compare.push(self.unchanged(key.clone()));
        self.txn(purpose, compare, vec![op]);
    }

    /// Takes the leader key under a new term. Compares everything that the decision rests on: a
    /// beat, a pause, another list or another claim in between refuses it.
    pub(crate) fn take_over(&mut self, by: Accession, ballot: Option<Revision>, carried: bool) {
        // What is on disk may be one term behind, never two: who returns must know itself again.
        let known = self.all_persisted() || by != Accession::Return;
        let Some(lease) = self.fresh_lease().filter(|_| known && !self.holds()) else { return };
        let me = self.config.name.clone();
        let policy = self.policy().clone();
        let (sync, first) = self.sync_of_takeover(by);
        let gated = policy.synchronous()
            && !carried
            && (policy.synchronous_mode_strict || sync.names_voters());
        let attempt = self.attempt(lease, by, policy.ttl);
        let attempt = Attempt { serving: carried, gated, first, ..attempt };
        let mut compare = vec![
            self.unchanged(Key::Term),
            self.unchanged(Key::Sync),
            self.unchanged(Key::Config),
            self.unchanged(Key::Leader),
            self.unchanged(Key::Beat),
            // A foreign reign that came and went meanwhile leaves no other mark.
            self.unchanged(Key::Status),
            self.unchanged(Key::Failsafe),
        ];
        if self.breaks(Mutant::TakeoverWithoutCompare) {
            compare.clear();
        }
        if let Some(ballot) = ballot {
            compare.push(Compare::Modified(Key::Claim, ballot));
        }
        let (lineage, without) = (self.continued_terms(), self.goes_without());
        let record = TermRecord { leader: me, by, lineage, without, begun: self.begun() };
        let mut then = self.reign_keys(&attempt, lease, record);
        then.push(Op::Put(Key::Sync, Value::Sync(sync), None));
        if self.view.failover.is_some() {
            then.push(Op::Put(Key::Failover, Value::Failover(None), None));
        }
        let request = self.txn(Purpose::TakeOver, compare, then);
        self.attempts.push(Attempt { request, ..attempt });
    }

    fn reign_keys(&self, attempt: &Attempt, lease: LeaseId, record: TermRecord) -> Vec<Op> {
        let start = self.view.current_beat().filter(|_| attempt.serving).map(|b| &b.value);
        let beat = Beat {
            incarnation: self.incarnation,
            seq: attempt.seq,
            ttl: attempt.ttl,
            lsn: self.position().map_or_else(Default::default, |p| p.lsn),
            timeline: start.and_then(|b| b.timeline),
            timelines_ended: start.map_or(0, |b| b.timelines_ended),
            start: start.and_then(|b| b.start),
            serving: attempt.serving,
            unreplicated: None,
            ended: None,
        };
        vec![
            Op::Put(Key::Leader, Value::Leader(record.leader.clone()), Some(lease)),
            Op::Put(Key::Term, Value::Term(record), None),
            Op::Put(Key::Beat, Value::Beat(beat), None),
        ]
    }

    /// Writes a new cluster's keys, and its first term.
    pub(crate) fn found(&mut self, system: SystemId) {
        let Some(lease) = self.lease_id() else { return };
        let policy = self.config.founding_policy.clone();
        let gated = policy.synchronous() && policy.synchronous_mode_strict;
        let by = Accession::Founding;
        let attempt = Attempt { gated, ..self.attempt(lease, by, policy.ttl) };
        let me = self.config.name.clone();
        let sync =
            SyncState { leader: policy.synchronous().then(|| me.clone()), ..Default::default() };
        let compare = vec![
            self.unchanged(Key::Initialize),
            Compare::Modified(Key::Leader, Revision(0)),
            Compare::Modified(Key::Term, Revision(0)),
        ];
        let (lineage, begun) = (Vec::new(), Vec::new());
        let record = TermRecord { leader: me, by, lineage, without: None, begun };
        let mut then = self.reign_keys(&attempt, lease, record);
        then.push(Op::Put(Key::Initialize, Value::Initialize(Initialize::Done(system)), None));
        then.push(Op::Put(Key::Config, Value::Config(policy), None));
        then.push(Op::Put(Key::Sync, Value::Sync(sync), None));
        let request = self.txn(Purpose::Found, compare, then);
        self.attempts.push(Attempt { request, ..attempt });
    }

    /// Lets go of the key, saying how the reign ended. Belief ends before this is sent.
    pub(crate) fn release(&mut self, end: ReignEnd) {
        if self.in_flight(Purpose::Release) > 0 {
            return;
        }
        let lsn = self.view.beat.as_ref().map_or_else(Default::default, |b| b.value.lsn);
        let incarnation = self.incarnation;
        let successor = match &end {
            ReignEnd::HandedOver { to, .. } => Some(to.clone()),
            ReignEnd::Died | ReignEnd::Stopped { .. } => None,
        };
        let unreplicated = self.waits.uncovered();
        let Some(reign) = self.reign.as_mut() else { return };
        reign.ended = Some(end);
        reign.serving = false;
        self.beat_seq += 1;
        let beat = Self::make_beat(incarnation, self.beat_seq, reign, lsn, unreplicated);
        let compare = Self::still_mine(reign.term);
        let mut then = vec![Op::Delete(Key::Leader), Op::Put(Key::Beat, Value::Beat(beat), None)];
        if let (Some(successor), false) = (successor, self.patroni.is_empty()) {
            // Patroni's candidates read no beat: this keeps them out, or brings the right one in.
            let request =
                FailoverRequest { leader: Some(self.config.name.clone()), member: Some(successor) };
            then.push(Op::Put(Key::Failover, Value::Failover(Some(request)), None));
        } else if self.view.failover.is_some() {
            then.push(Op::Put(Key::Failover, Value::Failover(None), None));
        }
        self.txn(Purpose::Release, compare, then);
    }

    pub(crate) fn claim(&mut self, withdrawn: bool) {
        let claim =
            Claim { candidate: self.config.name.clone(), incarnation: self.incarnation, withdrawn };
        let compare = vec![self.unchanged(Key::Claim), self.unchanged(Key::Term)];
        let purpose = if withdrawn { Purpose::WithdrawClaim } else { Purpose::Claim };
        self.txn(purpose, compare, vec![Op::Put(Key::Claim, Value::Claim(claim), None)]);
    }

    /// Closes a ballot, somebody's or one's own: whoever it was, it can't succeed afterwards.
    pub(crate) fn withdraw(&mut self, ballot: Revision) {
        let open =
            self.view.claim.as_ref().is_some_and(|c| c.modified == ballot && !c.value.withdrawn);
        if !open || self.in_flight(Purpose::WithdrawClaim) > 0 || self.view_lags() {
            return;
        }
        self.claim(true);
    }

    pub(crate) fn reserve_bootstrap(&mut self) {
        let Some(lease) = self.lease_id() else { return };
        let compare =
            vec![self.unchanged(Key::Initialize), Compare::Modified(Key::Leader, Revision(0))];
        let value = Value::Initialize(Initialize::Bootstrapping);
        let then = vec![Op::Put(Key::Initialize, value, Some(lease))];
        self.txn(Purpose::ReserveBootstrap, compare, then);
    }

    pub(crate) fn abandon_bootstrap(&mut self) {
        let compare = vec![self.unchanged(Key::Initialize)];
        self.txn(Purpose::AbandonBootstrap, compare, vec![Op::Delete(Key::Initialize)]);
    }

    pub(crate) fn publish_history(&mut self, lines: Vec<HistoryLine>) {
        if self.in_flight(Purpose::PublishHistory) == 0 && !self.view_lags() {
            self.under_term(Purpose::PublishHistory, Key::History, Value::History(lines));
        }
    }

    // === answers ===

    pub(crate) fn on_store(&mut self, id: RequestId, outcome: &StoreOutcome) {
        let Some(at) = self.pending.iter().position(|p| p.id == id) else { return };
        let Pending { kind, sent, .. } = self.pending.swap_remove(at);
        let counted = if self.breaks(Mutant::DeadlineFromReply) { self.now } else { sent };
        match kind {
            RequestKind::GrantLease => self.on_granted(outcome, counted),
            RequestKind::KeepAlive(lease) => self.on_renewed(lease, outcome, counted),
            RequestKind::Read => {}
            RequestKind::Txn(purpose) => self.on_txn(id, purpose, outcome, counted),
        }
    }

    fn on_granted(&mut self, outcome: &StoreOutcome, sent: Time) {
        if let Lease::Held { .. } = self.lease {
            // The answer to an earlier question: what hangs on the held lease stays there.
            return;
        }
        self.lease = match outcome {
            StoreOutcome::Granted(id) => {
                Lease::Held { id: *id, confirmed: sent, next: sent + self.policy().beat_interval() }
            }
            StoreOutcome::Alive
            | StoreOutcome::LeaseGone
            | StoreOutcome::Applied(_)
            | StoreOutcome::Refused
            | StoreOutcome::NotSent
            | StoreOutcome::Unknown => Lease::None,
        };
        self.member = None;
    }

    fn on_renewed(&mut self, lease: LeaseId, outcome: &StoreOutcome, sent: Time) {
        let Lease::Held { id, confirmed, next } = self.lease else { return };
        if id != lease {
            return;
        }
        match outcome {
            StoreOutcome::Alive => {
                self.lease = Lease::Held { id, confirmed: confirmed.max(sent), next };
            }
            StoreOutcome::LeaseGone => {
                self.lease = Lease::None;
                self.read();
            }
            StoreOutcome::NotSent | StoreOutcome::Unknown => {
                let soon = self.now + Duration::millis(200);
                self.lease = Lease::Held { id, confirmed, next: next.min(soon) };
            }
            StoreOutcome::Granted(_) | StoreOutcome::Applied(_) | StoreOutcome::Refused => {}
        }
    }

    fn on_txn(&mut self, id: RequestId, purpose: Purpose, outcome: &StoreOutcome, sent: Time) {
        let applied = outcome.applied();
        self.note_answer(purpose, applied);
        if purpose == Purpose::PublishSync {
            self.note_rewrite(applied);
            if matches!(outcome, StoreOutcome::Refused | StoreOutcome::NotSent)
                && !self.sync_uncertain
            {
                self.sent_syncs.pop();
            }
            self.sync_uncertain =
                *outcome == StoreOutcome::Unknown || (self.sync_uncertain && applied.is_none());
        }
        match (purpose, applied) {
            (Purpose::TakeOver | Purpose::Found, Some(revision)) => {
                if let Some(attempt) = self.attempts.iter().find(|a| a.request == id).copied() {
                    self.begin_reign(Term(revision.0), attempt);
                }
            }
            (Purpose::TakeOver | Purpose::Found, None) => {
                if *outcome != StoreOutcome::Unknown {
                    self.attempts.retain(|attempt| attempt.request != id);
                }
                if purpose == Purpose::TakeOver {
                    self.takeover_failed();
                }
                self.read();
            }
            (Purpose::Beat, Some(_)) => {
                if let Some(reign) = &mut self.reign {
                    reign.confirmed = reign.confirmed.max(sent);
                }
            }
            (Purpose::Beat, None) => {
                let soon = self.now + Duration::millis(200);
                if let Some(reign) = &mut self.reign {
                    reign.next_beat = reign.next_beat.min(soon);
                }
                if *outcome == StoreOutcome::Refused {
                    self.read();
                }
            }
            (Purpose::Claim, Some(revision)) => self.claim_confirmed(revision),
            (Purpose::Claim, None) => {
                self.candidacy = None;
                self.read();
            }
            (Purpose::PublishMember, Some(revision)) => self.member_at = revision,
            (Purpose::PublishMember, None) => self.member = None,
            (
                Purpose::ReserveBootstrap
                | Purpose::AbandonBootstrap
                | Purpose::Release
                | Purpose::WithdrawClaim
                | Purpose::PublishSync
                | Purpose::PublishInitialize
                | Purpose::PublishHistory
                | Purpose::PublishFailsafe
                | Purpose::ClearFailover,
                _,
            ) => {
                if applied.is_none() {
                    self.read();
                }
            }
        }
    }

    /// A list that was only written again doesn't open the gate.
    fn note_rewrite(&mut self, applied: Option<Revision>) {
        let rewriting = std::mem::take(&mut self.sync_rewriting);
        if let (true, Some(revision), Some(reign)) = (rewriting, applied, &mut self.reign)
            && reign.gate.is_some()
        {
            reign.gate = Some(revision);
        }
    }

    fn note_answer(&mut self, purpose: Purpose, applied: Option<Revision>) {
        match (purpose, applied) {
            (Purpose::Beat | Purpose::PublishMember, _) | (Purpose::Claim, Some(_)) => {}
            (_, Some(revision)) => self.await_view = self.await_view.max(revision),
            (_, None) => self.in_vain = Some((self.view.revision, self.now)),
        }
    }

    /// The takeover was applied: by its answer, or because the view shows it.
    fn begin_reign(&mut self, term: Term, attempt: Attempt) {
        if self.reign.as_ref().is_some_and(|r| r.term >= term) {
            return;
        }
        self.attempts.clear();
        let before = self.reign.take().filter(|_| attempt.serving);
        let start = before.as_ref().and_then(|r| r.start).or_else(|| self.carried_start(&attempt));
        let said = self.view.beat.as_ref().map_or(0, |b| b.value.timelines_ended);
        let timelines_ended = before.as_ref().map_or(said, |r| r.timelines_ended);
        let list = before.map_or_else(ListState::default, |r| r.list);
        self.health.gives_up = None;
        let slots = self.slots_ahead.take();
        self.reign = Some(Reign {
            term,
            before: self.durable.clone(),
            by: attempt.by,
            ttl: attempt.ttl,
            lease: attempt.lease,
            confirmed: attempt.sent,
            next_beat: self.now,
            start,
            timelines_ended,
            gate: attempt.gated.then_some(Revision(term.0)),
            first: attempt.first,
            serving: attempt.serving,
            promoted: false,
            key_lost: false,
            ended: None,
            start_failures: 0,
            slots,
            list,
            handover: None,
            holds: BTreeMap::new(),
            next_hold: self.now,
            wal_seen: None,
            standby: false,
            was_primary: attempt.serving,
            unheeded: attempt.unheeded,
        });
        self.candidacy = None;
        self.vacant_since = None;
        self.durable.wal_term = Some(term);
        self.durable.wal_lineage = Vec::new();
        self.durable.data_terms = vec![term];
        self.durable.data_from = None;
        self.durable.data_via = None;
        self.durable.term_seen = self.durable.term_seen.max(Some(term));
        self.persist();
    }

    fn carried_start(&self, attempt: &Attempt) -> Option<(crate::Timeline, Lsn)> {
        let beat = &self.view.beat.as_ref().filter(|_| attempt.serving)?.value;
        beat.timeline.zip(beat.start)
    }

    /// What the view says of this node's own reign.
    pub(crate) fn check_reign(&mut self) {
        let shown = self.view.current_term();
        let mine = self.view.leader.as_ref().is_some_and(|l| l.value == self.config.name);
        let beat = self.view.current_beat().map(|b| (b.value.incarnation, b.value.seq));
        let attempt = self.attempts.iter().find(|a| Some((self.incarnation, a.seq)) == beat);
        if let (Some(term), Some(attempt), true) = (shown, attempt.copied(), mine)
            && shown > attempt.over
        {
            self.begin_reign(term, attempt);
        }
        self.attempts.retain(|attempt| attempt.over >= shown);
        let Some(reign) = &mut self.reign else { return };
        if self.view.revision.0 < reign.term.0 {
            return;
        }
        if shown != Some(reign.term) || (self.view.leader.is_some() && !mine) {
            self.reign = None;
        } else if self.view.leader.is_none() {
            if reign.ended.is_some() {
                self.reign = None;
            } else {
                reign.key_lost = true;
            }
        }
    }
}
