//! The voters with whom a term begins: those that the takeover itself publishes, who have exactly the WAL that the
//! new leader begins with, or those that stood before. Where either will do, clients are let in with
//! the first beat after the promotion, and the first commit is acknowledged when one of these streams
//! (docs/protocol.md, "The list").

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Accession, Key, SyncState};
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::{PeerPg, PledgeAnswer, Position};
use crate::state::FirstList;
use crate::{Duration, Instance, NodeName};

/// The first commits of a term are waited for no longer than this.
const WAY: Duration = Duration::secs(1);
/// What a peer said of its position counts for so long.
const SAID: Duration = Duration::secs(1);

impl Node {
    /// `sync` as a takeover writes it, and whom the term's first commits wait for.
    pub(crate) fn sync_of_takeover(&self, by: Accession) -> (SyncState, FirstList) {
        let level = self.level(by);
        if let Some(first) = level.as_ref().and_then(|level| self.first_sync(level)) {
            return (first, FirstList::Own);
        }
        let synchronous = self.policy().synchronous();
        let leader = synchronous.then(|| self.config.name.clone());
        let old = self.view.sync.as_ref().filter(|_| synchronous && by != Accession::Operator);
        let old = old.map(|sync| sync.value.clone()).unwrap_or_default();
        let few_lack = level.is_some_and(|level| self.few_lack(&level, &old));
        let first = if few_lack { FirstList::Old } else { FirstList::Nobody };
        (SyncState { leader, ..old }, first)
    }

    /// Who stands where this node stands, this node left out. `None`: nobody can tell.
    fn level(&self, by: Accession) -> Option<BTreeMap<NodeName, Instance>> {
        // Who has a Patroni agent doesn't say which data it has.
        if !self.policy().synchronous() || self.policy().standby || !self.patroni.is_empty() {
            return None;
        }
        match by {
            Accession::Pledges => Some(self.level_by_pledge(self.position()?)),
            Accession::HandOver => Some(self.level_by_beat(self.position()?)),
            Accession::Founding | Accession::Return | Accession::Silence | Accession::Operator => {
                None
            }
        }
    }

    /// This node is a voter itself, and with those that stand where it stands there are so many that at most
    /// `quorum` voters lack something: as long as `sync` stands, nobody is elected without one of them.
    pub(super) fn few_lack(&self, level: &BTreeMap<NodeName, Instance>, sync: &SyncState) -> bool {
        let admitted = |node: &NodeName, instance: Instance| {
            let voter = sync.voters.get(node);
            voter.is_some_and(|admitted| admitted.is_none_or(|admitted| admitted == instance))
        };
        let me = &self.config.name;
        let mine = self.instance().is_some_and(|instance| admitted(me, instance));
        let others = level.iter().filter(|(node, instance)| admitted(node, **instance)).count();
        let wait = sync.voters.len().saturating_sub(sync.quorum as usize);
        mine && others + 1 >= wait && sync.voters.len() > wait
    }

    /// When enough voters stand where this node stands. Otherwise `sync` stays as it is.
    fn first_sync(&self, level: &BTreeMap<NodeName, Instance>) -> Option<SyncState> {
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

    /// The voters that the takeover published or left, without this node, while the key stands as it wrote it.
    pub(super) fn first_listed(&self) -> BTreeSet<NodeName> {
        let at = self.view.modified(&Key::Sync);
        let stands = self.reign.as_ref().is_some_and(|reign| {
            let counts = match reign.first {
                FirstList::Own | FirstList::Old => true,
                FirstList::Nobody => false,
            };
            counts && reign.gate == Some(at)
        });
        let voters = self.view.sync.as_ref().filter(|_| stands).map(|s| s.value.voters.keys());
        let others = voters.into_iter().flatten().filter(|node| **node != self.config.name);
        others.cloned().collect()
    }
}

#[cfg(test)]
mod tests;
