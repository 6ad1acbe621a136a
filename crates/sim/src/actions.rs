//! Carries out what an agent wants done: the store, the peers, the disk, the guard.
//! Operations on PostgreSQL are in `ops.rs`.

use pgherd_core::cluster::Key;
use pgherd_core::peer::{PeerLost, PeerMessage, PledgeAnswer};
use pgherd_core::{
    Action, Decision, Durable, Input, NodeName, Reason, RequestId, StoreOutcome, StoreRequest, Time,
};

use crate::clock::Micros;
use crate::event::{Ask, Event, Ix};
use crate::invariants;
use crate::world::{World, note};

/// How long a client of the store waits for an answer.
const PATIENCE: Micros = 1_000_000;

impl World {
    /// Carries out everything that an agent wants, then sets its next tick.
    pub(crate) fn drain(&mut self, node: Ix) {
        loop {
            let Some(core) = self.nodes[node].agent.node.as_mut() else { return };
            let Some(action) = core.poll_action() else { break };
            self.act(node, action);
        }
        invariants::vouches_within_bound::check(self, node);
        self.arm_tick(node);
    }

    fn act(&mut self, node: Ix, action: Action) {
        if self.tracing()
            && let Some(words) = crate::report::action(&action)
        {
            let line = format!("n{} > {words}", node + 1);
            self.tell(&line);
        }
        match action {
            Action::Store { id, request } => self.ask_store(node, id, request),
            Action::Postgres { id, op, term } => self.op_begin(node, id, op, term),
            Action::Arm { term, deadline } => {
                self.model_armed(node, term, deadline);
                self.clocks_armed(node, term, deadline);
                self.nodes[node].guard.armed = Some((term, deadline));
                if self.nodes[node].pg.run == crate::pg::Run::Primary {
                    let pg = &mut self.nodes[node].pg;
                    pg.term = Some(term);
                    self.ledger.carry(pg.reign, term);
                }
                self.rearm_guard(node);
            }
            Action::Disarm => {
                self.nodes[node].guard.armed = None;
                self.nodes[node].guard.number += 1;
            }
            Action::Send { to, message } => self.send(node, &to, message),
            Action::AskPatroni { node: of } => self.ask_patroni(node, &of),
            Action::Persist { seq, record } => self.persist(node, seq, record),
            Action::Decided(decision) => self.decided(node, &decision),
            Action::Exit => {
                self.story(|| format!("n{} agent exits", node + 1));
                self.agent_crash(node);
                if self.nodes[node].agent.stopped {
                    return;
                }
                let delay = self.rng.between(200_000, 2_000_000);
                self.queue.after(delay, Event::AgentStart { node });
            }
        }
    }

    fn decided(&mut self, node: Ix, decision: &Decision) {
        invariants::one_decision_reason::check(self, node, decision);
        let gave_up = matches!(decision.reason, Reason::GaveUp(_));
        self.stats.sometimes.gave_up += u64::from(gave_up);
        self.hash = self.hash.rotate_left(5) ^ (decision.situation as u64 + 77);
        let passing = matches!(decision.reason, Reason::WaitingForFacts | Reason::Busy);
        if passing {
            return;
        }
        if self.story.is_some() {
            let term = decision.term.map_or(String::new(), |t| format!(" (term {t})"));
            let words = format!("n{} {}: {}{term}", node + 1, decision.situation, decision.reason);
            if self.ledger.last_told[node] != words {
                self.ledger.last_told[node].clone_from(&words);
                self.story(|| words);
            }
        }
    }

    fn persist(&mut self, node: Ix, seq: u64, record: Durable) {
        invariants::term_and_timeline_monotonic::check_durable(self, node, &record);
        let delay = self.rng.between(100, 3_000);
        let agent = &mut self.nodes[node].agent;
        agent.writing.push_back((seq, record));
        let life = agent.life;
        self.queue.after(delay, Event::Persisted { node, life });
    }

    // ---- the store ------------------------------------------------------------------------------

    fn ask_store(&mut self, node: Ix, id: RequestId, request: StoreRequest) {
        if let StoreRequest::Txn(txn) = &request {
            self.model_sent(node, id, txn);
            self.clocks_sent(node, id, txn);
        }
        let life = self.nodes[node].agent.life;
        let sent = self.clock(node);
        let patience = self.queue.now + PATIENCE;
        let mut ask = Ask { sent, wanted: true, patience };
        let unreachable = self.net.asks & (1 << node) != 0;
        if unreachable || self.store_down {
            if self.rng.permille(700) {
                let delay = self.rng.between(1_000, 400_000);
                self.answer(node, life, id, StoreOutcome::NotSent, delay);
            } else {
                self.answer(node, life, id, StoreOutcome::Unknown, PATIENCE);
            }
            return;
        }
        let mut delay = self.rng.between(200, 2_500);
        if self.rng.permille(self.faults.slow_store) {
            delay = self.rng.between(20_000, 2_500_000);
        }
        if delay >= PATIENCE {
            ask.wanted = false;
            self.stats.sometimes.store_late += 1;
            self.answer(node, life, id, StoreOutcome::Unknown, PATIENCE);
        }
        let request = Box::new(request);
        self.queue.after(delay, Event::StoreArrive { node, life, id, request, ask });
    }

    fn answer(&mut self, node: Ix, life: u32, id: RequestId, outcome: StoreOutcome, after: Micros) {
        self.stats.sometimes.store_unknown += u64::from(outcome == StoreOutcome::Unknown);
        let input = Box::new(Input::Store { id, outcome });
        self.queue.after(after, Event::Agent { node, life, input });
    }

    pub(crate) fn store_arrive(
        &mut self,
        node: Ix,
        life: u32,
        id: RequestId,
        request: StoreRequest,
        ask: Ask,
    ) {
        let left = ask.patience.saturating_sub(self.queue.now);
        if self.store_down || self.net.asks & (1 << node) != 0 {
            if ask.wanted {
                self.answer(node, life, id, StoreOutcome::Unknown, left);
            }
            return;
        }
        let now = self.queue.now;
        let outcome = match request {
            StoreRequest::GrantLease { ttl } => {
                let lease = self.store.grant(now, ttl.0);
                self.ledger.beliefs[node].lease_sent(lease, ask.sent);
                Some(StoreOutcome::Granted(lease))
            }
            StoreRequest::KeepAlive(lease) => Some(if self.store.keep_alive(now, lease) {
                self.ledger.beliefs[node].lease_sent(lease, ask.sent);
                StoreOutcome::Alive
            } else {
                StoreOutcome::LeaseGone
            }),
            StoreRequest::Txn(txn) => {
                let before = self.store.view().clone();
                Some(match self.store.txn(&txn) {
                    Some(revision) => {
                        self.applied(node, (id, life), &txn, &before, ask.sent);
                        StoreOutcome::Applied(revision)
                    }
                    None => StoreOutcome::Refused,
                })
            }
            StoreRequest::Read => None,
        };
        self.send_answer(node, life, id, outcome, ask, left);
    }

    fn send_answer(
        &mut self,
        node: Ix,
        life: u32,
        id: RequestId,
        outcome: Option<StoreOutcome>,
        ask: Ask,
        left: Micros,
    ) {
        if !ask.wanted {
            return;
        }
        let mut delay = self.rng.between(200, 2_500);
        if self.rng.permille(self.faults.slow_store) {
            delay = self.rng.between(20_000, 1_500_000);
        }
        let lost = self.net.answers & (1 << node) != 0
            || self.rng.permille(self.faults.lose_answers)
            || delay >= left;
        if lost {
            self.answer(node, life, id, StoreOutcome::Unknown, left);
        } else if let Some(outcome) = outcome {
            self.answer(node, life, id, outcome, delay);
        } else {
            let input = Box::new(Input::View(self.store.view().clone()));
            self.queue.after(delay, Event::Agent { node, life, input });
        }
    }

    /// A transaction was applied: tell the ledger, the invariants and the watches.
    fn applied(
        &mut self,
        node: Ix,
        (id, life): (RequestId, u32),
        txn: &pgherd_core::cluster::Txn,
        before: &std::sync::Arc<pgherd_core::cluster::ClusterView>,
        sent: Time,
    ) {
        let after = self.store.view().clone();
        if before.revision == after.revision {
            return;
        }
        note!(
            self,
            "store: {:?} of n{} applied at revision {}",
            txn.purpose,
            node + 1,
            after.revision
        );
        self.ledger_applied(node, txn, before, &after, sent);
        self.model_applied(node, id, life, txn, &after);
        self.clocks_applied(node, (id, life), txn, before);
        invariants::after_transaction(self, node, txn, before, &after);
        self.spread();
    }

    /// Shows the present view to every watch.
    pub(crate) fn spread(&mut self) {
        let view = self.store.view().clone();
        for node in 0..self.nodes.len() {
            let agent = &self.nodes[node].agent;
            // A watch that skips a view shows the next one; when all is healed there may be none.
            let skipped = self.rng.permille(50) && self.faults.on;
            if agent.node.is_none() || agent.watch_cut || skipped {
                continue;
            }
            let (life, earliest) = (agent.life, agent.watch_arrives);
            let mut delay = self.rng.between(200, 4_000);
            if self.rng.permille(self.faults.slow_watch) {
                delay = self.rng.between(10_000, 3_000_000);
            }
            let at = (self.queue.now + delay).max(earliest);
            self.nodes[node].agent.watch_arrives = at;
            self.queue.push(at, Event::Watch { node, life, view: view.clone() });
        }
        if self.options.patroni != 0 {
            self.patroni_wakes();
        }
        let delay = self.rng.between(500, 30_000);
        let at = (self.queue.now + delay).max(self.router.arrives);
        self.router.arrives = at;
        self.queue.push(at, Event::Router { view });
    }

    pub(crate) fn watch(
        &mut self,
        node: Ix,
        life: u32,
        view: std::sync::Arc<pgherd_core::cluster::ClusterView>,
    ) {
        let blind = (self.net.answers | self.net.asks) & (1 << node) != 0 || self.store_down;
        let agent = &mut self.nodes[node].agent;
        if agent.life != life {
            return;
        }
        if blind || agent.watch_cut {
            if !agent.watch_cut {
                agent.watch_cut = true;
                self.queue.after(300_000, Event::WatchResume { node, life });
            }
            return;
        }
        self.agent_input(node, life, Input::View(view));
    }

    /// Tries to read anew and to watch from there.
    pub(crate) fn watch_resume(&mut self, node: Ix, life: u32) {
        let blind = (self.net.answers | self.net.asks) & (1 << node) != 0 || self.store_down;
        let agent = &mut self.nodes[node].agent;
        if agent.life != life || agent.node.is_none() {
            return;
        }
        if blind || self.queue.now < self.faults.watch_cut_until[node] {
            agent.watch_cut = true;
            let again = self.rng.between(100_000, 600_000);
            self.queue.after(again, Event::WatchResume { node, life });
            return;
        }
        agent.watch_cut = false;
        agent.watch_arrives = self.queue.now;
        let view = self.store.view().clone();
        self.agent_input(node, life, Input::View(view));
    }

    pub(crate) fn store_scan(&mut self) {
        self.queue.after(crate::store::SCAN, Event::StoreScan);
        if self.store_down {
            return;
        }
        let before = self.store.view().leader.is_some();
        if self.store.scan(self.queue.now) {
            if before && self.store.view().leader.is_none() {
                note!(self, "store: the leader key expires");
                self.story(|| "the leader key expires".to_owned());
            }
            self.spread();
        }
    }

    /// An operator writes a key.
    pub(crate) fn operator_writes(&mut self, key: &Key, value: pgherd_core::cluster::Value) {
        self.store.put(key, value);
        self.spread();
    }

    // ---- the peers ------------------------------------------------------------------------------

    fn send(&mut self, from: Ix, to: &NodeName, message: PeerMessage) {
        let Some(to) = self.index(to) else { return };
        self.model_says(from, to, &message);
        self.clocks_says(from, &message);
        if let PeerMessage::Pledge { ballot, answer } = &message {
            match answer {
                PledgeAnswer::Pledged { .. } => {
                    self.stats.sometimes.pledged += 1;
                    self.ledger.pledged(from, to, *ballot);
                    invariants::promise_kept::check_given(self, from, *ballot);
                    invariants::hold_kept::check(self, from, "pledges");
                }
                PledgeAnswer::Refused(_) => self.stats.sometimes.refused += 1,
            }
        }
        if let PeerMessage::Held { term, at } = &message {
            self.stats.sometimes.held += 1;
            self.ledger.beliefs[to].held(from, *term, *at);
            invariants::hold_kept::check_given(self, from, *term);
        }
        if to == from || !self.net.peer(from, to) || !self.nodes[to].up {
            return;
        }
        if self.nodes[to].agent.node.is_none() {
            if self.net.peer(to, from) {
                let lost = PeerLost::Refused(self.names[to].clone());
                let delay = self.rng.between(200, 2_000);
                self.tell_agent(from, delay, Input::PeerLost(lost));
            }
            return;
        }
        let mut delay = self.rng.between(100, 2_000);
        if self.rng.permille(self.faults.slow_peers) {
            delay = self.rng.between(10_000, 2_000_000);
        }
        let way = from * crate::pg::MAX_NODES + to;
        let at = (self.queue.now + delay).max(self.faults.peer_arrives[way]);
        self.faults.peer_arrives[way] = at;
        let life = self.nodes[to].agent.life;
        let input = Box::new(Input::Peer { from: self.names[from].clone(), message });
        self.queue.push(at, Event::Peer { from, node: to, life, input });
    }

    /// The agent's process is gone: its connections close.
    pub(crate) fn tell_peers_closed(&mut self, node: Ix) {
        for other in 0..self.nodes.len() {
            if other != node && self.net.peer(node, other) && self.net.peer(other, node) {
                let lost = PeerLost::Closed(self.names[node].clone());
                let delay = self.rng.between(200, 2_000);
                self.tell_agent(other, delay, Input::PeerLost(lost));
            }
        }
    }
}
