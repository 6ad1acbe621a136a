//! What comes of a step that [`super::rules`] allow.

use super::lists::{List, Sync};
use super::rules::Action;
use super::wals::Wals;
use super::{Candidacy, Promise, Publish, Reign, State, Take};

impl<W: Wals, const N: usize> State<W, N> {
    /// Changes the state as this step does.
    #[expect(clippy::too_many_lines, reason = "a line or two for each step")]
    pub fn apply(&mut self, action: &Action<W>) {
        match *action {
            Action::Write { node, record } => self.wals.append(node, record),
            Action::Acknowledge { node, commit } => self.wals.acknowledge(node, commit),
            Action::Settle { node } => {
                let end = self.wals.end(node);
                self.reign(node, |r| {
                    // `note_list_in_force`: the end moves on until it is settled.
                    r.end = if r.settled { r.end } else { end };
                    (r.before, r.settled) = (None, true);
                });
            }
            Action::SetNames { node, list, .. } => self.set_names(node, list),
            Action::Publish { node, sync, .. } => self.publish(node, sync),
            Action::PublishLands { node, late } => self.publish_lands(node, late),
            Action::PublishRefused { node } => self.nodes[node].publish = None,
            Action::PublishUnanswered { node } => {
                self.nodes[node].uncertain = self.nodes[node].publish.take();
            }
            Action::Resign { node } => self.nodes[node].reign = None,
            Action::Claim { node, ballot } => {
                (self.claim, self.candidate) = (ballot, Some(node as u8));
                self.nodes[node].candidacy = None;
            }
            Action::Withdraw { ballot } => (self.claim, self.candidate) = (ballot, None),
            Action::Stand { node } => {
                let furthest = Default::default();
                let candidacy = Candidacy { ballot: self.claim, pledged: 0, furthest };
                self.nodes[node].candidacy = Some(candidacy);
            }
            Action::GiveUp { node } => self.nodes[node].candidacy = None,
            Action::Promise { node, ballot, against } => {
                self.nodes[node].promise = Some(Promise { ballot, against, given: false });
            }
            Action::Forget { node } => self.nodes[node].promise = None,
            Action::Pledge { voter, candidate, position } => {
                self.pledge(voter, candidate, position);
            }
            Action::Take { node, ballot, first } => self.take(node, ballot, first),
            Action::TakeLands { node, term, told } => self.take_lands(node, term, told),
            Action::TakeRefused { node } => {
                if self.nodes[node].take.take().is_some_and(|t| t.waits) {
                    self.nodes[node].candidacy = None;
                }
            }
            Action::TakeUnanswered { node } => {
                self.nodes[node].candidacy = None;
                self.nodes[node].take = self.nodes[node].take.map(|t| Take { waits: false, ..t });
            }
            Action::Promote { .. } | Action::Rely { .. } => {}
            Action::Follow { member, leader } => {
                let term = self.nodes[leader].reign.as_ref().map(|r| r.term);
                self.nodes[member].follows = term.unwrap_or_default();
            }
            Action::Fetch { node, voter } => {
                self.nodes[node].follows = self.wals.latest(voter);
            }
            Action::Unfollow { node } => self.nodes[node].follows = W::Number::default(),
            Action::Rewind { member, leader } => self.wals.rewind(member, leader),
            Action::Flush { member, record, .. } => self.wals.append(member, record),
            Action::Hear { leader, member, end } => self.reign(leader, |r| {
                r.flushed[member] = r.flushed[member].max(end);
                r.has[member] = r.has[member].max(end);
            }),
            Action::Look { node, term } => {
                self.nodes[node].seen = self.nodes[node].seen.max(term);
            }
            Action::Hold { leader, member } => {
                let Some(term) = self.nodes[leader].reign.as_ref().map(|r| r.term) else { return };
                self.nodes[member].hold = term;
                self.reign(leader, |r| r.holds |= 1 << member);
            }
            Action::HoldEnds { node } => self.end_hold(node),
            Action::AgentDies { node } => self.agent_dies(node),
            Action::Replaced { node } => self.replaced(node),
            Action::Lost { node } => self.lost(node),
        }
    }

    fn reign(&mut self, n: usize, change: impl FnOnce(&mut Reign<W::Number, W::End, N>)) {
        if let Some(reign) = &mut self.nodes[n].reign {
            change(reign);
        }
    }

    /// Core's `bound_to_candidate`: the promise of a ballot that may still win.
    pub(super) fn bound(&self, n: usize) -> Option<Promise<W::Number>> {
        let open = |p: &Promise<W::Number>| self.claim <= p.ballot && self.term <= p.against;
        self.nodes[n].promise.filter(open)
    }

    /// Who stands where this node stands.
    pub(super) fn level(&self, n: usize) -> u8 {
        let stands = |m: &usize| *m != n && self.position(*m) == self.position(n);
        (0..N).filter(stands).map(|m| 1_u8 << m).sum()
    }

    pub(super) fn streams(&self, n: usize, m: usize) -> bool {
        let term = self.nodes[n].reign.as_ref().map(|r| r.term);
        m != n && term == Some(self.nodes[m].follows)
    }

    /// Core's `has_everything`.
    pub(super) fn has_everything(&self, n: usize, m: usize) -> bool {
        let has = |r: &Reign<W::Number, W::End, N>| r.has[m] >= r.end.max(r.needs[m]);
        m != n && self.nodes[n].reign.as_ref().is_some_and(has)
    }

    /// What a node has now includes all that its directory before could acknowledge.
    pub(super) fn replaces(&self, n: usize, m: usize) -> bool {
        let has = |r: &Reign<W::Number, W::End, N>| r.has[m] >= r.needs[m];
        m != n && self.nodes[n].reign.as_ref().is_some_and(has)
    }

    fn set_names(&mut self, n: usize, list: List) {
        let end = self.wals.end(n);
        self.reign(n, |r| {
            // `note_list_in_force`: under a list that nobody satisfies nothing is acknowledged, once
            // nobody acts by the one before it.
            r.settled = r.names == List::Nobody && r.settled;
            if r.before.is_none() && r.names != List::Nobody {
                r.before = Some(r.names);
            }
            (r.names, r.end) = (list, end);
        });
    }

    fn publish(&mut self, n: usize, sync: Sync) {
        self.nodes[n].publish = Some(Publish { sync, stale: false });
    }

    fn publish_lands(&mut self, n: usize, late: bool) {
        let node = &mut self.nodes[n];
        let publish = if late { node.uncertain } else { node.publish };
        if !late {
            (node.publish, node.uncertain) = (None, None);
        }
        if let Some(publish) = publish.filter(|p| !p.stale) {
            self.stale();
            self.sync = publish.sync;
        }
    }

    /// Whatever compares term and `sync` comes too late.
    fn stale(&mut self) {
        for node in &mut self.nodes {
            node.take = node.take.map(|take| Take { stale: true, ..take });
            node.publish = node.publish.map(|p| Publish { stale: true, ..p });
            node.uncertain = node.uncertain.map(|p| Publish { stale: true, ..p });
        }
    }

    fn pledge(&mut self, voter: usize, candidate: usize, position: (W::Number, W::End)) {
        let sync = self.sync;
        let counts = sync.voters & sync.admitted & 1 << voter != 0;
        self.nodes[voter].candidacy = None;
        self.give(voter);
        if let (true, Some(candidacy)) = (counts, &mut self.nodes[candidate].candidacy) {
            candidacy.pledged |= 1 << voter;
            candidacy.furthest = candidacy.furthest.max(position);
        }
    }

    fn take(&mut self, n: usize, ballot: Option<W::Number>, first: Option<Sync>) {
        let (over, lineage) = (self.term, self.wals.latest(n));
        let take = Take { ballot, over, stale: false, known: true, waits: true, lineage, first };
        if ballot.is_some() {
            self.give(n);
        }
        self.nodes[n].take = Some(take);
    }

    /// Its promise counts from now on.
    fn give(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if let Some(promise) = &mut node.promise {
            promise.given = true;
            node.from = node.from.max(promise.against);
        }
    }

    fn take_lands(&mut self, n: usize, term: W::Number, told: bool) {
        let Some(take) = self.nodes[n].take else { return };
        self.both |= take.ballot.is_some() && self.another_is_held(n, 0);
        for node in &mut self.nodes {
            let helped = |p: &Promise<W::Number>| p.given && Some(p.ballot) == take.ballot;
            if node.promise.as_ref().is_some_and(helped) {
                node.from = term;
            }
        }
        self.term = term;
        self.leader = n as u8;
        self.lineage = take.lineage;
        self.sync = take.first.unwrap_or(self.sync);
        self.stale();
        self.nodes[n].take = None;
        self.nodes[n].candidacy = None;
        if told {
            self.begin_reign(n, term);
        }
    }

    /// Another than `n` leads because its members hold.
    pub(super) fn another_is_held(&self, n: usize, fewer: u32) -> bool {
        (0..N).filter(|i| *i != n).any(|i| {
            let holds = self.nodes[i].reign.as_ref().map_or(0, |r| r.holds);
            holds != 0 && self.held_enough(i, holds, fewer)
        })
    }

    /// Core's `begin_reign`: anew, or carried on by the same PostgreSQL.
    pub fn begin_reign(&mut self, n: usize, term: W::Number) {
        self.nodes[n].seen = term;
        // What it compared is no more.
        (self.nodes[n].publish, self.nodes[n].uncertain) = (None, None);
        if let Some(reign) = self.nodes[n].reign {
            self.wals.carry(n, reign.term, term);
            for node in &mut self.nodes {
                node.follows = if node.follows == reign.term { term } else { node.follows };
            }
            self.nodes[n].reign = Some(Reign { term, holds: 0, ..reign });
            return;
        }
        self.nodes[n].follows = W::Number::default();
        // What it had before its term began is what its voters need.
        let end = self.wals.end(n);
        let reign = Reign { end, needs: [end; N], ..Reign::new(term) };
        self.nodes[n].reign = Some(reign);
        self.wals.begin(n, term);
    }

    /// A leader's PostgreSQL starts anew under its term: with a list that nobody satisfies.
    pub fn restarts(&mut self, n: usize) {
        let end = self.wals.end(n);
        self.reign(n, |r| {
            *r = Reign { end, needs: [end; N], holds: r.holds, ..Reign::new(r.term) }
        });
    }

    fn end_hold(&mut self, n: usize) {
        self.nodes[n].hold = W::Number::default();
        for reign in self.nodes.iter_mut().filter_map(|node| node.reign.as_mut()) {
            reign.holds &= !(1 << n);
        }
    }

    fn agent_dies(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.candidacy = None;
        node.take = node.take.map(|take| Take { known: false, waits: false, ..take });
        // Of two, the one that writes what stands changes nothing.
        node.uncertain = node.uncertain.or(node.publish.take());
        self.reign(n, |r| r.holds = 0);
    }

    fn replaced(&mut self, n: usize) {
        let gone = !(1 << n);
        self.sync.admitted &= gone;
        for node in &mut self.nodes {
            let publishes = [&mut node.publish, &mut node.uncertain];
            publishes.into_iter().flatten().for_each(|publish| publish.sync.admitted &= gone);
            let first = node.take.as_mut().and_then(|take| take.first.as_mut());
            first.into_iter().for_each(|first| first.admitted &= gone);
        }
        for leader in 0..N {
            let end = self.wals.end(leader);
            self.reign(leader, |r| (r.has[n], r.needs[n]) = (W::End::default(), end));
        }
    }

    fn lost(&mut self, n: usize) {
        self.replaced(n);
        self.wals.clear(n);
        let node = &mut self.nodes[n];
        node.follows = W::Number::default();
        node.candidacy = None;
    }
}
