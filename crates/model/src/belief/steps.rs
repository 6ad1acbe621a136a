//! What can happen next in the belief model: time, an agent's doings, what lands, faults.

use super::rules::{self, Holder, Taker};
use super::{Belief, By, Message, NODES, Node, OLD, State};
use crate::explore::Label;
use crate::mutant::Mutant;

/// One state, and where its successors go.
pub(super) struct Steps<'a> {
    pub(super) model: &'a Belief,
    pub(super) state: &'a State,
    pub(super) next: &'a mut Vec<(Label, State)>,
}

impl Steps<'_> {
    pub(super) fn all(&mut self) {
        self.tick();
        if self.state.key {
            self.to(Label::world("the lease expires"), |s| {
                s.key = false;
                s.stale();
            });
        }
        for n in 0..self.model.size.nodes {
            self.lead(n);
            self.take(n);
            self.crash(n);
            if self.state.nodes[n].behind {
                self.to(Label::of(n, "sees the store"), |s| s.see(n));
            }
        }
        for (i, message) in self.state.under_way.iter().enumerate() {
            // The same message twice is one possibility.
            if i == 0 || self.state.under_way[i - 1] != *message {
                self.to(Label::world("a message is lost"), |s| {
                    s.under_way.remove(i);
                });
                self.deliver(i, *message);
            }
        }
    }

    fn to(&mut self, label: Label, change: impl FnOnce(&mut State)) {
        let mut state = self.state.clone();
        change(&mut state);
        state.tidy(self.model.drops(Mutant::TakeoverWithoutCompare));
        self.next.push((label, state));
    }

    fn send(&mut self, label: Label, message: Message, change: impl FnOnce(&mut State)) {
        if self.state.under_way.len() < self.model.size.messages {
            self.to(label, |s| {
                s.under_way.push(message);
                change(s);
            });
        }
    }

    /// A tick of real time. Guards whose deadline passes kill, agents or no agents.
    fn tick(&mut self) {
        let (belief, patience) = (self.model.belief(), self.model.patience());
        self.to(Label::world("a tick"), |s| {
            for node in &mut s.nodes[..self.model.size.nodes] {
                node.proof = older(node.proof, belief);
                node.died |= node.reign != 0 && node.proof == OLD;
                node.silence = (node.silence + 1).min(patience);
                node.attempt = node.attempt.map(|(age, over)| (older(age, belief), over));
                node.holds = node.holds.map(|age| older(age, belief));
                node.hold.1 = older(node.hold.1, patience);
                if node.hold.1 == OLD {
                    node.hold.0 = 0;
                }
            }
            s.under_way.iter_mut().for_each(|message| match message {
                Message::Beat { age, .. }
                | Message::Beaten { age, .. }
                | Message::Take { age, .. }
                | Message::Taken { age, .. }
                | Message::Hold { age, .. }
                | Message::Held { age, .. } => *age = older(*age, belief),
                Message::Release { .. } => {}
            });
        });
    }

    // === what an agent does ===

    fn lead(&mut self, n: usize) {
        let node = &self.state.nodes[n];
        let (me, term) = (n as u8, node.reign);
        if node.proof != OLD {
            self.to(Label::of(n, "its PostgreSQL dies"), |s| {
                s.nodes[n].proof = OLD;
                s.nodes[n].died = term != 0;
            });
        }
        if term == 0 {
            return;
        }
        // Core's `release`.
        let dead = node.died && rules::lets_go(node.proof != OLD).is_ok();
        if dead || self.model.drops(Mutant::ReleasesBeforeDead) {
            let release = Message::Release { node: me, term };
            self.send(Label::of(n, "sends its release"), release, |s| {
                (s.nodes[n].reign, s.nodes[n].died) = (0, false);
            });
        }
        if node.died {
            return;
        }
        let sent = |m: &Message| match *m {
            Message::Beat { node, .. } | Message::Beaten { node, .. } => node == me,
            Message::Take { .. }
            | Message::Taken { .. }
            | Message::Release { .. }
            | Message::Hold { .. }
            | Message::Held { .. } => false,
        };
        if !self.state.under_way.iter().any(sent) {
            let beat = Message::Beat { node: me, term, age: 0 };
            self.send(Label::of(n, "sends a beat"), beat, |_| {});
        }
        for m in (0..self.model.size.nodes).filter(|m| self.model.size.failsafe && *m != n) {
            let ask = Message::Hold { node: me, to: m as u8, term, age: 0 };
            if !self.state.under_way.contains(&ask) {
                self.send(Label::between(n, "asks to hold:", m), ask, |_| {});
            }
        }
    }

    /// Core's `wait_for_others`, `plan_return` and `take_over`.
    fn take(&mut self, n: usize) {
        let (s, node) = (self.state, &self.state.nodes[n]);
        if node.attempt.is_some() {
            return;
        }
        let mut taker = Taker {
            by: By::Return,
            holds: self.holds(n) && !self.model.drops(Mutant::TakesWhileHolding),
            // It may have lost its key, or its agent is a new one.
            leads: node.reign != 0 && (s.key || node.reign != s.term),
            alive: node.proof != OLD,
            last: s.leader == n as u8 && !node.behind,
            ended: s.ended && !node.behind,
            patient: node.silence >= self.model.patience(),
        };
        if s.leader != n as u8 {
            taker.by = if taker.ended { By::Released } else { By::Silence };
        }
        if rules::takes(&taker).is_err() {
            return;
        }
        let by = taker.by;
        let stale = node.behind;
        let over = s.term;
        let take = Message::Take { node: n as u8, by, stale, known: true, age: 0 };
        self.send(Label::of(n, "sends its takeover"), take, |s| {
            s.nodes[n].attempt = Some((0, over));
        });
    }

    /// Core's `holds`.
    fn holds(&self, n: usize) -> bool {
        let (s, node) = (self.state, &self.state.nodes[n]);
        let term = node.hold.0;
        let dead = s.ended && !node.behind && s.term == term;
        term != 0 && node.seen <= term && !dead
    }

    fn crash(&mut self, n: usize) {
        if self.state.crashes >= self.model.size.crashes {
            return;
        }
        self.to(Label::of(n, "its agent dies and starts again"), |s| {
            s.crashes += 1;
            s.known &= s.leader != n as u8;
            let node = &mut s.nodes[n];
            let held = node.hold.0;
            *node = Node {
                reign: 0,
                died: false,
                silence: 0,
                behind: true,
                attempt: None,
                hold: if held == 0 { (0, OLD) } else { (held, 0) },
                holds: [OLD; NODES],
                ..*node
            };
            for message in &mut s.under_way {
                if let Message::Take { node, known, .. } = message {
                    *known &= *node != n as u8;
                }
            }
            // Answers to the former life reach nobody.
            s.under_way.retain(|message| match *message {
                Message::Beaten { node, .. }
                | Message::Taken { node, .. }
                | Message::Held { node, .. } => node != n as u8,
                Message::Beat { .. }
                | Message::Take { .. }
                | Message::Release { .. }
                | Message::Hold { .. } => true,
            });
        });
    }

    // === what lands ===

    fn deliver(&mut self, i: usize, message: Message) {
        let late = self.model.drops(Mutant::DeadlineFromReply);
        let counted = |age: u8| if late { 0 } else { age };
        let s = self.state;
        match message {
            Message::Beat { node, term, age } if s.still_mine(node, term) => {
                self.to(Label::of(node.into(), "its beat is written"), |s| {
                    s.under_way[i] = Message::Beaten { node, term, age };
                    s.moved();
                });
            }
            Message::Release { node, term } if s.still_mine(node, term) => {
                self.to(Label::of(node.into(), "its release is written"), |s| {
                    s.under_way.remove(i);
                    (s.key, s.ended) = (false, true);
                    s.moved();
                });
            }
            // Refused: as good as lost.
            Message::Beat { .. } | Message::Release { .. } => {}
            Message::Beaten { node, term, age } => {
                self.to(Label::of(node.into(), "hears that its beat is written"), |s| {
                    s.under_way.remove(i);
                    s.nodes[usize::from(node)].prove(term, counted(age));
                });
            }
            Message::Take { node, by, stale, known, age } => {
                self.take_lands(i, (node, by, stale, known, age));
            }
            Message::Taken { node, term, age } => {
                self.to(Label::of(node.into(), "hears that it took over"), |s| {
                    s.under_way.remove(i);
                    s.nodes[usize::from(node)].begin(term, counted(age));
                });
            }
            Message::Hold { node, to, term, age } => self.hold(i, (node, to, term, age)),
            Message::Held { node, by, term, age } => {
                self.to(Label::between(node.into(), "is held by", by.into()), |s| {
                    s.under_way.remove(i);
                    let members = (0..self.model.size.nodes).filter(|m| *m != usize::from(node));
                    let leader = &mut s.nodes[usize::from(node)];
                    if leader.reign == term {
                        let known = &mut leader.holds[usize::from(by)];
                        *known = (*known).min(age);
                        // Core's `held_since`: the oldest of all.
                        let all = members.map(|m| leader.holds[m]).max().unwrap_or(OLD);
                        leader.prove(term, all);
                    }
                });
            }
        }
    }

    fn take_lands(&mut self, i: usize, (n, by, stale, known, age): (u8, By, bool, bool, u8)) {
        let refused = rules::takes_effect(stale).is_err();
        if refused && !self.model.drops(Mutant::TakeoverWithoutCompare) {
            self.to(Label::of(n.into(), "its takeover is refused"), |s| {
                s.under_way.remove(i);
                if known {
                    s.nodes[usize::from(n)].attempt = None;
                }
            });
        } else if self.state.term < self.model.size.terms {
            self.to(Label::of(n.into(), "takes over"), |s| {
                s.term += 1;
                (s.leader, s.key, s.ended, s.known, s.by) = (n, true, false, known, by);
                let term = s.term;
                s.moved();
                if known {
                    s.under_way[i] = Message::Taken { node: n, term, age };
                } else {
                    s.under_way.remove(i);
                }
            });
        }
    }

    /// Core's `free_to_hold` and `on_hold`.
    fn hold(&mut self, i: usize, (from, to, term, age): (u8, u8, u8, u8)) {
        let member = &self.state.nodes[usize::from(to)];
        let holder = Holder {
            knows_newer: member.seen > term,
            leads: member.reign != 0,
            takes: member.attempt.is_some_and(|(_, over)| over >= term),
        };
        if rules::holds(&holder).is_err() {
            return;
        }
        self.to(Label::between(to.into(), "holds the term of", from.into()), |s| {
            s.under_way[i] = Message::Held { node: from, by: to, term, age };
            s.nodes[usize::from(to)].hold = (term, 0);
        });
    }
}

fn older(age: u8, limit: u8) -> u8 {
    if age == OLD { OLD } else { lives(age + 1, limit) }
}

/// This age of a proof, or `OLD` when it is none any more.
fn lives(age: u8, limit: u8) -> u8 {
    if rules::lives(age.into(), limit.into()).is_ok() { age } else { OLD }
}

impl Node {
    /// A proof of its reign: the guard gets the later deadline. Once fired, it stays fired.
    fn prove(&mut self, term: u8, age: u8) {
        if self.reign == term && self.proof != OLD {
            self.proof = self.proof.min(age);
        }
    }

    /// Core's `begin_reign`; PostgreSQL starts, or goes on.
    fn begin(&mut self, term: u8, age: u8) {
        if self.attempt.is_none_or(|(_, over)| over >= term) {
            return;
        }
        self.attempt = None;
        self.reign = term;
        self.seen = self.seen.max(term);
        self.proof = self.proof.min(age);
        self.died = self.proof == OLD;
        self.holds = [OLD; NODES];
    }
}

impl State {
    /// Core's `still_mine`.
    fn still_mine(&self, node: u8, term: u8) -> bool {
        self.key && self.leader == node && self.term == term
    }

    /// One state for all that differ in nothing that can still matter: what can only be refused or
    /// ignored is lost at once.
    fn tidy(&mut self, stale_may_land: bool) {
        let mut messages = std::mem::take(&mut self.under_way);
        messages.retain(|message| match *message {
            Message::Beat { node, term, .. } | Message::Release { node, term } => {
                self.still_mine(node, term)
            }
            Message::Beaten { node, term, .. } | Message::Held { node, term, .. } => {
                let node = &self.nodes[usize::from(node)];
                node.reign == term && node.proof != OLD
            }
            Message::Hold { node, term, .. } => self.nodes[usize::from(node)].reign == term,
            Message::Take { stale, known, .. } => known || !stale || stale_may_land,
            Message::Taken { node, term, .. } => {
                let attempt = self.nodes[usize::from(node)].attempt;
                attempt.is_some_and(|(_, over)| over < term)
            }
        });
        messages.sort_unstable();
        self.under_way = messages;
        let leader = usize::from(self.leader);
        self.nodes[leader].silence = 0;
        for node in &mut self.nodes {
            if node.reign == 0 || node.proof == OLD {
                node.holds = [OLD; NODES];
            }
        }
    }

    /// Whatever a takeover compares has changed.
    fn stale(&mut self) {
        for message in &mut self.under_way {
            if let Message::Take { stale, .. } = message {
                *stale = true;
            }
        }
    }

    /// The leader gave a sign of life, or another one leads.
    fn moved(&mut self) {
        self.stale();
        for node in &mut self.nodes {
            node.behind = true;
        }
    }

    /// A new view: core's `on_view` and `check_reign`.
    fn see(&mut self, n: usize) {
        let (term, leader, known) = (self.term, usize::from(self.leader), self.known);
        let node = &mut self.nodes[n];
        (node.behind, node.silence, node.seen) = (false, 0, term);
        if let (true, Some((age, _))) = (leader == n && known, node.attempt) {
            node.begin(term, age);
        }
        // What is sent over an older term is refused.
        node.attempt = node.attempt.filter(|(_, over)| *over >= term);
        if node.reign < term {
            // Another leads. PostgreSQL lives until the agent kills it, or the guard.
            (node.reign, node.died) = (0, false);
        }
    }
}
