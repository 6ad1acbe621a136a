//! What may happen next, as one function of a state and a step: the judge of the exploration and of
//! the simulator's trace check alike. What comes of a step is in [`super::apply`].

use std::fmt;

use pgherd_core::quorum;

use super::lists::{self, List, Next, Sync, Table};
use super::wals::Wals;
use super::{Promise, Reign, State};
use crate::mutant::Mutant;

/// One step. Faults are steps too.
#[expect(missing_docs, reason = "fields say who does it, with whom and what")]
#[derive(Clone, Copy, Debug)]
pub enum Action<W: Wals> {
    /// A primary writes.
    Write { node: usize, record: W::Record },
    /// A client is told that its commit is safe.
    Acknowledge { node: usize, commit: W::Commit },
    /// Nobody acts by the list before any more; or the end of WAL that counts for this list moves on.
    Settle { node: usize },
    /// PostgreSQL's list changes.
    SetNames { node: usize, wanted: u8, list: List },
    /// A write of `sync` is sent.
    Publish { node: usize, wanted: u8, sync: Sync },
    /// It is applied; `late`: after its sender gave up waiting.
    PublishLands { node: usize, late: bool },
    /// It is not.
    PublishRefused { node: usize },
    /// Nobody learns which.
    PublishUnanswered { node: usize },
    /// A leader sees that another leads, or its PostgreSQL is dead.
    Resign { node: usize },
    /// A claim is in the store.
    Claim { node: usize, ballot: W::Number },
    /// Its candidate knows.
    Stand { node: usize },
    /// Somebody writes that no claim stands.
    Withdraw { ballot: W::Number },
    /// A candidate stops trying.
    GiveUp { node: usize },
    /// A promise is on disk.
    Promise { node: usize, ballot: W::Number, against: W::Number },
    /// It is no more.
    Forget { node: usize },
    /// A voter answers with its position.
    Pledge { voter: usize, candidate: usize, position: (W::Number, W::End) },
    /// A takeover is sent; without ballot: a return. `first`: the voters that it publishes itself.
    Take { node: usize, ballot: Option<W::Number>, first: Option<Sync> },
    /// It is applied. `told`: and its sender will know.
    TakeLands { node: usize, term: W::Number, told: bool },
    /// It is not.
    TakeRefused { node: usize },
    /// Nobody learns which.
    TakeUnanswered { node: usize },
    /// PostgreSQL opens for writes.
    Promote { node: usize, term: W::Number },
    /// A replica begins to receive from a leader.
    Follow { member: usize, leader: usize },
    /// A candidate receives from a voter that is ahead.
    Fetch { node: usize, voter: usize },
    /// It stops.
    Unfollow { node: usize },
    /// What it has that the leader lacks is undone.
    Rewind { member: usize, leader: usize },
    /// WAL is flushed.
    Flush { member: usize, leader: usize, record: W::Record },
    /// The leader hears how much.
    Hear { leader: usize, member: usize, end: W::End },
    /// A view of the store arrives.
    Look { node: usize, term: W::Number },
    /// A member holds a leader's term, and the leader hears of it.
    Hold { leader: usize, member: usize },
    /// A hold ends. Whoever counts it stopped before: it counts from the sending ([`crate::belief`]).
    HoldEnds { node: usize },
    /// A leader goes on because these hold its term.
    Rely { node: usize, holds: u8 },
    /// An agent dies; its PostgreSQL goes on.
    AgentDies { node: usize },
    /// The data directory is another than was admitted.
    Replaced { node: usize },
    /// Nothing is in it.
    Lost { node: usize },
}

/// Why a step may not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Core's `begin_reign`.
    OnlyWhoTookTheTerm,
    /// PostgreSQL's own: its list.
    EnoughHaveFlushed,
    /// Core's `arrange_list`.
    ListsStepByStep,
    /// Core's `publish_when_caught_up`.
    VotersCaughtUp,
    /// Core's `publish`.
    AdmittedWithEverything,
    /// Core's `still_mine`.
    SyncCompared,
    /// Core's `stand`.
    LeadersDontClaim,
    /// Core's `stop_receiving_and_answer`.
    PromiseBeforePledge,
    /// Core's `bound_to_candidate`.
    PromiseKept,
    /// Core's `stop_receiving`.
    PledgedReceivesNothing,
    /// Core's `refusal`.
    LeadersDontPledge,
    /// Core's `answer_pledge`.
    BallotIsOpen,
    /// Core's `position`.
    PositionIsTrue,
    /// Core's `holds`.
    HoldKept,
    /// Core's `count`: `needed`.
    EnoughPledges,
    /// Core's `count`: `ahead`.
    NobodyAhead,
    /// Core's `first_sync`.
    FirstVotersAreLevel,
    /// Core's `plan_return`.
    OnlyLastLeaderReturns,
    /// Core's `take_over`: what it compares.
    TakeoverCompares,
    /// Core's `plan/replica.rs`.
    NoDivergence,
    /// Core's `free_to_hold`.
    FreeToHold,
    /// Core's `held_since`.
    EnoughHolds,
    /// None of core's: a step that needs what isn't there.
    Impossible,
}

impl Rule {
    /// In words.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OnlyWhoTookTheTerm => "only who took a term is primary under it",
            Self::EnoughHaveFlushed => "a commit is acknowledged when enough of the list have it",
            Self::ListsStepByStep => "the list and 'sync' change as quorum::next says",
            Self::VotersCaughtUp => {
                "voters are published when the list is settled and enough of them have everything"
            }
            Self::AdmittedWithEverything => {
                "a voter's new data directory is admitted once it has everything"
            }
            Self::SyncCompared => "'sync' is written only over the 'sync' and term it rests on",
            Self::LeadersDontClaim => "who leads, holds or takes over doesn't claim",
            Self::PromiseBeforePledge => "a pledge is on disk before it is answered",
            Self::PromiseKept => "a promise is kept until its ballot can't win any more",
            Self::PledgedReceivesNothing => "who pledged receives nothing",
            Self::LeadersDontPledge => "who leads or takes over doesn't pledge",
            Self::BallotIsOpen => "only the claim that stands is pledged to",
            Self::PositionIsTrue => "a pledge says how far its WAL goes, and of which term it is",
            Self::HoldKept => "who holds a term has no part in another one",
            Self::EnoughPledges => "quorum + 1 of the admitted voters pledge to a takeover",
            Self::NobodyAhead => "nobody who pledged is ahead of the candidate",
            Self::OnlyLastLeaderReturns => "only the last leader returns, with that term's WAL",
            Self::TakeoverCompares => "a takeover is applied only over what it rests on",
            Self::NoDivergence => "a replica receives only what goes on from what it has",
            Self::FreeToHold => "who has a part in another term doesn't hold",
            Self::EnoughHolds => "a leader relies on holds that meet every set of pledges",
            Self::FirstVotersAreLevel => {
                "a takeover publishes only voters that pledged and have what the new leader has"
            }
            Self::Impossible => "a step needs what it starts from",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.sentence())
    }
}

/// The rules, at most one of them dropped.
#[derive(Debug)]
pub struct Laws {
    count: u32,
    dropped: Option<Mutant>,
    steps: Option<Table>,
}

fn must(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds { Ok(()) } else { Err(rule) }
}

impl Laws {
    /// All of them; `count` is `synchronous_node_count`.
    #[must_use]
    pub fn new(count: u32) -> Self {
        Self { count, dropped: None, steps: None }
    }

    pub(super) fn looked_up(count: u32, dropped: Option<Mutant>, steps: Table) -> Self {
        Self { count, dropped, steps: Some(steps) }
    }

    pub(crate) fn drops(&self, law: Mutant) -> bool {
        self.dropped == Some(law)
    }

    /// Core's `quorum::next`.
    pub(super) fn next(&self, sync: Sync, names: List, wanted: u8) -> Next {
        match &self.steps {
            Some(steps) => {
                let step = steps.get(&(sync.voters, sync.quorum, names, wanted));
                step.copied().unwrap_or(Next::Steady)
            }
            None => lists::next(sync.voters, sync.quorum, names, wanted, self.count),
        }
    }

    /// Whether this may happen in this state; otherwise the rule that it breaks.
    ///
    /// # Errors
    /// The first rule that forbids it.
    pub fn allowed<W: Wals, const N: usize>(
        &self,
        state: &State<W, N>,
        action: &Action<W>,
    ) -> Result<(), Rule> {
        At { laws: self, state }.allowed(action)
    }
}

/// A state, and what judges.
struct At<'a, W: Wals, const N: usize> {
    laws: &'a Laws,
    state: &'a State<W, N>,
}

impl<W: Wals, const N: usize> At<'_, W, N> {
    #[expect(clippy::too_many_lines, reason = "a line or two for each step")]
    fn allowed(&self, action: &Action<W>) -> Result<(), Rule> {
        let node = |n: usize| &self.state.nodes[n];
        match *action {
            Action::Write { node: n, .. } | Action::Settle { node: n } => self.reigns(n).map(drop),
            Action::Acknowledge { node, commit } => self.acknowledge(node, commit),
            Action::SetNames { node, wanted, list } => self.set_names(node, wanted, list),
            Action::Publish { node, wanted, sync } => self.publish(node, wanted, sync),
            Action::PublishLands { node: n, late } => {
                let publish = if late { node(n).uncertain } else { node(n).publish };
                must(publish.is_some_and(|p| !p.stale), Rule::SyncCompared)
            }
            Action::PublishRefused { node: n } => must(node(n).publish.is_some(), Rule::Impossible),
            Action::PublishUnanswered { node: n } => {
                let one = node(n).publish.is_some() && node(n).uncertain.is_none();
                must(one, Rule::Impossible)
            }
            Action::Claim { node, ballot } => self.claim(node, ballot),
            Action::Stand { node } => {
                must(self.state.candidate == Some(node as u8), Rule::BallotIsOpen)
            }
            Action::Withdraw { ballot } => must(ballot > self.state.claim, Rule::Impossible),
            Action::Promise { node, ballot, .. } => {
                let bound = self.bound(node).filter(|p| p.ballot != ballot);
                must(bound.is_none(), Rule::PromiseKept)
            }
            Action::Forget { node } => must(self.bound(node).is_none(), Rule::PromiseKept),
            Action::Pledge { voter, candidate, position } => {
                self.pledge(voter, candidate, position)
            }
            Action::Take { node, ballot: Some(ballot), first } => {
                self.take(node, ballot)?;
                first.map_or(Ok(()), |first| self.first(node, first))
            }
            Action::Take { node, ballot: None, first } => {
                must(first.is_none(), Rule::FirstVotersAreLevel)?;
                self.take_back(node)
            }
            Action::TakeLands { node: n, term, .. } => {
                let Some(take) = node(n).take else { return Err(Rule::TakeoverCompares) };
                let compared = !take.stale || self.laws.drops(Mutant::TakeoverWithoutCompare);
                let open = take.ballot.is_none_or(|ballot| ballot == self.state.claim);
                must(compared && open && term > self.state.term, Rule::TakeoverCompares)
            }
            Action::TakeRefused { node: n } => must(node(n).take.is_some(), Rule::Impossible),
            Action::TakeUnanswered { node: n } => {
                must(node(n).take.is_some_and(|t| t.waits), Rule::Impossible)
            }
            Action::Promote { node, term } => {
                must(self.reigns(node)?.term == term, Rule::OnlyWhoTookTheTerm)
            }
            Action::Follow { member, leader } => self.follow(member, leader),
            // Core's `fetch_from`: its own promise counts from when it counts itself.
            Action::Fetch { node: n, voter } => {
                let quiet = node(n).reign.is_none() && self.given(n).is_none();
                must(quiet, Rule::PledgedReceivesNothing)?;
                must(self.state.wals.continues(voter, n), Rule::NoDivergence)
            }
            Action::Rewind { member, leader } => {
                let leads = self.reigns(leader)?.term == self.state.term;
                let idle = node(member).reign.is_none() && self.given(member).is_none();
                must(leads && idle, Rule::PledgedReceivesNothing)
            }
            Action::Flush { member, leader, record } => {
                let follows = node(member).follows != W::Number::default();
                must(follows, Rule::PledgedReceivesNothing)?;
                must(self.state.wals.fits(member, leader, record), Rule::NoDivergence)
            }
            Action::Hear { leader, .. } => self.reigns(leader).map(drop),
            Action::Hold { leader, member } => self.hold(leader, member),
            Action::Rely { node, holds } => {
                let counted = holds & !self.reigns(node)?.holds == 0;
                must(counted && self.state.held_enough(node, holds, 0), Rule::EnoughHolds)
            }
            // What anybody may do, or suffer, at any time.
            Action::Resign { .. }
            | Action::GiveUp { .. }
            | Action::Unfollow { .. }
            | Action::Look { .. }
            | Action::HoldEnds { .. }
            | Action::AgentDies { .. }
            | Action::Replaced { .. }
            | Action::Lost { .. } => Ok(()),
        }
    }

    fn reigns(&self, n: usize) -> Result<&Reign<W::Number, W::End, N>, Rule> {
        self.state.nodes[n].reign.as_ref().ok_or(Rule::OnlyWhoTookTheTerm)
    }

    /// The term that is led is the last one. What a view shows of `sync` once another leads is of no
    /// use: its writes are refused.
    fn rules(&self, n: usize) -> Result<&Reign<W::Number, W::End, N>, Rule> {
        let reign = self.reigns(n)?;
        must(reign.term == self.state.term, Rule::ListsStepByStep).map(|()| reign)
    }

    // === the leader ===

    /// The answer to a client may be as late as it likes: what was flushed was flushed.
    fn acknowledge(&self, n: usize, commit: W::Commit) -> Result<(), Rule> {
        let reign = self.reigns(n)?;
        let end = self.state.wals.commit_end(n, commit).ok_or(Rule::Impossible)?;
        let enough = |list: List| match list {
            List::Nobody => false,
            List::Any(count, names) => {
                let has = |m: &usize| names >> m & 1 == 1 && reign.flushed[*m] >= end;
                (0..N).filter(has).count() >= usize::from(count)
            }
        };
        must(enough(reign.names) || reign.before.is_some_and(enough), Rule::EnoughHaveFlushed)
    }

    fn set_names(&self, n: usize, wanted: u8, list: List) -> Result<(), Rule> {
        let reign = self.rules(n)?;
        let node = &self.state.nodes[n];
        must(node.publish.is_none() && node.uncertain.is_none(), Rule::ListsStepByStep)?;
        let step = self.laws.next(self.state.sync, reign.names, wanted);
        let others = wanted >> n & 1 == 0;
        must(others && step == Next::Names(list), Rule::ListsStepByStep)
    }

    fn publish(&self, n: usize, wanted: u8, to: Sync) -> Result<(), Rule> {
        let reign = self.rules(n)?;
        let (now, node) = (self.state.sync, &self.state.nodes[n]);
        must(node.publish.is_none(), Rule::ListsStepByStep)?;
        if (to.voters, to.quorum) == (now.voters, now.quorum) {
            // What stands is written again: so that what may still land is refused, or known; or to
            // admit a new directory.
            return self.admits(n, to);
        }
        must(node.uncertain.is_none() && wanted >> n & 1 == 0, Rule::ListsStepByStep)?;
        let step = self.laws.next(now, reign.names, wanted);
        must(step == Next::Publish(to.voters, to.quorum), Rule::ListsStepByStep)?;
        if !self.laws.drops(Mutant::ShrinksTooEarly) {
            let has = |node: &pgherd_core::NodeName| {
                (0..N).any(|m| lists::name(m) == *node && self.state.has_everything(n, m))
            };
            let ready = quorum::caught_up(&lists::published(to.voters, to.quorum), has);
            must(reign.settled && ready, Rule::VotersCaughtUp)?;
        }
        self.admits(n, to)
    }

    /// Who votes anew says which directory it has; who voted before is admitted again with all that its
    /// directory before could acknowledge.
    fn admits(&self, n: usize, to: Sync) -> Result<(), Rule> {
        let have = (0..N).filter(|m| self.state.replaces(n, *m)).map(|m| 1_u8 << m);
        let now = self.state.sync;
        let may = now.admitted | !now.voters | have.sum::<u8>();
        must(to.admitted & !(to.voters & may) == 0, Rule::AdmittedWithEverything)
    }

    // === who wants to lead, and who agrees ===

    /// Core's `bound_to_candidate`.
    fn bound(&self, n: usize) -> Option<Promise<W::Number>> {
        self.state.bound(n)
    }

    /// Bound, and the candidate knows.
    fn given(&self, n: usize) -> Option<Promise<W::Number>> {
        self.bound(n).filter(|p| p.given)
    }

    /// Core's `holds`, negated.
    fn free_of_holds(&self, n: usize) -> Result<(), Rule> {
        let hold = self.state.nodes[n].hold;
        must(hold == W::Number::default() || self.state.term > hold, Rule::HoldKept)
    }

    /// Core's `stand` and `claim_confirmed`.
    fn claim(&self, n: usize, ballot: W::Number) -> Result<(), Rule> {
        must(ballot > self.state.claim, Rule::Impossible)?;
        self.free_of_holds(n)?;
        must(self.bound(n).is_none(), Rule::PromiseKept)?;
        let node = &self.state.nodes[n];
        let idle = node.reign.is_none() && !node.take.is_some_and(|t| t.waits);
        must(idle, Rule::LeadersDontClaim)
    }

    /// Core's `answer_pledge` and `refusal`.
    fn pledge(
        &self,
        n: usize,
        candidate: usize,
        position: (W::Number, W::End),
    ) -> Result<(), Rule> {
        let (voter, state) = (&self.state.nodes[n], self.state);
        let Some(candidacy) = &state.nodes[candidate].candidacy else {
            return Err(Rule::BallotIsOpen);
        };
        let open = state.candidate == Some(candidate as u8) && candidacy.ballot == state.claim;
        must(open, Rule::BallotIsOpen)?;
        must(voter.promise.is_some_and(|p| p.ballot == state.claim), Rule::PromiseBeforePledge)?;
        if !self.laws.drops(Mutant::PledgesWhileHolding) {
            self.free_of_holds(n)?;
        }
        let busy = voter.reign.is_some() || voter.take.is_some_and(|t| t.waits);
        must(!busy, Rule::LeadersDontPledge)?;
        let receives = voter.follows != W::Number::default();
        let receiving = self.laws.drops(Mutant::PledgeKeepsReceiving);
        must(!receives || receiving, Rule::PledgedReceivesNothing)?;
        must(position == state.position(n), Rule::PositionIsTrue)
    }

    fn any_instance(&self) -> u8 {
        if self.laws.drops(Mutant::IgnoresInstance) { u8::MAX } else { 0 }
    }

    /// Core's `count` and `take_over`.
    fn take(&self, n: usize, ballot: W::Number) -> Result<(), Rule> {
        let (s, node) = (self.state, &self.state.nodes[n]);
        self.free_of_holds(n)?;
        must(node.reign.is_none(), Rule::LeadersDontClaim)?;
        let candidacy = node.candidacy.filter(|c| c.ballot == ballot).ok_or(Rule::BallotIsOpen)?;
        must(node.follows == W::Number::default(), Rule::PledgedReceivesNothing)?;
        let mine = s.sync.voters & (s.sync.admitted | self.any_instance()) & 1 << n;
        let have = (candidacy.pledged & s.sync.voters | mine).count_ones();
        let short = u32::from(self.laws.drops(Mutant::OnePledgeTooFew));
        let needed = (u32::from(s.sync.quorum) + 1 - short).max(1);
        must(mine != 0 && have >= needed, Rule::EnoughPledges)?;
        let ahead = candidacy.furthest > s.position(n);
        must(!ahead || self.laws.drops(Mutant::IgnoresMoreAdvanced), Rule::NobodyAhead)
    }

    /// Core's `first_sync`: who pledged and stands where the candidate stands, with the list that core
    /// would make of them. Whose data was replaced since counts for nothing.
    fn first(&self, n: usize, first: Sync) -> Result<(), Rule> {
        let pledged = self.state.nodes[n].candidacy.map_or(0, |c| c.pledged);
        let level = self.state.level(n) | !first.admitted;
        let count = self.laws.count.min(u32::from(u8::MAX)) as u8;
        let quorum = u32::from(first.quorum) + u32::from(count) == first.voters.count_ones();
        let among = first.voters & !pledged == 0 && first.voters != 0 && quorum;
        let behind = self.laws.drops(Mutant::ListsWhoeverPledged);
        must(among && (first.voters & !level == 0 || behind), Rule::FirstVotersAreLevel)
    }

    /// Core's `plan_return`, and a leader whose agent or PostgreSQL begins anew.
    fn take_back(&self, n: usize) -> Result<(), Rule> {
        let (s, node) = (self.state, &self.state.nodes[n]);
        self.free_of_holds(n)?;
        must(self.bound(n).is_none(), Rule::PromiseKept)?;
        // Without data, of which it may not know yet, it leads nobody, and starts nothing.
        let (latest, empty) = (s.wals.latest(n), s.wals.end(n) == W::End::default());
        let known = latest != W::Number::default();
        let has = empty || known && (latest == s.term || latest == s.lineage);
        let own = node.reign.is_none_or(|r| r.term == s.term);
        must(usize::from(s.leader) == n && has && own, Rule::OnlyLastLeaderReturns)
    }

    // === members ===

    fn follow(&self, m: usize, n: usize) -> Result<(), Rule> {
        let term = self.reigns(n)?.term;
        must(self.state.nodes[m].reign.is_none(), Rule::OnlyWhoTookTheTerm)?;
        let free = self.given(m).is_none() && term >= self.state.nodes[m].from;
        must(free || self.laws.drops(Mutant::PledgeKeepsReceiving), Rule::PledgedReceivesNothing)?;
        must(self.state.wals.continues(n, m), Rule::NoDivergence)
    }

    /// Core's `free_to_hold` and `on_hold`.
    fn hold(&self, n: usize, m: usize) -> Result<(), Rule> {
        let (term, member) = (self.reigns(n)?.term, &self.state.nodes[m]);
        must(member.seen <= term, Rule::FreeToHold)?;
        let promised = member.promise.is_some_and(|p| p.against >= term);
        must(!promised || self.laws.drops(Mutant::HoldsWhilePledged), Rule::FreeToHold)?;
        let taking = member.take.is_some_and(|t| t.known && t.over >= term);
        // The PostgreSQL of a leader of yesterday may live a moment longer: it has no part in what comes.
        let over = member.reign.is_none_or(|r| r.term < term);
        let idle = over && member.candidacy.is_none();
        must(idle && !taking, Rule::FreeToHold)
    }
}
