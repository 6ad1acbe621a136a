//! What the exploration tries in each state: every step that a size has room for. Whether it may
//! happen, and what comes of it, say [`super::rules`] and [`super::apply`].

use super::lists::{List, Next, Sync};
use super::rules::Action;
use super::wals::{Short, Wals};
use super::{Ballot, Explored, NODES, Spent, State};
use crate::explore::Label;
use crate::mutant::Mutant;

type Step = Action<Short>;

/// One state, and where its successors go.
pub(super) struct Steps<'a> {
    pub(super) model: &'a Ballot,
    pub(super) now: &'a Explored,
    pub(super) state: &'a State<Short, NODES>,
    pub(super) next: &'a mut Vec<(Label, Explored)>,
}

impl Steps<'_> {
    pub(super) fn all(&mut self) {
        for n in 0..self.model.size.nodes {
            self.write(n);
            self.acknowledge(n);
            self.list(n);
            self.publish_answers(n);
            self.resign(n);
            self.claim(n);
            self.take(n);
            self.take_answers(n);
            self.crash(n);
            self.lose(n);
            for m in (0..self.model.size.nodes).filter(|m| *m != n) {
                self.stream(n, m);
                self.pledge(n, m);
                self.hold(n, m);
                self.follow(m, n);
            }
            self.look(n);
        }
    }

    /// All of these happen at once, if all may; whether they did.
    fn try_all(&mut self, label: Label, steps: &[Step]) -> bool {
        self.then(label, steps, |_| {})
    }

    fn then(&mut self, label: Label, steps: &[Step], spend: impl FnOnce(&mut Spent)) -> bool {
        let Some(first) = steps.first() else { return false };
        if self.model.laws.allowed(self.state, first).is_err() {
            return false;
        }
        let mut after = self.now.clone();
        for (i, step) in steps.iter().enumerate() {
            if i > 0 && self.model.laws.allowed(&after.state, step).is_err() {
                return false;
            }
            after.state.apply(step);
        }
        spend(&mut after.spent);
        self.next.push((label, after));
        true
    }

    // === the leader ===

    fn write(&mut self, node: usize) {
        let record = self.now.spent.written + 1;
        if record <= self.model.size.commits {
            let step = Action::Write { node, record };
            self.then(Label::of(node, "writes a commit"), &[step], |s| s.written = record);
        }
    }

    fn acknowledge(&mut self, node: usize) {
        if self.state.nodes[node].reign.is_none() {
            return;
        }
        let wals = &self.state.wals;
        for commit in wals.unacknowledged(node).collect::<Vec<_>>() {
            let step = Action::Acknowledge { node, commit };
            self.try_all(Label::of(node, "acknowledges a commit"), &[step]);
        }
    }

    /// Core's `arrange_list`: one step of the list, or of `sync`.
    fn list(&mut self, node: usize) {
        let Some(reign) = self.state.nodes[node].reign else { return };
        if reign.before.is_some() || !reign.settled {
            let label = Label::of(node, "nobody acts by the list before any more");
            self.try_all(label, &[Action::Settle { node }]);
        }
        let now = self.state.sync;
        let uncertain = self.state.nodes[node].uncertain.is_some();
        if uncertain || now.admitted != now.voters {
            self.publish(node, "writes again what stands in sync", 0, (now.voters, now.quorum));
        }
        if uncertain {
            return;
        }
        let every = 1_u8 << self.model.size.nodes;
        let (mut lists, mut publishes) = (Vec::new(), Vec::new());
        for wanted in 0..every {
            if wanted >> node & 1 == 1 || wanted == 0 && self.model.size.strict {
                continue;
            }
            match self.model.laws.next(now, reign.names, wanted) {
                Next::Steady => {}
                Next::Names(list) => lists.push((wanted, list)),
                Next::Publish(voters, quorum) => publishes.push((wanted, (voters, quorum))),
            }
        }
        let mut done: Vec<List> = Vec::new();
        for (wanted, list) in lists {
            let more = self.now.spent.lists < self.model.size.lists;
            let step = Action::SetNames { node, wanted, list };
            let label = Label::of(node, "sets PostgreSQL's list");
            if more && !done.contains(&list) && self.then(label, &[step], |s| s.lists += 1) {
                done.push(list);
            }
        }
        let mut done = Vec::new();
        for (wanted, to) in publishes {
            if !done.contains(&to) && self.publish(node, "publishes voters", wanted, to) {
                done.push(to);
            }
        }
    }

    /// Admits whom it may.
    fn publish(&mut self, node: usize, what: &'static str, wanted: u8, to: (u8, u8)) -> bool {
        let now = self.state.sync;
        let have = (0..NODES).filter(|m| self.state.replaces(node, *m)).map(|m| 1_u8 << m);
        let admitted = to.0 & (now.admitted | !now.voters | have.sum::<u8>());
        let sync = Sync { voters: to.0, quorum: to.1, admitted };
        self.try_all(Label::of(node, what), &[Action::Publish { node, wanted, sync }])
    }

    fn publish_answers(&mut self, node: usize) {
        let (publish, uncertain) =
            (self.state.nodes[node].publish, self.state.nodes[node].uncertain);
        if publish.is_some() {
            let lands = Action::PublishLands { node, late: false };
            self.try_all(Label::of(node, "sync is written"), &[lands]);
            let refused = Action::PublishRefused { node };
            self.try_all(Label::of(node, "sync is refused"), &[refused]);
            let unanswered = Action::PublishUnanswered { node };
            self.try_all(Label::of(node, "gives up waiting for sync's answer"), &[unanswered]);
        }
        if uncertain.is_some() {
            let lands = Action::PublishLands { node, late: true };
            self.try_all(Label::of(node, "sync is written, and nobody is told"), &[lands]);
        }
    }

    /// It learned that another leads; or its belief ended.
    fn resign(&mut self, node: usize) {
        let term = self.state.term;
        if self.state.nodes[node].reign.is_some_and(|r| r.term < term) {
            let steps = [Action::Resign { node }, Action::Look { node, term }];
            self.try_all(Label::of(node, "sees that another leads"), &steps);
        }
    }

    // === who wants to lead, and who agrees ===

    fn claim(&mut self, node: usize) {
        let (ballot, against) = (self.state.claim + 1, self.state.term);
        if self.state.nodes[node].candidacy.is_some() {
            self.try_all(Label::of(node, "gives its candidacy up"), &[Action::GiveUp { node }]);
        }
        if ballot > self.model.size.claims {
            return;
        }
        let voter = self.state.sync.voters >> node & 1 == 1;
        if voter && self.state.nodes[node].candidacy.is_none() {
            let steps = [
                Action::Claim { node, ballot },
                Action::Stand { node },
                Action::Promise { node, ballot, against },
                Action::Look { node, term: against },
            ];
            self.try_all(Label::of(node, "claims"), &steps);
        }
        if node == 0 && self.state.candidate.is_some() {
            self.try_all(Label::world("the claim is withdrawn"), &[Action::Withdraw { ballot }]);
        }
    }

    /// `m` asks, `n` answers.
    fn pledge(&mut self, n: usize, m: usize) {
        let Some(candidacy) = self.state.nodes[m].candidacy else { return };
        let (ballot, against) = (candidacy.ballot, self.state.term);
        if self.state.claim != ballot {
            return;
        }
        let position = self.state.position(n);
        let mut steps = vec![
            Action::Promise { node: n, ballot, against },
            Action::Look { node: n, term: against },
        ];
        if !self.model.laws.drops(Mutant::PledgeKeepsReceiving) {
            steps.push(Action::Unfollow { node: n });
        }
        steps.push(Action::Pledge { voter: n, candidate: m, position });
        self.try_all(Label::between(n, "pledges to", m), &steps);
    }

    fn take(&mut self, node: usize) {
        let Some(free) = self.state.nodes.get(node).filter(|n| n.take.is_none()) else { return };
        if let Some(candidacy) = free.candidacy {
            let ballot = Some(candidacy.ballot);
            let step = Action::Take { node, ballot, first: None };
            for voter in (0..NODES).filter(|m| candidacy.pledged >> m & 1 == 1) {
                let Some(record) = self.state.wals.next_of(node, voter) else { continue };
                let fetch = Action::Fetch { node, voter };
                let flush = Action::Flush { member: node, leader: voter, record };
                let steps = [Action::Unfollow { node }, fetch, flush, Action::Unfollow { node }];
                self.try_all(Label::between(node, "fetches WAL of", voter), &steps);
            }
            self.try_all(Label::of(node, "sends its takeover"), &[Action::Unfollow { node }, step]);
            if let Some(first) = self.first(node, candidacy.pledged) {
                let step = Action::Take { node, ballot, first: Some(first) };
                let label = Label::of(node, "sends its takeover with its voters");
                self.try_all(label, &[Action::Unfollow { node }, step]);
            }
        } else if free.reign.is_none() || self.model.size.agents > 0 {
            let step = Action::Take { node, ballot: None, first: None };
            self.try_all(Label::of(node, "sends its return"), &[step]);
        }
    }

    /// All that it may publish as voters of its term.
    fn first(&self, node: usize, pledged: u8) -> Option<Sync> {
        let behind = self.model.laws.drops(Mutant::ListsWhoeverPledged);
        let level = if behind { u8::MAX } else { self.state.level(node) };
        let voters = pledged & self.state.sync.admitted & level;
        let quorum = voters.count_ones().checked_sub(self.model.size.count)?;
        Some(Sync { voters, quorum: quorum as u8, admitted: voters })
    }

    fn take_answers(&mut self, node: usize) {
        let Some(take) = self.state.nodes[node].take else { return };
        self.try_all(Label::of(node, "its takeover is refused"), &[Action::TakeRefused { node }]);
        if take.waits {
            let label = Label::of(node, "gives up waiting for its takeover's answer");
            self.try_all(label, &[Action::TakeUnanswered { node }]);
        }
        let term = self.state.term + 1;
        if term > self.model.size.terms {
            return;
        }
        // Without data it leads nobody, and starts nothing.
        let told = take.known && self.state.wals.end(node) > 0;
        let carried = self.state.nodes[node].reign.is_some() && told;
        let fewer = u32::from(self.model.laws.drops(Mutant::OneHoldTooFew));
        let both = take.ballot.is_some() && self.state.another_is_held(node, fewer);
        let step = Action::TakeLands { node, term, told };
        let taken = self.then(Label::of(node, "takes over"), &[step], |s| {
            s.failover |= take.ballot.is_some();
            s.carried |= carried;
        });
        if let (true, Some((_, after))) = (taken, self.next.last_mut()) {
            after.state.both |= both;
        }
    }

    // === members ===

    /// WAL of the leader reaches a member, and the leader hears of it.
    fn stream(&mut self, leader: usize, member: usize) {
        let Some(reign) = self.state.nodes[leader].reign else { return };
        if !self.state.streams(leader, member) {
            return;
        }
        let label = Label::between(member, "flushes WAL of", leader);
        let end = self.state.wals.end(member);
        if let Some(record) = self.state.wals.next_of(member, leader) {
            let flush = Action::Flush { member, leader, record };
            self.try_all(label, &[flush, Action::Hear { leader, member, end: end + 1 }]);
        } else if reign.flushed[member] < end {
            self.try_all(label, &[Action::Hear { leader, member, end }]);
        }
    }

    /// It follows the leader of the term that the store shows, rewound to what they share; or one of
    /// yesterday, as PostgreSQL does by itself.
    fn follow(&mut self, member: usize, leader: usize) {
        let node = &self.state.nodes[member];
        let Some(reign) = self.state.nodes[leader].reign else { return };
        if node.follows == reign.term {
            return;
        }
        let follow = Action::Follow { member, leader };
        if self.state.wals.continues(leader, member) {
            self.try_all(Label::between(member, "follows", leader), &[follow]);
        } else if node.candidacy.is_none() {
            let steps = [Action::Rewind { member, leader }, follow];
            self.try_all(Label::between(member, "is rewound, and follows", leader), &steps);
        }
    }

    /// A new view: a promise that was decided is dropped by whoever sees what decided it. Elsewhere
    /// views are as late as requests: what a decision rests on is compared.
    fn look(&mut self, node: usize) {
        if self.model.size.holds == 0 {
            return;
        }
        let (it, term) = (&self.state.nodes[node], self.state.term);
        let look = Action::Look { node, term };
        let label = Label::of(node, "sees the store");
        if it.promise.is_some() && self.state.bound(node).is_none() {
            self.try_all(label, &[look, Action::Forget { node }]);
        } else if it.seen < term {
            self.try_all(label, &[look]);
        }
        if it.hold != 0 {
            self.try_all(Label::of(node, "its hold ends"), &[Action::HoldEnds { node }]);
        }
    }

    fn hold(&mut self, leader: usize, member: usize) {
        let Some(reign) = self.state.nodes[leader].reign else { return };
        let known = reign.holds >> member & 1 == 1;
        if !known && self.now.spent.held < self.model.size.holds {
            let label = Label::between(member, "holds the term of", leader);
            self.then(label, &[Action::Hold { leader, member }], |s| s.held += 1);
        }
    }

    // === faults ===

    fn crash(&mut self, node: usize) {
        let dies = || Action::AgentDies { node };
        if self.now.spent.agents < self.model.size.agents {
            let label = Label::of(node, "its agent dies and starts again");
            self.then(label, &[dies()], |s| s.agents += 1);
        }
        if self.now.spent.crashes >= self.model.size.crashes {
            return;
        }
        let steps = [dies(), Action::Resign { node }, Action::Unfollow { node }];
        self.then(Label::of(node, "crashes and starts again"), &steps, |s| s.crashes += 1);
        let hold = self.model.laws.drops(Mutant::HoldForgotten);
        let pledge = self.model.laws.drops(Mutant::PledgeForgotten);
        if let Some((_, after)) = self.next.last_mut() {
            let it = &mut after.state.nodes[node];
            it.hold = if hold { 0 } else { it.hold };
            it.promise = it.promise.filter(|_| !pledge);
        }
    }

    /// The data directory is gone; what the agent keeps beside it stays.
    fn lose(&mut self, node: usize) {
        let nothing = self.state.wals.end(node) == 0;
        let leads = self.state.nodes[node].reign.is_some();
        if self.now.spent.wipes >= self.model.size.wipes || leads || nothing {
            return;
        }
        let label = Label::of(node, "loses its data directory");
        self.then(label, &[Action::Lost { node }], |s| s.wipes += 1);
    }
}
