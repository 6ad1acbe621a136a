//! Where a replica's WAL comes from: the leader, the member that its tag names (`replicatefrom`), or
//! the archive (`nostream`). What must be on disk before it comes, and what it is worth when the term
//! changes (docs/protocol.md, "Cascades"). Leaves whether to follow at all to `replica`.

use super::replica::Lineage;
use crate::input::Via;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::postgres::{PgOp, ReplicaFacts, Upstream};
use crate::reason::Reason;
use crate::{Duration, Instance, NodeName, Tags, Term, Timeline};

/// What a member said of itself counts for this long.
const WORD: Duration = Duration::secs(1);
/// A member that can't be streamed from for this long is left: a reconnect is no reason to.
const LEAVE: Duration = Duration::secs(1);
/// Who streams from the leader goes over when the member has been fit for this long.
const JOIN: Duration = Duration::secs(2);
/// Nothing comes from a member that seems fit, for this long: it lacks WAL that is needed, or the
/// way to it is cut.
const IN_VAIN: Duration = Duration::secs(5);
/// For so long the leader is streamed from then.
const AVOID: Duration = Duration::secs(60);
/// A member that is silent for this long is not waited for to say what it has.
const GONE: Duration = Duration::secs(30);

impl Node {
    /// Where this node's WAL should come from.
    pub(super) fn upstream_for(
        &mut self,
        leader: &NodeName,
        replica: Option<&ReplicaFacts>,
    ) -> Upstream {
        if self.config.tags.nostream {
            return Upstream::Archive;
        }
        let from_leader = self.leaders_wal(leader);
        let (me, tags) = (&self.config.name, &self.config.tags);
        let Some(member) = self.named_member(me, tags, leader) else {
            self.member_fit = None;
            return from_leader;
        };
        let instance = self.fit_member(&member);
        let fit = instance.is_some();
        let since = match self.member_fit {
            Some((known, since)) if known == fit => since,
            Some(_) | None => self.now,
        };
        self.member_fit = Some((fit, since));
        let now = match replica.and_then(|r| r.upstream.as_ref()) {
            Some(Upstream::Member { node, instance }) if *node == member => Some(*instance),
            Some(
                Upstream::Member { .. }
                | Upstream::Leader(_)
                | Upstream::StandbyLeader(_)
                | Upstream::Remote
                | Upstream::Archive,
            )
            | None => None,
        };
        if now.is_some() && self.fruitless.is_some_and(|at| self.passed(at, IN_VAIN)) {
            self.member_avoided = self.now + AVOID;
        }
        // A start that failed may lack WAL that only the leader has.
        let failed = replica.is_none() && self.backoff.start_failures > 0;
        if failed || self.now < self.member_avoided {
            return from_leader;
        }
        let streams = replica.is_some_and(|r| r.streaming);
        let chosen = match (instance, now) {
            (Some(fit), Some(_)) => Some(fit),
            (Some(fit), None) => Some(fit).filter(|_| !streams || self.passed(since, JOIN)),
            (None, now) => now.filter(|_| !self.passed(since, LEAVE)),
        };
        chosen.map_or(from_leader, |instance| Upstream::Member { node: member, instance })
    }

    /// The member that a node's tag names, unless that is the leader, the node itself, unknown, or
    /// streams from the node by its own tag: then the leader is meant.
    pub(super) fn named_member(
        &self,
        of: &NodeName,
        tags: &Tags,
        leader: &NodeName,
    ) -> Option<NodeName> {
        let named = tags.replicatefrom.as_ref()?;
        let mut next = Some(named);
        for _ in 0..=self.view.members.len() {
            let Some(name) = next.filter(|name| *name != leader) else { break };
            if name == of {
                return None;
            }
            let member = self.view.members.get(name).map(|member| &member.value);
            next = member.and_then(|member| member.tags.replicatefrom.as_ref());
        }
        let usable = named != leader && self.view.members.contains_key(named);
        usable.then(|| named.clone())
    }

    /// The member streams, and is in the leader's term for sure; under which life of its data.
    fn fit_member(&self, member: &NodeName) -> Option<Instance> {
        let said = self.fresh(member, WORD)?;
        let streams = said.pg == PeerPg::Replica { streaming: true };
        let term = said.position.map(|position| position.term);
        said.instance.filter(|_| streams && term == self.view.current_term())
    }

    /// Members that stream from this node, or are about to, though it doesn't lead: they have said
    /// which life of its data directory they mean.
    #[must_use]
    pub fn cascading(&self) -> Vec<(NodeName, Instance)> {
        let named = |name: &NodeName| Some((name.clone(), self.peers.get(name)?.beat.follows?));
        self.view.members.keys().filter_map(named).collect()
    }

    pub(super) fn following(upstream: &Upstream) -> Reason {
        match upstream {
            Upstream::Leader(_) | Upstream::StandbyLeader(_) | Upstream::Remote => {
                Reason::Following
            }
            Upstream::Member { node, .. } => Reason::FollowingMember(node.clone()),
            Upstream::Archive => Reason::FromArchive,
        }
    }

    // === what is on disk of it ===

    /// Before this upstream's WAL can arrive, it is on disk that it may have.
    pub(super) fn expect_wal(&mut self, upstream: &Upstream) -> bool {
        let Some(term) = self.view.current_term() else { return false };
        let timeline = self.ready_beat().and_then(|beat| beat.timeline);
        let (terms, from, via) = match upstream {
            Upstream::Leader(_) | Upstream::StandbyLeader(_) => {
                (vec![term], self.last_leader_name().cloned(), None)
            }
            Upstream::Member { node, instance } => {
                let Some(timeline) = timeline else { return false };
                let via = Via { node: node.clone(), instance: *instance, timeline };
                (vec![term], None, Some(via))
            }
            // An archive has WAL of whatever terms: none is known.
            Upstream::Archive | Upstream::Remote => (Vec::new(), None, None),
        };
        let unknown = terms.is_empty() && self.durable.wal_term.is_some();
        let durable = &mut self.durable;
        if durable.data_terms != terms
            || durable.data_from != from
            || durable.data_via != via
            || unknown
        {
            durable.data_terms = terms;
            durable.data_from = from;
            durable.data_via = via;
            if unknown {
                durable.wal_term = None;
                durable.wal_lineage = Vec::new();
            }
            self.persist();
        }
        self.all_persisted()
    }

    /// What is on disk is right for WAL from there, in the present term.
    pub(super) fn expects(&self, upstream: &Upstream) -> bool {
        let durable = &self.durable;
        match (upstream, &durable.data_via) {
            // Pointed there by an earlier term's operation, while the record says that WAL comes from
            // somebody else: what arrives would be of no term.
            (Upstream::Leader(node) | Upstream::StandbyLeader(node), via) => {
                via.is_none() && durable.data_from.as_ref() == Some(node)
            }
            (Upstream::Member { node, instance }, Some(via)) => {
                let term = self.view.current_term();
                via.node == *node
                    && via.instance == *instance
                    && Some(durable.data_terms.as_slice())
                        == term.as_ref().map(std::slice::from_ref)
            }
            (Upstream::Archive | Upstream::Remote, None) => {
                durable.data_terms.is_empty() && durable.wal_term.is_none()
            }
            (Upstream::Member { .. }, None) | (Upstream::Archive | Upstream::Remote, Some(_)) => {
                false
            }
        }
    }

    /// From a member to another upstream, or on into another term, this node goes by way of none: what
    /// it has stands still while it is compared.
    pub(super) fn leave_member(&mut self, now: Option<&Upstream>) -> bool {
        let from_member = matches!(now, Some(Upstream::Member { .. }));
        if from_member {
            self.start_op(PgOp::Follow { upstream: None });
        }
        from_member
    }

    /// In pause: points a replica elsewhere, where that needs no repair.
    pub(super) fn point(&mut self, leader: &NodeName, now: Option<&Upstream>) {
        let replica = self.replica().cloned();
        let upstream = self.upstream_for(leader, replica.as_ref());
        if (now == Some(&upstream) && self.expects(&upstream)) || self.leave_member(now) {
            return;
        }
        if self.expect_wal(&upstream) {
            self.start_op(PgOp::Follow { upstream: Some(upstream) });
        }
    }

    // === what it is worth ===

    /// What came by way of a member, in a term that has ended since. On the timeline of that term it is
    /// what the history says. On a later one it is what the member has: a beginning of the leader's
    /// when the member is in the leader's term, in the same life of its data.
    pub(super) fn through_member(&self, timeline: Timeline) -> Option<Lineage> {
        let via = self.durable.data_via.as_ref()?;
        let term = self.view.current_term()?;
        if self.durable.data_terms == [term] || timeline <= via.timeline {
            return None;
        }
        let last = self.peers.get(&via.node).map_or(self.born, |peer| peer.said);
        let waits = !self.passed(last, GONE);
        let Some(said) = self.fresh(&via.node, WORD) else {
            return Some(if waits { Lineage::Unknown } else { Lineage::SameNumber });
        };
        match (said.instance, said.position) {
            (Some(instance), _) if instance != via.instance => Some(Lineage::SameNumber),
            (Some(_), Some(position)) if position.term == term => Some(Lineage::Same),
            (Some(_), Some(_) | None) | (None, _) => Some(Lineage::Unknown),
        }
    }

    /// This WAL came from a member that is in this term: what it has of it is that term's.
    pub(crate) fn through_member_of(&self, term: Term) -> bool {
        let Some(via) = &self.durable.data_via else { return false };
        self.durable.data_terms == [term]
            && self.fresh(&via.node, WORD).is_some_and(|said| {
                said.instance == Some(via.instance)
                    && said.position.is_some_and(|position| position.term == term)
            })
    }
}

#[cfg(test)]
mod tests;
