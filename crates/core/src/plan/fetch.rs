//! A voter has WAL that this candidate lacks, and can't or doesn't lead itself: it is streamed from
//! within the ballot, up to the position of its pledge (docs/protocol.md, Pledges).
//! Leaves who may be a candidate, and the count, to `election`; the slot to the shells: the candidate's
//! signs of life say which life of the voter's data it wants, as a cascade's do.

use crate::cluster::Accession;
use crate::input::Via;
use crate::node::Node;
use crate::peer::{PledgeAnswer, Position};
use crate::postgres::{PgOp, Upstream};
use crate::reason::Reason;
use crate::state::Fetch;
use crate::{Duration, NodeName};

/// What a voter said of itself counts for this long.
const WORD: Duration = Duration::millis(500);
/// Asynchronous: nobody's WAL is waited for longer than this, counted from when somebody may stand: silence for
/// a ttl was waited for before.
const WAIT: Duration = Duration::secs(5);

/// What becomes of a ballot in which somebody else is ahead.
pub(super) enum Ahead {
    /// That one may lead: this ballot ends.
    Leads,
    /// Its WAL comes here.
    Fetched,
    /// Asynchronous, and its WAL didn't come in time: `maximum_lag_on_failover` bounds what is lost.
    LeftOut,
}

impl Node {
    /// Somebody who pledged has more than this node.
    pub(super) fn someone_is_ahead(&mut self, name: &NodeName, theirs: Position) -> Ahead {
        let electable = self.fresh(name, WORD).is_none_or(|said| said.electable);
        let yielded = self.yielded_to.as_ref() == Some(name);
        if electable && !yielded {
            self.yielded_to = Some(name.clone());
            return Ahead::Leads;
        }
        let by = self.candidacy.as_ref().map(|candidacy| candidacy.by);
        let consent = by == Some(Accession::Pledges);
        if !consent && self.passed(self.open_since.unwrap_or(self.now), WAIT) {
            return Ahead::LeftOut;
        }
        match self.fetch_from(name, theirs) {
            Some(fetch) => {
                if let Some(candidacy) = &mut self.candidacy {
                    candidacy.fetch = Some(fetch);
                }
                Ahead::Fetched
            }
            None => Ahead::Leads,
        }
    }

    /// Only within one term, for then this node's WAL is a beginning of that one's.
    fn fetch_from(&self, name: &NodeName, end: Position) -> Option<Fetch> {
        let answer = self.candidacy.as_ref()?.answers.get(name)?;
        let PledgeAnswer::Pledged { instance, .. } = answer else { return None };
        let mine = self.position()?;
        let of_term = self.durable.data_terms == [end.term];
        let timeline = self.fresh(name, WORD)?.timeline;
        (mine.term == end.term && of_term && timeline == self.timeline()).then(|| Fetch {
            from: name.clone(),
            instance: *instance,
            end,
        })
    }

    /// Goes on with what is being fetched; `None` when there is nothing to fetch, or no more.
    pub(super) fn fetching(&mut self) -> Option<Reason> {
        let fetch = self.candidacy.as_ref()?.fetch.clone()?;
        if self.position().is_some_and(|mine| mine >= fetch.end) {
            if let Some(candidacy) = &mut self.candidacy {
                candidacy.fetch = None;
            }
            return None;
        }
        let from = fetch.from.clone();
        let upstream = Upstream::Member { node: fetch.from, instance: fetch.instance };
        let pointed = self.replica().is_some_and(|r| r.upstream.as_ref() == Some(&upstream));
        let free = self.op.is_none() && self.kill.is_none();
        if free && !pointed && self.replica().is_some() && self.expect_fetched(&upstream) {
            self.start_op(PgOp::Follow { upstream: Some(upstream) });
        }
        Some(Reason::Fetching(from))
    }

    /// Before the first byte comes it is on disk whose WAL it may be; the term stays what it is.
    fn expect_fetched(&mut self, upstream: &Upstream) -> bool {
        let (Upstream::Member { node, instance }, Some(timeline)) = (upstream, self.timeline())
        else {
            return false;
        };
        let via = Some(Via { node: node.clone(), instance: *instance, timeline });
        if self.durable.data_via != via {
            self.durable.data_via = via;
            self.durable.data_from = None;
            self.persist();
            // Its slot is made by who hears of it.
            self.next_peer_beat = self.now;
        }
        self.all_persisted()
    }
}
