//! Members whose agent is Patroni: they send no signs of life and give no pledges. What Patroni's
//! own candidates ask each other is asked of them, and counted in the same way (contract 4.4).

use crate::input::Action;
use crate::node::Node;
use crate::peer::{PatroniAnswer, Position};
use crate::reason::Reason;
use crate::{Duration, Lsn, NodeName, Time, Timeline};

/// The same question is asked again after this, while the answer matters.
const AGAIN: Duration = Duration::secs(1);
/// The shell answers for a member that doesn't after 2 s; later nothing is waited for.
const NO_ANSWER: Duration = Duration::millis(2_500);

impl Node {
    /// Nobody takes over before each of them was asked, while one runs as primary, or past one that
    /// is ahead and may lead.
    pub(super) fn heed_patroni(&mut self, mine: Position) -> Option<Reason> {
        // While the key stands, only pledges can revoke its term, and Patroni's members have none.
        let revoking = self.voters_decide() && self.view.leader.is_some();
        if self.patroni.is_empty() || self.operator_named_me() || revoking {
            return None;
        }
        let since = self.open_since.unwrap_or(self.now);
        self.ask_patroni(AGAIN);
        let timeline = self.timeline();
        let mut waiting = false;
        for name in self.patroni.keys() {
            match self.patroni_said(name, since) {
                Some(PatroniAnswer::Primary) => {
                    return Some(Reason::PrimaryStillRuns(name.clone()));
                }
                Some(PatroniAnswer::Replica { lsn, timeline: theirs, barred, .. }) => {
                    let counts = !barred && self.may_succeed(name);
                    if counts && is_ahead((theirs, lsn), (timeline, mine.lsn)) {
                        return Some(Reason::AnotherIsAhead(name.clone()));
                    }
                }
                Some(PatroniAnswer::Down | PatroniAnswer::Unreachable) => {}
                None => waiting = true,
            }
        }
        waiting.then_some(Reason::AskingPatroni)
    }

    /// It may lead: everybody in asynchronous mode, otherwise who is a voter.
    fn may_succeed(&self, node: &NodeName) -> bool {
        let allowed = self.view.members.get(node).is_none_or(|m| !m.value.tags.nofailover());
        let sync = self.view.sync.as_ref().map(|s| &s.value);
        let votes = sync.is_some_and(|s| s.voters.contains_key(node));
        allowed && (!self.voters_decide() || votes)
    }

    /// The voters among them that are no further than this node, now that nobody holds the key: as
    /// good as a pledge, as far as Patroni's are.
    pub(super) fn patroni_votes(&self, mine: Position) -> Vec<(NodeName, Position)> {
        let Some(sync) = self.view.sync.as_ref().filter(|_| self.view.leader.is_none()) else {
            return Vec::new();
        };
        let since = self.open_since.unwrap_or(self.now);
        let timeline = self.timeline();
        let voters = self.patroni.keys().filter(|name| sync.value.voters.contains_key(*name));
        let vote = |name: &NodeName| match self.patroni_said(name, since)? {
            PatroniAnswer::Replica { lsn, timeline: theirs, .. } => {
                let behind = lsn > Lsn::ZERO && !is_ahead((theirs, lsn), (timeline, mine.lsn));
                let good = behind && !self.patroni_receives(name, since);
                good.then(|| (name.clone(), Position { term: mine.term, lsn }))
            }
            PatroniAnswer::Primary | PatroniAnswer::Down | PatroniAnswer::Unreachable => None,
        };
        voters.filter_map(vote).collect()
    }

    /// It still gets WAL, so that the PostgreSQL of a leader of ours lives: its guard ends that, and only
    /// a machine whose clock was held is late. A stream alone proves nothing: it can be dead for as long
    /// as `wal_receiver_timeout`. Of Patroni's leaders only the lease tells.
    fn patroni_receives(&self, node: &NodeName, since: Time) -> bool {
        let Some(member) = self.patroni.get(node).filter(|_| !self.view.foreign_over()) else {
            return false;
        };
        let (Some((_, now)), before) = (member.answer, member.before) else { return false };
        let PatroniAnswer::Replica { streaming: true, lsn, .. } = now else { return false };
        !before.is_some_and(|(asked, answer)| {
            asked >= since
                && matches!(answer, PatroniAnswer::Replica { lsn: then, .. } if then == lsn)
        })
    }

    /// A Patroni candidate that a request names, and that can still come.
    pub(super) fn patroni_candidate_comes(&self, node: &NodeName, patience: Duration) -> bool {
        let since = self.vacant_since.unwrap_or(self.now);
        let fit = !matches!(
            self.patroni_said(node, since),
            Some(
                PatroniAnswer::Down
                    | PatroniAnswer::Unreachable
                    | PatroniAnswer::Replica { barred: true, .. }
            )
        );
        self.patroni.contains_key(node) && fit && !self.passed(since, patience)
    }

    /// It has received more than `end`, as it said since `since`.
    pub(super) fn patroni_has(&self, node: &NodeName, end: Lsn, since: Time) -> bool {
        let said = self.patroni_said(node, since);
        matches!(said, Some(PatroniAnswer::Replica { lsn, .. }) if lsn > end)
    }

    /// Asks each that has not been asked for `again`.
    pub(super) fn ask_patroni(&mut self, again: Duration) {
        let now = self.now;
        let mut due = Vec::new();
        for (name, member) in &mut self.patroni {
            if member.asked.is_none_or(|at| now.since(at) >= again) {
                member.asked = Some(now);
                due.push(name.clone());
            }
        }
        for node in due {
            self.push(Action::AskPatroni { node });
        }
    }

    /// What it said when it was asked at `since` or later. Silence for long enough is an answer of
    /// its own.
    fn patroni_said(&self, node: &NodeName, since: Time) -> Option<PatroniAnswer> {
        let member = self.patroni.get(node)?;
        let answer = member.answer.filter(|(asked, _)| *asked >= since).map(|(_, answer)| answer);
        answer.or_else(|| self.passed(since, NO_ANSWER).then_some(PatroniAnswer::Unreachable))
    }
}

/// Further by timeline, then by position; a timeline that nobody names is this node's own.
fn is_ahead(theirs: (Option<Timeline>, Lsn), mine: (Option<Timeline>, Lsn)) -> bool {
    (theirs.0.or(mine.0), theirs.1) > mine
}
