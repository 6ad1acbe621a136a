//! Reigns of agents that write no `term`: Patroni's. What their keys tell, and what a node has to
//! remember, because nothing in the store tells of such a reign once its leader key is gone.
//! Leaves whom to ask and whether to stand to `plan` (docs/protocol.md, "With Patroni").

use std::sync::Arc;

use crate::cluster::{Beat, ClusterView, ForeignTerm, Key, MemberRole, MemberState};
use crate::node::Node;
use crate::peer::PatroniAnswer;
use crate::state::PatroniMember;
use crate::{Incarnation, NodeName, Revision, Term, Time, Timeline};

impl Node {
    /// Adds to a view what it can't say by itself: the foreign reign that followed the last `term`.
    pub(crate) fn add_foreign_term(&mut self, view: &mut Arc<ClusterView>) {
        let written = view.written_term();
        let known = self.durable.foreign.clone().filter(|f| Some(f.term) > written);
        let foreign = match &view.leader {
            Some(leader) if view.foreign_leader() => {
                let (term, name) = (Term(leader.created.0), leader.value.clone());
                Some(ForeignTerm { term, leader: Some(name) })
            }
            Some(_) => None,
            None => known.or_else(|| traces(view)),
        };
        if let Some(foreign) = foreign {
            if self.foreign_seen.is_none_or(|(term, _)| term != foreign.term) {
                self.foreign_seen = Some((foreign.term, self.now));
            }
            self.note_foreign_start(view, foreign.term);
            Arc::make_mut(view).foreign = Some(foreign);
        }
    }

    /// Whatever the leader has written once it published a position in its term, it wrote no less
    /// before: a replica that has received that much is as far as anybody of earlier terms.
    fn note_foreign_start(&mut self, view: &ClusterView, term: Term) {
        let Some(status) = view.status.as_ref().filter(|s| s.modified.0 > term.0) else { return };
        if view.leader.is_some() && self.foreign_start.is_none_or(|(known, _)| known != term) {
            self.foreign_start = Some((term, status.value.optime));
        }
    }

    /// What a foreign leader that can be followed would say, had it a beat: from its member key and
    /// `history` (contract 1.3).
    pub(crate) fn foreign_beat(&self) -> Option<Beat> {
        let leader = self.view.leader.as_ref()?;
        let member = &self.view.members.get(&leader.value)?.value;
        let leads = member.role == MemberRole::Primary && member.state == MemberState::Running;
        let timeline = member.timeline.filter(|_| leads)?;
        let term = self.view.current_term();
        let lines = self.view.history.as_ref().map(|h| h.value.as_slice()).unwrap_or_default();
        let newest = lines.last().map_or(Timeline(1), |line| Timeline(line.timeline.0 + 1));
        let complete = newest == timeline || self.view.modified(&Key::History) > leader.created;
        Some(Beat {
            incarnation: Incarnation(0),
            seq: 0,
            ttl: self.policy().ttl,
            lsn: member.lsn.unwrap_or_default(),
            timeline: Some(timeline),
            // Never as many as there are: whoever needs the switch points waits for them.
            timelines_ended: if complete { lines.len() as u32 } else { u32::MAX },
            start: self.foreign_start.filter(|(of, _)| Some(*of) == term).map(|(_, lsn)| lsn),
            serving: true,
            unreplicated: None,
            ended: None,
        })
    }

    /// This node's WAL has come, by streaming alone, from the term it was of into this one.
    pub(crate) fn enter_term(&mut self, term: Term) {
        let foreign = self.view.foreign.as_ref().is_some_and(|f| f.term == term);
        self.durable.wal_lineage = if foreign { self.continued_terms() } else { Vec::new() };
        if foreign {
            self.durable.data_terms = vec![term];
        }
        self.durable.wal_term = Some(term);
    }

    /// A foreign leader of a new term may be the one that this node points at already.
    pub(crate) fn notice_foreign_wal(&mut self) {
        let term = self.view.foreign.as_ref().map(|f| f.term);
        let from_it = self.durable.data_from.is_some()
            && self.durable.data_from.as_ref() == self.other_leader();
        if let Some(term) = term.filter(|_| self.view.foreign_leader() && from_it)
            && self.durable.wal_term != Some(term)
            && !self.durable.data_terms.contains(&term)
        {
            self.durable.data_terms.push(term);
            self.persist();
        }
    }

    /// Who is managed by Patroni. A member whose key is gone may still answer.
    pub(crate) fn notice_patroni(&mut self) {
        for (name, member) in &self.view.members {
            if !member.value.patroni || *name == self.config.name {
                self.patroni.remove(name);
            } else if !self.patroni.contains_key(name) {
                self.patroni.insert(name.clone(), PatroniMember::default());
            }
        }
    }

    pub(crate) fn on_patroni(&mut self, from: &NodeName, asked: Time, answer: PatroniAnswer) {
        if let Some(member) = self.patroni.get_mut(from)
            && member.answer.is_none_or(|(before, _)| before <= asked)
        {
            member.before = member.answer.replace((asked, answer));
        }
    }

    /// A member with a Patroni agent that could lead, as its key says.
    pub(crate) fn patroni_electable(&self, node: &NodeName) -> bool {
        let member = self.view.members.get(node).map(|m| &m.value);
        self.patroni.contains_key(node)
            && member.is_some_and(|m| {
                m.state == MemberState::Running
                    && m.role == MemberRole::Replica
                    && !m.tags.nofailover()
            })
    }
}

/// A reign that this node didn't see, and that somebody else's writes give away: `status` and beat
/// are written together by our leaders, and `sync` under their own name.
fn traces(view: &ClusterView) -> Option<ForeignTerm> {
    let status = view.modified(&Key::Status);
    let by_status = status > view.modified(&Key::Beat);
    let sync = view.sync.as_ref().and_then(|s| Some((s.modified, s.value.leader.as_ref()?)));
    let by_sync =
        sync.filter(|(_, leader)| view.term.as_ref().is_none_or(|t| t.value.leader != **leader));
    let sync_at = by_sync.map_or(Revision(0), |(at, _)| at);
    let at = if by_status { status.max(sync_at) } else { sync_at };
    let leader = by_sync.map(|(_, leader)| leader.clone());
    (at > Revision(0)).then_some(ForeignTerm { term: Term(at.0), leader })
}

#[cfg(test)]
mod tests;
