//! What can happen next in the ballot model. Each step is one of core's, or a fault.

use pgherd_core::quorum;

use super::{
    BEGINS, Ballot, Candidacy, List, NODES, Next, Node, Publish, Reign, State, Sync, Take, name,
    published,
};
use crate::explore::Label;
use crate::mutant::Mutant;

/// One state, and where its successors go.
pub(super) struct Steps<'a> {
    pub(super) model: &'a Ballot,
    pub(super) state: &'a State,
    pub(super) next: &'a mut Vec<(Label, State)>,
}

impl Steps<'_> {
    pub(super) fn all(&mut self) {
        for n in 0..self.model.size.nodes {
            self.write(n);
            self.acknowledge(n);
            self.list(n);
            self.publish_lands(n);
            self.resign(n);
            self.claim(n);
            self.take(n);
            self.take_lands(n);
            self.crash(n);
            self.wipe(n);
            for m in (0..self.model.size.nodes).filter(|m| *m != n) {
                self.stream(n, m);
                self.pledge(n, m);
                self.hold(n, m);
            }
            self.follow(n);
            self.look(n);
            self.hold_ends(n);
        }
    }

    fn to(&mut self, label: Label, change: impl FnOnce(&mut State)) {
        let mut state = self.state.clone();
        change(&mut state);
        self.next.push((label, state));
    }

    // === the leader ===

    fn write(&mut self, n: usize) {
        let node = &self.state.nodes[n];
        if node.reign.is_some() && self.state.written < self.model.size.commits {
            self.to(Label::of(n, "writes a commit"), |s| {
                s.written += 1;
                let record = s.written;
                s.nodes[n].append(record);
            });
        }
    }

    /// The answer to a client may be as late as it likes: what was flushed was flushed.
    fn acknowledge(&mut self, n: usize) {
        let node = &self.state.nodes[n];
        let Some(reign) = node.reign else { return };
        let enough = |list: List, end: usize| match list {
            List::Nobody => false,
            List::Any(count, names) => {
                let has = |m: &usize| names >> m & 1 == 1 && usize::from(reign.flushed[*m]) > end;
                (0..NODES).filter(has).count() >= usize::from(count)
            }
        };
        for (end, record) in node.wal[..usize::from(node.len)].iter().enumerate() {
            let known = *record >= BEGINS || self.state.acked >> (record - 1) & 1 == 1;
            if known {
                continue;
            }
            if enough(reign.names, end) || reign.before.is_some_and(|list| enough(list, end)) {
                let commit = record - 1;
                self.to(Label::of(n, "acknowledges a commit"), |s| s.acked |= 1 << commit);
            }
        }
    }

    /// Core's `arrange_list`: one step of the list, or of `sync`.
    fn list(&mut self, n: usize) {
        let Some(reign) = self.state.nodes[n].reign else { return };
        if reign.before.is_some() || !reign.settled {
            self.to(Label::of(n, "nobody acts by the list before any more"), |s| {
                let end = s.nodes[n].len;
                s.reign(n, |r| {
                    // `note_list_in_force`: the end moves on until it is settled.
                    r.end = if r.settled { r.end } else { end };
                    (r.before, r.settled) = (None, true);
                });
            });
        }
        // What the view shows of `sync` once another leads is of no use: its writes are refused.
        if reign.term != self.state.term || reign.publish.is_some() {
            return;
        }
        if reign.uncertain.is_some() {
            let sync = self.state.sync;
            self.publish(n, "writes again what stands in sync", sync.voters, sync.quorum);
            return;
        }
        let streams = (0..self.model.size.nodes).filter(|m| self.streams(n, *m)).map(|m| 1 << m);
        let streams: u8 = streams.sum();
        let every = 1_u8 << self.model.size.nodes;
        for wanted in (0..every).filter(|w| w & !streams == 0) {
            if wanted == 0 && self.model.size.strict {
                continue;
            }
            match self.model.next(self.state.sync, reign.names, wanted) {
                Next::Steady => {}
                Next::Names(_) if self.state.lists >= self.model.size.lists => {}
                Next::Names(list) => self.set_names(n, list),
                Next::Publish(voters, quorum) => {
                    let ready = self.caught_up(n, &reign, voters, quorum);
                    if (reign.settled && ready) || self.model.drops(Mutant::ShrinksTooEarly) {
                        self.publish(n, "publishes voters", voters, quorum);
                    }
                }
            }
        }
    }

    fn streams(&self, n: usize, m: usize) -> bool {
        let term = self.state.nodes[n].reign.map_or(0, |r| r.term);
        m != n && self.state.nodes[m].follows == term && term != 0
    }

    /// Core's `has_everything`.
    fn has_everything(&self, n: usize, reign: &Reign, m: usize) -> bool {
        self.streams(n, m) && reign.flushed[m] >= reign.end
    }

    fn caught_up(&self, n: usize, reign: &Reign, voters: u8, quorum: u8) -> bool {
        let has = |node: &pgherd_core::NodeName| {
            (0..NODES).any(|m| name(m) == *node && self.has_everything(n, reign, m))
        };
        quorum::caught_up(&published(voters, quorum), has)
    }

    fn set_names(&mut self, n: usize, list: List) {
        self.to(Label::of(n, "sets PostgreSQL's list"), |s| {
            s.lists += 1;
            let end = s.nodes[n].len;
            s.reign(n, |r| {
                // `note_list_in_force`: under a list that nobody satisfies nothing is acknowledged, once
                // nobody acts by the one before it.
                r.settled = r.names == List::Nobody && r.settled;
                if r.before.is_none() && r.names != List::Nobody {
                    r.before = Some(r.names);
                }
                (r.names, r.end) = (list, end);
            });
        });
    }

    fn publish(&mut self, n: usize, what: &'static str, voters: u8, quorum: u8) {
        let Some(reign) = self.state.nodes[n].reign else { return };
        let have = (0..NODES).filter(|m| self.has_everything(n, &reign, *m)).map(|m| 1 << m);
        let admitted = voters & (self.state.sync.admitted | have.sum::<u8>());
        let sync = Sync { voters, quorum, admitted };
        self.to(Label::of(n, what), |s| {
            s.reign(n, |r| r.publish = Some(Publish { sync, stale: false }));
        });
    }

    fn publish_lands(&mut self, n: usize) {
        let Some(reign) = self.state.nodes[n].reign else { return };
        if let Some(publish) = reign.publish {
            let what = if publish.stale { "sync is refused" } else { "sync is written" };
            self.to(Label::of(n, what), |s| {
                s.land(publish);
                s.reign(n, |r| {
                    r.publish = None;
                    r.uncertain = r.uncertain.filter(|_| publish.stale);
                });
            });
            if reign.uncertain.is_none() {
                self.to(Label::of(n, "gives up waiting for sync's answer"), |s| {
                    s.reign(n, |r| (r.publish, r.uncertain) = (None, Some(publish)));
                });
            }
        }
        if let Some(publish) = reign.uncertain.filter(|p| !p.stale) {
            self.to(Label::of(n, "sync is written, and nobody is told"), |s| s.land(publish));
        }
    }

    /// It learned that another leads; or its belief ended.
    fn resign(&mut self, n: usize) {
        if self.state.nodes[n].reign.is_some_and(|r| r.term < self.state.term) {
            self.to(Label::of(n, "sees that another leads"), |s| {
                s.nodes[n].reign = None;
                s.nodes[n].seen = s.term;
            });
        }
    }

    // === who wants to lead, and who agrees ===

    /// Core's `stand` and `claim_confirmed`.
    fn claim(&mut self, n: usize) {
        if self.state.claim >= self.model.size.claims {
            return;
        }
        let node = &self.state.nodes[n];
        let voter = self.state.sync.voters >> n & 1 == 1;
        let free = !self.bound(n) && self.free_of_holds(n);
        let known = node.take.is_some_and(|t| t.known);
        if node.reign.is_none() && voter && free && node.candidacy.is_none() && !known {
            self.to(Label::of(n, "claims"), |s| {
                s.claim += 1;
                s.candidate = Some(n as u8);
                let (ballot, term) = (s.claim, s.term);
                let node = &mut s.nodes[n];
                node.seen = term;
                node.follows = 0;
                node.candidacy = Some(Candidacy { ballot, pledged: 0, behind: false });
                node.promise = Some((ballot, term));
            });
        }
        if self.state.candidate.is_some() {
            self.to(Label::world("the claim is withdrawn"), |s| {
                s.claim += 1;
                s.candidate = None;
            });
        }
        if node.candidacy.is_some() {
            self.to(Label::of(n, "gives its candidacy up"), |s| s.nodes[n].candidacy = None);
        }
    }

    /// Core's `bound_to_candidate`.
    fn bound(&self, n: usize) -> bool {
        self.state.nodes[n].promise.is_some_and(|(ballot, against)| {
            self.state.claim <= ballot && self.state.term <= against
        })
    }

    /// Core's `holds`, negated.
    fn free_of_holds(&self, n: usize) -> bool {
        let hold = self.state.nodes[n].hold;
        hold == 0 || self.state.term > hold
    }

    /// Core's `answer_pledge` and `refusal`: `m` asks, `n` answers.
    fn pledge(&mut self, n: usize, m: usize) {
        let (voter, candidate) = (&self.state.nodes[n], &self.state.nodes[m]);
        let Some(candidacy) = candidate.candidacy else { return };
        let open = self.state.candidate == Some(m as u8) && candidacy.ballot == self.state.claim;
        let promised = voter.promise.is_some_and(|(ballot, _)| ballot == candidacy.ballot);
        let holds = !self.free_of_holds(n) && !self.model.drops(Mutant::PledgesWhileHolding);
        let taking = voter.take.is_some_and(|t| t.known);
        if !open || voter.reign.is_some() || holds || taking || (self.bound(n) && !promised) {
            return;
        }
        let sync = self.state.sync;
        let valid = sync.voters & (sync.admitted | self.any_instance());
        let counts = valid & 1 << n != 0 && voter.len > 0;
        let behind = voter.position() > candidate.position()
            && !self.model.drops(Mutant::IgnoresMoreAdvanced);
        let receiving = self.model.drops(Mutant::PledgeKeepsReceiving);
        self.to(Label::between(n, "pledges to", m), |s| {
            let term = s.term;
            let voter = &mut s.nodes[n];
            voter.candidacy = None;
            voter.promise = Some((candidacy.ballot, term));
            voter.seen = term;
            voter.follows = if receiving { voter.follows } else { 0 };
            if let (true, Some(candidacy)) = (counts, &mut s.nodes[m].candidacy) {
                candidacy.pledged |= 1 << n;
                candidacy.behind |= behind;
            }
        });
    }

    fn any_instance(&self) -> u8 {
        if self.model.drops(Mutant::IgnoresInstance) { u8::MAX } else { 0 }
    }

    /// Core's `count`, `plan_return` and `take_over`.
    fn take(&mut self, n: usize) {
        let s = self.state;
        let node = &s.nodes[n];
        if node.reign.is_some() || node.take.is_some() || !self.free_of_holds(n) {
            return;
        }
        let take = |ballot| Take {
            ballot,
            over: s.term,
            stale: false,
            known: true,
            lineage: node.wal_term,
        };
        if let Some(candidacy) = node.candidacy {
            let mine = s.sync.voters & (s.sync.admitted | self.any_instance()) & 1 << n;
            let have = (candidacy.pledged & s.sync.voters | mine).count_ones();
            let short = u32::from(self.model.drops(Mutant::OnePledgeTooFew));
            let needed = (u32::from(s.sync.quorum) + 1 - short).max(1);
            if mine != 0 && have >= needed && !candidacy.behind {
                let take = take(candidacy.ballot);
                self.to(Label::of(n, "sends its takeover"), |s| s.nodes[n].take = Some(take));
            }
        } else if s.leader == n as u8
            && node.wal_term != 0
            && (node.wal_term == s.term || node.wal_term == s.lineage)
            && !self.bound(n)
        {
            let take = take(0);
            self.to(Label::of(n, "sends its return"), |s| s.nodes[n].take = Some(take));
        }
    }

    fn take_lands(&mut self, n: usize) {
        let s = self.state;
        let Some(take) = s.nodes[n].take else { return };
        let compared = !take.stale || self.model.drops(Mutant::TakeoverWithoutCompare);
        let lands = compared && (take.ballot == 0 || take.ballot == s.claim);
        if !lands {
            self.to(Label::of(n, "its takeover is refused"), |s| s.nodes[n].refused());
            return;
        }
        if s.term >= self.model.size.terms {
            return;
        }
        let fewer = u32::from(self.model.drops(Mutant::OneHoldTooFew));
        let counts = |(i, node): (usize, &Node)| {
            i != n && node.reign.is_some_and(|r| r.holds != 0 && s.held_enough(&r, i, fewer))
        };
        let held = s.nodes.iter().enumerate().any(counts);
        self.to(Label::of(n, "takes over"), |s| {
            s.term += 1;
            s.leader = n as u8;
            s.lineage = take.lineage;
            s.both |= held && take.ballot != 0;
            s.failover |= take.ballot != 0;
            s.stale();
            let term = s.term;
            let node = &mut s.nodes[n];
            node.take = None;
            node.candidacy = None;
            // Without data it leads nobody, and starts nothing.
            if take.known && node.len > 0 {
                node.seen = term;
                node.wal_term = term;
                node.follows = 0;
                // What it had before its term began is what its voters need.
                node.reign = Some(Reign { end: node.len, ..Reign::new(term, List::Nobody) });
                node.append(BEGINS | term);
            }
        });
    }

    // === members ===

    /// WAL of the leader `n` reaches `m`, and the leader hears of it.
    fn stream(&mut self, n: usize, m: usize) {
        let s = self.state;
        let Some(reign) = s.nodes[n].reign.filter(|_| self.streams(n, m)) else { return };
        let (leader, member) = (&s.nodes[n], &s.nodes[m]);
        let more = member.len < leader.len;
        if !more && reign.flushed[m] >= member.len {
            return;
        }
        let record = leader.wal[usize::from(member.len.min(leader.len - 1))];
        self.to(Label::between(m, "flushes WAL of", n), |s| {
            if more {
                s.nodes[m].append(record);
            }
            let len = s.nodes[m].len;
            if s.nodes[m].wal[..usize::from(len)].contains(&(BEGINS | reign.term)) {
                s.nodes[m].wal_term = reign.term;
            }
            s.reign(n, |r| r.flushed[m] = len);
        });
    }

    /// It follows the leader of the term that the store shows, rewound to what they share.
    fn follow(&mut self, n: usize) {
        let s = self.state;
        let (node, leader) = (&s.nodes[n], &s.nodes[usize::from(s.leader)]);
        let leads = leader.reign.is_some_and(|r| r.term == s.term);
        let busy = node.reign.is_some() || node.candidacy.is_some() || self.bound(n);
        if !leads || busy || node.follows == s.term || usize::from(s.leader) == n {
            return;
        }
        let shared = (0..usize::from(node.len.min(leader.len)))
            .find(|i| node.wal[*i] != leader.wal[*i])
            .map_or(node.len.min(leader.len), |i| i as u8);
        self.to(Label::of(n, "follows the leader"), |s| {
            let term = s.term;
            let node = &mut s.nodes[n];
            (node.follows, node.seen) = (term, term);
            node.cut(shared);
        });
    }

    /// A new view: a promise that was decided is dropped by whoever sees what decided it. Elsewhere
    /// views are as late as requests: what a decision rests on is compared.
    fn look(&mut self, n: usize) {
        let node = &self.state.nodes[n];
        let decided = node.promise.is_some() && !self.bound(n);
        if self.model.size.holds > 0 && (decided || node.seen < self.state.term) {
            self.to(Label::of(n, "sees the store"), |s| {
                s.nodes[n].seen = s.term;
                s.nodes[n].promise = s.nodes[n].promise.filter(|_| !decided);
            });
        }
    }

    /// Core's `free_to_hold` and `on_hold`: `n` asks `m`.
    fn hold(&mut self, n: usize, m: usize) {
        let Some(reign) = self.state.nodes[n].reign else { return };
        let member = &self.state.nodes[m];
        let known = reign.holds >> m & 1 == 1;
        if known || self.state.held >= self.model.size.holds || member.seen > reign.term {
            return;
        }
        let promised = member.promise.is_some_and(|(_, against)| against >= reign.term);
        let promised = promised && !self.model.drops(Mutant::HoldsWhilePledged);
        let taking = member.take.is_some_and(|t| t.known && t.over >= reign.term);
        if promised || member.reign.is_some() || member.candidacy.is_some() || taking {
            return;
        }
        self.to(Label::between(m, "holds the term of", n), |s| {
            s.held += 1;
            s.nodes[m].hold = reign.term;
            s.reign(n, |r| r.holds |= 1 << m);
        });
    }

    /// Whoever counts it stops first: it counts from the sending ([`crate::belief`]).
    fn hold_ends(&mut self, n: usize) {
        let hold = self.state.nodes[n].hold;
        if hold != 0 {
            self.to(Label::of(n, "its hold ends"), |s| s.end_hold(n));
        }
    }

    // === faults ===

    fn crash(&mut self, n: usize) {
        if self.state.crashes >= self.model.size.crashes {
            return;
        }
        let hold = self.model.drops(Mutant::HoldForgotten);
        let pledge = self.model.drops(Mutant::PledgeForgotten);
        self.to(Label::of(n, "crashes and starts again"), |s| {
            s.crashes += 1;
            let node = &mut s.nodes[n];
            node.reign = None;
            node.candidacy = None;
            node.follows = 0;
            node.take = node.take.map(|take| Take { known: false, ..take });
            node.hold = if hold { 0 } else { node.hold };
            node.promise = node.promise.filter(|_| !pledge);
        });
    }

    /// The data directory is gone; what the agent keeps beside it stays.
    fn wipe(&mut self, n: usize) {
        let node = &self.state.nodes[n];
        if self.state.wipes >= self.model.size.wipes || node.reign.is_some() || node.len == 0 {
            return;
        }
        self.to(Label::of(n, "loses its data directory"), |s| {
            s.wipes += 1;
            let node = &mut s.nodes[n];
            node.cut(0);
            node.wal_term = 0;
            node.follows = 0;
            node.candidacy = None;
            let gone = |sync: &mut Sync| sync.admitted &= !(1 << n);
            gone(&mut s.sync);
            for reign in s.nodes.iter_mut().filter_map(|node| node.reign.as_mut()) {
                reign.flushed[n] = 0;
                [&mut reign.publish, &mut reign.uncertain]
                    .into_iter()
                    .flatten()
                    .for_each(|publish| gone(&mut publish.sync));
            }
        });
    }
}

impl Node {
    fn append(&mut self, record: u8) {
        self.wal[usize::from(self.len)] = record;
        self.len += 1;
    }

    fn cut(&mut self, len: u8) {
        self.wal[usize::from(len)..].fill(0);
        self.len = len;
    }

    fn refused(&mut self) {
        if self.take.take().is_some_and(|t| t.known) {
            self.candidacy = None;
        }
    }
}

impl State {
    fn reign(&mut self, n: usize, change: impl FnOnce(&mut Reign)) {
        if let Some(reign) = &mut self.nodes[n].reign {
            change(reign);
        }
    }

    /// Whatever compares term and `sync` comes too late.
    fn stale(&mut self) {
        for node in &mut self.nodes {
            node.take = node.take.map(|take| Take { stale: true, ..take });
            if let Some(reign) = &mut node.reign {
                reign.publish = reign.publish.map(|p| Publish { stale: true, ..p });
                reign.uncertain = reign.uncertain.map(|p| Publish { stale: true, ..p });
            }
        }
    }

    fn land(&mut self, publish: Publish) {
        if !publish.stale {
            self.stale();
            self.sync = publish.sync;
        }
    }

    fn end_hold(&mut self, n: usize) {
        self.nodes[n].hold = 0;
        for reign in self.nodes.iter_mut().filter_map(|node| node.reign.as_mut()) {
            reign.holds &= !(1 << n);
        }
    }
}
