//! The voters that a takeover itself publishes: who has exactly the WAL that the new leader begins with needs
//! not be waited for. Clients are let in with the first beat after the promotion, and the first
//! commit is acknowledged when one of these streams (docs/protocol.md, "The list").

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Accession, Key, SyncState};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::{PeerPg, PledgeAnswer, Position};
use crate::{Duration, Instance, NodeName};

/// The first commits of a term are waited for no longer than this.
const WAY: Duration = Duration::secs(1);
/// What a peer said of its position counts for so long.
const SAID: Duration = Duration::secs(1);

impl Node {
    /// `sync` as a takeover writes it, and whether its voters are the new term's own already.
    pub(crate) fn sync_of_takeover(&self, by: Accession) -> (SyncState, bool) {
        if let Some(first) = self.first_sync(by) {
            return (first, true);
        }
        let synchronous = self.policy().synchronous();
        let leader = synchronous.then(|| self.config.name.clone());
        let old = self.view.sync.as_ref().filter(|_| synchronous && by != Accession::Operator);
        let old = old.map(|sync| sync.value.clone()).unwrap_or_default();
        (SyncState { leader, ..old }, false)
    }

    /// When enough voters stand where this node stands. Otherwise `sync` stays as it is, and the list is
    /// made of who comes to stream.
    fn first_sync(&self, by: Accession) -> Option<SyncState> {
        // Who has a Patroni agent doesn't say which data it has.
        if !self.policy().synchronous() || self.policy().standby || !self.patroni.is_empty() {
            return None;
        }
        let level = match by {
            Accession::Pledges => self.level_by_pledge(self.position()?),
            Accession::HandOver => self.level_by_beat(self.position()?),
            Accession::Founding | Accession::Return | Accession::Silence | Accession::Operator => {
                return None;
            }
        };
        let voters = &self.view.sync.as_ref()?.value.voters;
        let nobody = BTreeSet::new();
        let counts = |node: &NodeName, instance: Instance| {
            let admitted = voters.get(node);
            admitted.is_some_and(|admitted| admitted.is_none_or(|admitted| admitted == instance))
                && self.peer_instance(node) == Some(instance)
                && self.admissible(node, &nobody)
                && !self.goes_elsewhere(node)
        };
        let able = level.iter().filter(|(node, instance)| counts(node, **instance));
        let chosen = self.choose(able.map(|(node, _)| node.clone()).collect(), &nobody);
        let count = self.policy().synchronous_node_count;
        let quorum = (chosen.len() as u32).checked_sub(count)?;
        let voters = chosen.into_iter().map(|node| {
            let instance = level.get(&node).copied();
            (node, instance)
        });
        Some(SyncState { leader: Some(self.config.name.clone()), quorum, voters: voters.collect() })
    }

    /// A pledge stands still: what it said is where it is, until the ballot is decided.
    fn level_by_pledge(&self, mine: Position) -> BTreeMap<NodeName, Instance> {
        let behind = self.breaks(Mutant::ListsWhoeverPledged);
        let answers = self.candidacy.iter().flat_map(|candidacy| &candidacy.answers);
        let level = answers.filter_map(|(name, answer)| match answer {
            PledgeAnswer::Pledged { position, instance } if *position == mine || behind => {
                Some((name.clone(), *instance))
            }
            PledgeAnswer::Pledged { .. } | PledgeAnswer::Refused(_) => None,
        });
        level.collect()
    }

    /// After a stop in order nothing more comes: who has the last record has everything.
    fn level_by_beat(&self, mine: Position) -> BTreeMap<NodeName, Instance> {
        let level = self.peers.keys().filter_map(|name| {
            let beat = self.fresh(name, SAID)?;
            (beat.position == Some(mine)).then_some((name.clone(), beat.instance?))
        });
        level.collect()
    }

    /// The new term has voters of its own, and this node is none of them: a start or a rewind here would
    /// compete with the term's first commits, for the leader and, often enough, for the machine. They are
    /// acknowledged when a voter streams.
    pub(super) fn gives_way(&mut self) -> bool {
        let Some(term) = self.view.current_term() else { return false };
        let me = &self.config.name;
        let own = self.view.sync.as_ref().filter(|sync| {
            let others = sync.value.names_voters() && !sync.value.voters.contains_key(me);
            sync.modified.0 == term.0 && others
        });
        let streams = |node: &NodeName| {
            let said = self.fresh(node, SAID);
            said.is_some_and(|beat| beat.pg == PeerPg::Replica { streaming: true })
        };
        let waits = own.is_some_and(|sync| {
            let serves = self.view.current_beat().is_some_and(|beat| beat.value.serving);
            !serves || !sync.value.voters.keys().any(streams)
        });
        let since = match self.gives_way {
            Some((of, since)) if of == term => since,
            Some(_) | None => self.now,
        };
        self.gives_way = Some((term, since));
        waits && !self.passed(since, WAY)
    }

    /// It won't stream from this node.
    fn goes_elsewhere(&self, node: &NodeName) -> bool {
        let tags = self.view.members.get(node).map(|member| &member.value.tags);
        tags.is_none_or(|tags| self.named_member(node, tags, &self.config.name).is_some())
    }

    /// The voters that the takeover published, while the key stands as it wrote it.
    pub(super) fn first_listed(&self) -> BTreeSet<NodeName> {
        let at = self.view.modified(&Key::Sync);
        let stands = self.reign.as_ref().is_some_and(|r| r.listed && r.gate == Some(at));
        let voters = self.view.sync.as_ref().filter(|_| stands).map(|s| s.value.voters.keys());
        voters.into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
