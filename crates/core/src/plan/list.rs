//! The leader keeps PostgreSQL's synchronous list and the published voters in step, in the order
//! that `quorum` proves safe (contract 4.9; docs/protocol.md, "The list").

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Key, MemberRole, MemberState, Purpose, SyncState, Value};
use crate::disk::Ailment;
use crate::mutant::Mutant;
use crate::node::Node;
use crate::peer::PeerPg;
use crate::policy::SynchronousMode;
use crate::postgres::{PgOp, SyncNames};
use crate::quorum::{self, Published, Step};
use crate::{Duration, Instance, Lsn, NodeName};

/// A listed node that stopped streaming keeps its place this long: a reconnect is no change.
const KEEP_PLACE: Duration = Duration::millis(400);
/// After a list came into force, backends and walsenders may still act by the one before.
const SETTLE: Duration = Duration::millis(200);
/// What a peer said of its data directory counts for so long, and what stood before this agent was born
/// for as long after that.
const SAID: Duration = Duration::secs(2);
/// Nobody lives who could become a voter: without strictness, commits stop waiting after this.
const ALONE: Duration = Duration::secs(2);
/// The same, when those who are listed stream and are about to stop: a whole cluster stops when all
/// are told at once, and then the list stays.
const ALL_LEAVE: Duration = Duration::millis(500);
/// Somebody lives but doesn't come to stream: without strictness, commits stop waiting after this.
const PATIENCE: Duration = Duration::secs(10);

impl Node {
    pub(crate) fn arrange_list(&mut self) {
        self.note_list_in_force();
        // In pause the list stays as it is, once clients are let in (an operator's restart).
        let kept = self.policy().pause && self.reign.as_ref().is_some_and(|r| r.serving);
        if self.op.is_some() || self.in_flight(Purpose::PublishSync) > 0 || kept {
            return;
        }
        if self.view_lags() || self.store_is_late() {
            return;
        }
        let Some(primary) = self.primary() else { return };
        let names = primary.names.clone();
        let published = self.published();
        if self.sync_uncertain {
            // A write of unknown outcome may still land. Writing what stands makes it land on
            // another revision than it compares, or shows that it has.
            self.sync_rewriting = true;
            self.publish(&published);
            return;
        }
        let wanted = self.wanted_voters();
        let count = self.policy().synchronous_node_count;
        if wanted.is_empty() && !self.may_wait_for_nobody() {
            return;
        }
        if let (false, Some(reign)) = (wanted.is_empty(), &mut self.reign) {
            reign.list.nobody_since = None;
        }
        match quorum::next(&published, &names, &wanted, count) {
            Step::Steady => {
                if self.unpublished_since_gate() || self.replaced_voter(&wanted) {
                    self.publish_when_caught_up(&published);
                }
            }
            Step::SetNames(value) => {
                if self.breaks(Mutant::PublishesSyncFirst) {
                    let target = Published {
                        quorum: wanted.len() as u32 - value.count.min(wanted.len() as u32),
                        voters: wanted,
                    };
                    if target != published {
                        self.publish(&target);
                        return;
                    }
                }
                self.set_names(value);
            }
            // In priority mode Patroni takes any voter for one that has everything: there nothing
            // is acknowledged while two sets change places.
            Step::Publish(value) if value.quorum > 0 && self.each_voter_has_all() => {
                self.set_names(SyncNames::nobody());
            }
            Step::Publish(value) => self.publish_when_caught_up(&value),
        }
    }

    /// The list and the key agree, but the key was written before this primary began.
    fn unpublished_since_gate(&self) -> bool {
        let at = self.view.modified(&Key::Sync);
        self.reign.as_ref().is_some_and(|r| r.gate.is_some() && !r.lists(at))
    }

    fn published(&self) -> Published {
        let sync = self.view.sync.as_ref().map(|s| &s.value);
        Published {
            voters: sync.map(|s| s.voters.keys().cloned().collect()).unwrap_or_default(),
            quorum: sync.map_or(0, |s| s.quorum),
        }
    }

    fn note_list_in_force(&mut self) {
        let Some((names, flushed)) = self.primary().map(|p| (p.names.clone(), p.flushed)) else {
            return;
        };
        let now = self.now;
        let replaced = self.replaced_voters();
        let Some(reign) = &mut self.reign else { return };
        // What a voter flushed before its data was replaced it may lack now: it is admitted with all that was
        // there when that was seen, and not only with what the list began with.
        let news = replaced.iter().any(|(node, life)| reign.list.replaced.get(node) != Some(life));
        reign.list.replaced = replaced;
        match &mut reign.list.effective {
            Some((known, since, end)) if *known == names => {
                if news {
                    *since = now;
                }
                // The end of WAL that counts is the one when nobody acts by the old list any more.
                if now.since(*since) < SETTLE {
                    *end = flushed;
                }
            }
            known => {
                // Under a list that nobody satisfies nothing is acknowledged: who acts by the one before
                // it has stopped when it has been in force for long enough.
                let since = match known {
                    Some((before, since, _)) if before.is_nobody() => *since,
                    None if reign.gate.is_some() && !reign.serving => now - SETTLE,
                    Some(_) | None => now,
                };
                reign.list.effective = Some((names, since, flushed));
            }
        }
    }

    /// Voters whose data directory is another than was admitted.
    fn replaced_voters(&self) -> BTreeMap<NodeName, Instance> {
        let voters = self.view.sync.as_ref().map(|sync| &sync.value.voters);
        let before = |node: &NodeName| self.reign.as_ref()?.list.replaced.get(node).copied();
        let replaced = voters.into_iter().flatten().filter_map(|(node, admitted)| {
            let life = self.peer_instance(node).or_else(|| before(node))?;
            (admitted.is_some_and(|admitted| admitted != life)).then(|| (node.clone(), life))
        });
        replaced.collect()
    }

    /// Who should be listed: members that stream, under the data directory that was admitted.
    fn wanted_voters(&mut self) -> BTreeSet<NodeName> {
        if !self.policy().synchronous() {
            return BTreeSet::new();
        }
        let streaming = self.streaming_nodes();
        let listed: BTreeSet<NodeName> = match self.primary() {
            Some(primary) if !primary.names.is_nobody() => {
                primary.names.names.iter().cloned().collect()
            }
            _ => self.first_listed(),
        };
        let now = self.now;
        if let Some(reign) = &mut self.reign {
            reign.list.lost_since.retain(|node, _| !streaming.contains(node));
            for node in listed.difference(&streaming) {
                reign.list.lost_since.entry(node.clone()).or_insert(now);
            }
        }
        let furthest = self.furthest();
        let mut wanted: Vec<NodeName> = streaming
            .iter()
            .chain(listed.iter().filter(|n| self.keeps_place(n)))
            .filter(|node| self.admissible(node, &listed) && !self.lags(node, furthest))
            .cloned()
            .collect();
        wanted.sort();
        wanted.dedup();
        self.choose(wanted, &listed)
    }

    /// Of those who can be listed, those who should.
    pub(super) fn choose(
        &self,
        wanted: Vec<NodeName>,
        listed: &BTreeSet<NodeName>,
    ) -> BTreeSet<NodeName> {
        // Who may not lead votes only where too few others can (contract 4.9): a commit that only
        // it has would leave nobody to go on.
        let count = self.policy().synchronous_node_count as usize;
        let (mut able, unable): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|node| self.may_lead(node));
        let missing = count.saturating_sub(able.len());
        able.extend(unable.into_iter().take(missing));
        match self.policy().synchronous_mode {
            SynchronousMode::Priority => {
                // Those that have the place keep it, among equals.
                able.sort_by_key(|n| {
                    let priority = Reverse(self.sync_priority(n));
                    (!self.may_lead(n), priority, !listed.contains(n), n.clone())
                });
                able.truncate(count);
            }
            SynchronousMode::Off | SynchronousMode::Quorum => {}
        }
        able.into_iter().collect()
    }

    fn may_lead(&self, node: &NodeName) -> bool {
        !self.peer_ailment(node).is_some_and(Ailment::unfits)
            && self.view.members.get(node).is_some_and(|m| !m.value.tags.nofailover())
    }

    fn sync_priority(&self, node: &NodeName) -> u32 {
        let tags = self.view.members.get(node).map(|m| &m.value.tags);
        tags.filter(|tags| !tags.nosync()).map_or(0, |tags| tags.sync_priority)
    }

    /// The furthest that any replica has flushed; this node, when there is only one.
    fn furthest(&self) -> Lsn {
        let Some(primary) = self.primary() else { return Lsn::ZERO };
        let streaming = || primary.senders.iter().filter(|sender| sender.streaming);
        match streaming().nth(1) {
            Some(_) => streaming().map(|sender| sender.flushed).max().unwrap_or_default(),
            None => primary.flushed,
        }
    }

    /// Further behind than `maximum_lag_on_syncnode`: commits would wait for it for long.
    fn lags(&self, node: &NodeName, furthest: Lsn) -> bool {
        let Some(limit) = self.policy().maximum_lag_on_syncnode else { return false };
        let senders = self.primary().map(|p| p.senders.as_slice()).unwrap_or_default();
        let sender = senders.iter().find(|sender| sender.node == *node);
        sender.is_some_and(|sender| sender.flushed.lag_behind(furthest) > limit)
    }

    fn keeps_place(&self, node: &NodeName) -> bool {
        let lost = self.reign.as_ref().and_then(|r| r.list.lost_since.get(node).copied());
        lost.is_none_or(|since| self.now.since(since) < KEEP_PLACE)
    }

    pub(super) fn admissible(&self, node: &NodeName, listed: &BTreeSet<NodeName>) -> bool {
        let ill = self.peer_ailment(node).is_some_and(Ailment::is_mortal);
        if *node == self.config.name || self.sync_priority(node) == 0 || ill || self.cascades(node)
        {
            return false;
        }
        // An agent that has just begun has heard nobody yet: whom the one before had listed stays, or
        // each restart of the agent would change the list, and commits would wait for that.
        let stays = listed.contains(node) && !self.passed(self.born, SAID);
        self.peer_instance(node).is_some() || self.patroni_follows(node) || stays
    }

    /// It streams from another replica, or goes there in a moment: what it has flushed, this node isn't
    /// told.
    pub(crate) fn cascades(&self, node: &NodeName) -> bool {
        let tags = self.view.members.get(node).map(|m| &m.value.tags);
        let from = tags.and_then(|tags| self.named_member(node, tags, &self.config.name));
        from.is_some_and(|from| self.streaming_nodes().contains(&from))
    }

    /// A member with a Patroni agent doesn't say which data directory it has: its key vouches.
    fn patroni_follows(&self, node: &NodeName) -> bool {
        let member = self.view.members.get(node).map(|m| &m.value);
        self.patroni.contains_key(node)
            && member
                .is_some_and(|m| m.state == MemberState::Running && m.role == MemberRole::Replica)
    }

    fn admitted(&self, node: &NodeName) -> Option<Instance> {
        self.view.sync.as_ref().and_then(|s| s.value.voters.get(node).copied()).flatten()
    }

    /// A voter's data was replaced since it was admitted: it counts again once it has everything.
    fn replaced_voter(&self, wanted: &BTreeSet<NodeName>) -> bool {
        wanted.iter().any(|node| {
            let (admitted, now) = (self.admitted(node), self.peer_instance(node));
            admitted.is_some() && now.is_some() && admitted != now && self.has_everything(node)
        })
    }

    /// It streams, and has flushed what the leader had when the list in force came into force.
    fn has_everything(&self, node: &NodeName) -> bool {
        let Some((_, _, end)) = self.reign.as_ref().and_then(|r| r.list.effective.as_ref()) else {
            return false;
        };
        self.primary().is_some_and(|p| {
            p.senders.iter().any(|s| s.node == *node && s.streaming && s.flushed >= *end)
        })
    }

    pub(super) fn peer_instance(&self, node: &NodeName) -> Option<Instance> {
        self.fresh(node, SAID).and_then(|said| said.instance)
    }

    /// Without strictness, a primary that nobody follows goes on alone, but not in haste: whoever
    /// lives gets time to come, and a takeover by the others is compared against this change.
    fn may_wait_for_nobody(&mut self) -> bool {
        let policy = self.policy();
        if !policy.synchronous() {
            return true;
        }
        if policy.synchronous_mode_strict {
            return false;
        }
        let somebody_lives = self.view.members.keys().any(|node| {
            *node != self.config.name
                && self.sync_priority(node) > 0
                && (self.patroni_electable(node)
                    || self.heard(node, ALONE).is_some_and(|p| {
                        let follows = matches!(p.beat.pg, PeerPg::Replica { .. } | PeerPg::Busy);
                        p.beat.electable && follows
                    }))
        });
        let nothing_promised = self.published().voters.is_empty();
        let streaming = self.streaming_nodes();
        let in_order = self.primary().is_some_and(|primary| {
            let leaves = |n| streaming.contains(n) && self.sync_priority(n) == 0;
            !primary.names.is_nobody() && primary.names.names.iter().all(leaves)
        });
        let now = self.now;
        let Some(list) = self.reign.as_mut().map(|r| &mut r.list) else { return false };
        let since = *list.nobody_since.get_or_insert(now);
        let patience = match (in_order, somebody_lives) {
            (true, false) => ALL_LEAVE,
            (true, true) | (false, false) => ALONE,
            (false, true) => PATIENCE,
        };
        nothing_promised || now.since(since) >= patience
    }

    fn each_voter_has_all(&self) -> bool {
        self.policy().synchronous_mode == SynchronousMode::Priority && !self.patroni.is_empty()
    }

    fn set_names(&mut self, names: SyncNames) {
        self.start_op(PgOp::SetNames { names });
    }

    /// Publishes when any set of pledges would include a node with everything that was
    /// acknowledged before the list in force.
    fn publish_when_caught_up(&mut self, value: &Published) {
        let Some(reign) = &self.reign else { return };
        let Some((_, since, _)) = &reign.list.effective else { return };
        let settled = self.now.since(*since) >= SETTLE;
        // Whose data was replaced since it was admitted counts under the old life only.
        let counts = |node: &NodeName| self.has_everything(node);
        let ready = settled && quorum::caught_up(value, counts);
        if ready || self.breaks(Mutant::ShrinksTooEarly) {
            self.publish(value);
        }
    }

    fn publish(&mut self, value: &Published) {
        let voters = value
            .voters
            .iter()
            .map(|node| {
                let current = self.peer_instance(node);
                let admitted = self.admitted(node);
                let kept = admitted.filter(|_| !self.has_everything(node));
                (node.clone(), kept.or(current).or(admitted))
            })
            .collect();
        let state =
            SyncState { leader: Some(self.config.name.clone()), quorum: value.quorum, voters };
        if let Some(reign) = &mut self.reign
            && !value.voters.is_empty()
        {
            reign.list.nobody_since = None;
        }
        // What was sent before without an answer compares the same revision: one of them lands.
        self.sent_syncs.retain(|sent| *sent != state);
        self.sent_syncs.push(state.clone());
        self.under_term(Purpose::PublishSync, Key::Sync, Value::Sync(state));
    }
}
