//! How long a term may be relied on by somebody who isn't in the store's or the members' circle: a
//! router (docs/protocol.md, Routers). The leader's word, and what a router makes of that and of
//! the store's answers. Leaves asking, and what to do without a word, to the router.

use crate::cluster::ClusterView;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::{Duration, NodeName, Revision, Term, Time};

/// Where pledges can end a reign before its leader's belief ends, the leader vouches for it no longer
/// than for so much of the ttl after its last proof: it is sent each fifth, and where the store is
/// away the members are asked from two fifths on (docs/protocol.md, Failsafe).
pub const VOUCH_PERCENT: u64 = 50;

impl Node {
    /// The term under which this node leads and lets clients write, and until when it vouches for
    /// it to those who can't see for themselves.
    #[must_use]
    pub fn vouches(&self) -> Option<(Term, Time)> {
        let term = self.leads().filter(|_| self.serving())?;
        let belief = self.belief_until()?;
        if !self.policy().synchronous() || self.breaks(Mutant::VouchesByBelief) {
            return Some((term, belief));
        }
        let ttl = self.reign.as_ref()?.ttl;
        let proven = self.store_proof().max(self.held_since())?;
        Some((term, belief.min(proven + ttl.percent(VOUCH_PERCENT))))
    }
}

/// What a router knows of the terms' standing: the last word for the latest term. Everything counts
/// from the *sending* of a question, on the router's own clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TermWatch {
    within: Duration,
    /// The latest linearizable read: what it showed, and when it was asked.
    read: Option<(Revision, Time)>,
    /// The latest beat, and an instant before which it was not there.
    beat: Option<(Revision, Time)>,
    vouched: Option<Vouched>,
}

/// Somebody's word for a term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    /// Whose term.
    pub leader: NodeName,
    /// Which.
    pub term: Term,
    /// Until when it may be relied on.
    pub until: Time,
}

impl TermWatch {
    /// A word counts for so long after its question was sent.
    #[must_use]
    pub fn new(within: Duration) -> Self {
        Self { within, read: None, beat: None, vouched: None }
    }

    /// The leader's agent vouches for its term for so long from when it answered, which was after
    /// it was asked.
    pub fn on_word(&mut self, asked: Time, leader: &NodeName, term: Term, valid: Duration) {
        self.note(leader, term, asked + valid.min(self.within));
    }

    /// A linearizable read shows that nobody had taken the term over when it was asked. A leader
    /// that beats is relied on no longer than nobody can depose it by silence.
    pub fn on_read(&mut self, asked: Time, view: &ClusterView) {
        let before = self.read.filter(|(_, at)| *at <= asked);
        self.see_beat(view, before.map(|(_, at)| at));
        self.read = Some((view.revision, asked)).max(self.read);
        self.count(view, asked);
    }

    /// The store's watch shows keys. Those that the last read didn't show were written after it was
    /// asked.
    pub fn on_watch(&mut self, view: &ClusterView) {
        let Some((read, asked)) = self.read else { return };
        let newest = view
            .beat
            .as_ref()
            .map(|beat| beat.modified)
            .max(view.term.as_ref().map(|term| term.modified));
        self.see_beat(view, Some(asked).filter(|_| newest > Some(read)));
        if newest > Some(read) {
            self.count(view, asked);
        }
    }

    /// Until when this term of this leader may be relied on; `None` while nobody has vouched.
    #[must_use]
    pub fn until(&self, leader: &NodeName, term: Term) -> Option<Time> {
        let word = self.vouched.as_ref()?;
        (word.term == term && word.leader == *leader).then_some(word.until)
    }

    fn see_beat(&mut self, view: &ClusterView, not_before: Option<Time>) {
        let Some(beat) = &view.beat else { return };
        let news = self.beat.is_none_or(|(known, _)| known < beat.modified);
        if news {
            // Of the first beat that is seen nobody knows the age.
            self.beat = Some((beat.modified, not_before.unwrap_or_default()));
        }
    }

    fn count(&mut self, view: &ClusterView, asked: Time) {
        let (Some(leader), Some(term)) = (&view.leader, view.current_term()) else { return };
        let mut until = asked + self.within;
        if !view.foreign_leader() {
            let Some(beat) = view.current_beat() else { return };
            let Some((_, since)) = self.beat.filter(|(at, _)| *at == beat.modified) else { return };
            if beat.value.ended.is_some() || since == Time::default() {
                return;
            }
            until = until.min(since + beat.value.ttl);
        }
        self.note(&leader.value, term, until);
    }

    fn note(&mut self, leader: &NodeName, term: Term, until: Time) {
        match &mut self.vouched {
            Some(known) if known.term > term => {}
            Some(known) if known.term == term && known.leader == *leader => {
                known.until = known.until.max(until);
            }
            Some(_) | None => {
                self.vouched = Some(Vouched { leader: leader.clone(), term, until });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Accession, Beat, Keyed, TermRecord};
    use crate::{Incarnation, Lsn};

    const WITHIN: Duration = Duration::secs(1);

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a test's name is a name")
    }

    fn keyed<T>(value: T, created: u64, modified: u64) -> Keyed<T> {
        let (created, modified) = (Revision(created), Revision(modified));
        Keyed { value, created, modified, lease: None }
    }

    /// `leader` under `term`, whose latest beat is of the revision `beat`.
    fn view(leader: &str, term: u64, beat: u64, revision: u64) -> ClusterView {
        let record = TermRecord {
            leader: name(leader),
            by: Accession::Silence,
            lineage: Vec::new(),
            without: None,
            begun: Vec::new(),
        };
        let value = Beat {
            incarnation: Incarnation(1),
            seq: beat,
            ttl: Duration::secs(3),
            lsn: Lsn(1),
            timeline: None,
            timelines_ended: 0,
            start: None,
            serving: true,
            unreplicated: None,
            ended: None,
        };
        ClusterView {
            revision: Revision(revision),
            leader: Some(keyed(name(leader), 5, term)),
            term: Some(keyed(record, 5, term)),
            beat: Some(keyed(value, 5, beat)),
            ..ClusterView::default()
        }
    }

    fn at(ms: u64) -> Time {
        Time(1_000_000_000) + Duration::millis(ms)
    }

    #[test]
    fn a_read_counts_from_its_sending_and_only_for_its_term() {
        let mut watch = TermWatch::new(WITHIN);
        watch.on_read(at(0), &view("a", 8, 8, 8));
        assert_eq!(watch.until(&name("a"), Term(8)), None, "a beat of any age");
        watch.on_read(at(250), &view("a", 8, 9, 9));
        assert_eq!(watch.until(&name("a"), Term(8)), Some(at(1_250)));
        assert_eq!(watch.until(&name("a"), Term(9)), None);
        assert_eq!(watch.until(&name("b"), Term(8)), None);
    }

    #[test]
    fn a_leader_that_beats_no_more_is_not_relied_on_when_silence_may_depose_it() {
        let mut watch = TermWatch::new(WITHIN);
        watch.on_read(at(0), &view("a", 8, 8, 8));
        watch.on_read(at(250), &view("a", 8, 9, 9));
        // The store answers on, and the term stands; its last beat came after 0.
        watch.on_read(at(2_900), &view("a", 8, 9, 10));
        assert_eq!(watch.until(&name("a"), Term(8)), Some(at(3_000)));
    }

    #[test]
    fn a_new_term_is_confirmed_by_the_watch_that_shows_it() {
        let mut watch = TermWatch::new(WITHIN);
        watch.on_read(at(0), &view("a", 8, 8, 8));
        watch.on_watch(&view("b", 12, 12, 12));
        assert_eq!(watch.until(&name("b"), Term(12)), Some(at(1_000)));
        assert_eq!(watch.until(&name("a"), Term(8)), None);
        // A word for the old term comes late.
        watch.on_word(at(10), &name("a"), Term(8), Duration::secs(5));
        assert_eq!(watch.until(&name("a"), Term(8)), None);
        assert_eq!(watch.until(&name("b"), Term(12)), Some(at(1_000)));
    }

    #[test]
    fn what_the_watch_repeats_is_no_news() {
        let mut watch = TermWatch::new(WITHIN);
        watch.on_read(at(0), &view("a", 8, 8, 8));
        watch.on_read(at(100), &view("a", 8, 9, 9));
        watch.on_watch(&view("a", 8, 9, 20));
        assert_eq!(watch.until(&name("a"), Term(8)), Some(at(1_100)));
    }

    #[test]
    fn the_agents_word_counts_no_longer_than_it_says_and_than_is_allowed() {
        let mut watch = TermWatch::new(WITHIN);
        watch.on_word(at(0), &name("a"), Term(8), Duration::millis(300));
        assert_eq!(watch.until(&name("a"), Term(8)), Some(at(300)));
        watch.on_word(at(100), &name("a"), Term(8), Duration::secs(4));
        assert_eq!(watch.until(&name("a"), Term(8)), Some(at(1_100)));
    }

    #[test]
    fn a_leader_that_writes_no_beats_is_confirmed_by_its_key() {
        let mut watch = TermWatch::new(WITHIN);
        let mut foreign = view("a", 8, 8, 8);
        foreign.leader = Some(keyed(name("p"), 20, 20));
        watch.on_read(at(0), &foreign);
        assert_eq!(watch.until(&name("p"), Term(20)), Some(at(1_000)));
    }
}
