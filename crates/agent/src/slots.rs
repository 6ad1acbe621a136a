//! Which replication slots this node should have, and what `status` says of the leader's (contract
//! 4.11, 1.3). Pure, but for the memory of when members were seen last.
//! Leaves making, moving and dropping them to `pgherd-postgres`.

use std::collections::{BTreeMap, BTreeSet};

use pgherd_api::{Cluster, MemberInfo, StatusSlots};
use pgherd_config::dynamic::{boolean, duration};
use pgherd_core::{Duration, Instance, NodeName, Time};
use pgherd_postgres::{Dropping, LogicalSlot, SlotPattern, SlotSeen, SlotWishes};
use serde_json::{Map, Value};

use crate::configuration::Leads;

/// How long the slot of a member that is gone is kept, where nobody says (contract 3.4).
const TTL: Duration = Duration::secs(1800);

/// What is remembered between two looks.
#[derive(Default)]
pub(crate) struct Slots {
    /// When each member's slot was last known to be wanted; only a leader's counts.
    seen: BTreeMap<String, Time>,
    led: bool,
}

/// The cluster-wide settings about slots.
struct Rules {
    use_slots: bool,
    ttl: Duration,
    permanent: BTreeMap<String, Permanent>,
    untouched: Vec<SlotPattern>,
}

enum Permanent {
    Physical,
    Logical(LogicalSlot),
}

impl Slots {
    /// The slots that this node should have now; `None` while nothing is known of the cluster.
    pub(crate) fn wishes(
        &mut self,
        cluster: &Cluster,
        me: &NodeName,
        leads: Leads,
        cascading: &[(NodeName, Instance)],
        now: Time,
    ) -> Option<SlotWishes> {
        let rules = Rules::read(&cluster.config()?.json);
        let pause = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
        self.remember(cluster, &rules, leads, now);
        let dropping = if pause { Dropping::No } else { Dropping::Yes };
        let mut wishes =
            SlotWishes { dropping, untouched: rules.untouched, ..SlotWishes::default() };
        if !rules.use_slots {
            return Some(wishes);
        }
        let own = me.slot_name();
        let status = cluster.status_slots();
        let others = cluster.members().iter().filter(|(name, _)| *name != me);
        let nofailover = cluster.members().get(me).is_some_and(MemberInfo::nofailover);
        let child = |info: &MemberInfo| replicates_from(info) == Some(me.as_str());
        let kept = rules.ttl > Duration(0);
        for (name, info) in others {
            if info.tagged("nostream") {
                continue;
            }
            let candidate = leads == Leads::Yes || (kept && !nofailover);
            if candidate || child(info) {
                wishes.physical.insert(name.slot_name());
            }
            // Who streams from somebody else moves this slot by what it says itself.
            let elsewhere = replicates_from(info).filter(|from| *from != me.as_str());
            let known =
                elsewhere.is_some_and(|from| cluster.members().keys().any(|n| n.as_str() == from));
            if let (true, Some(at)) = (known, info.xlog_location) {
                wishes.advance.insert(name.slot_name(), at);
            }
        }
        if kept && !nofailover {
            wishes.physical.extend(status.retain.iter().cloned());
        }
        if leads == Leads::Yes {
            wishes.physical.extend(self.seen.keys().cloned());
        } else {
            let known = status.slots.iter().map(|(name, at)| (name.clone(), *at));
            for (name, at) in known {
                wishes.advance.entry(name).or_insert(at);
            }
        }
        let nostream = cluster.members().get(me).is_some_and(|info| info.tagged("nostream"));
        // Who never leads, or has no slot on the leader, can't serve one.
        let logical = leads == Leads::Yes || !(nofailover || nostream);
        for (name, slot) in rules.permanent {
            match slot {
                Permanent::Physical if !nofailover => drop(wishes.physical.insert(name)),
                Permanent::Physical => {}
                Permanent::Logical(slot) if logical => drop(wishes.logical.insert(name, slot)),
                Permanent::Logical(_) => {}
            }
        }
        wishes.physical.remove(&own);
        let through = |(name, life): &(NodeName, Instance)| (name.cascade_slot(*life), *life);
        wishes.cascading = cascading.iter().map(through).collect();
        Some(wishes)
    }

    /// A new leader gives every name that the last one kept its full time again.
    fn remember(&mut self, cluster: &Cluster, rules: &Rules, leads: Leads, now: Time) {
        if leads == Leads::No {
            self.led = false;
            self.seen.clear();
            return;
        }
        if !self.led {
            self.led = true;
            let kept = cluster.status_slots().retain.iter();
            self.seen.extend(kept.map(|name| (name.clone(), now)));
        }
        for (name, info) in cluster.members() {
            if info.tagged("nostream") {
                // What it was kept when it streamed holds WAL for nobody.
                self.seen.remove(&name.slot_name());
            } else {
                self.seen.insert(name.slot_name(), now);
            }
        }
        self.seen
            .retain(|name, at| now.since(*at) < rules.ttl && !rules.permanent.contains_key(name));
    }

    /// What `status` says while this node leads: where the slots stand, and which are kept for
    /// members that are gone.
    pub(crate) fn status(
        &self,
        cluster: &Cluster,
        me: &NodeName,
        seen: &[SlotSeen],
    ) -> StatusSlots {
        let Some(config) = cluster.config() else { return StatusSlots::default() };
        let rules = Rules::read(&config.json);
        if !rules.use_slots {
            return StatusSlots::default();
        }
        let kept = rules.ttl > Duration(0);
        let told = |slot: &&SlotSeen| {
            rules.permanent.contains_key(&slot.name)
                || (kept && !slot.logical && self.seen.contains_key(&slot.name))
        };
        let places =
            seen.iter().filter(told).filter_map(|slot| Some((slot.name.clone(), slot.at?)));
        StatusSlots {
            slots: places.collect(),
            retain: if kept { self.seen.keys().cloned().collect() } else { BTreeSet::new() },
            own: Some(me.slot_name()).filter(|_| kept),
        }
    }
}

/// Whether the cluster has permanent logical slots.
pub(crate) fn any_logical(config: &Map<String, Value>) -> bool {
    let all = Rules::read(config).permanent;
    all.values().any(|slot| matches!(slot, Permanent::Logical(_)))
}

impl Rules {
    fn read(config: &Map<String, Value>) -> Self {
        let postgresql = config.get("postgresql");
        let use_slots = postgresql.and_then(|it| it.get("use_slots")).and_then(boolean);
        let ttl = config.get("member_slots_ttl").and_then(duration);
        let names = ["slots", "permanent_slots", "permanent_replication_slots"];
        let slots = names.iter().find_map(|name| config.get(*name)).and_then(Value::as_object);
        let standby_cluster = config.get("standby_cluster").is_some_and(Value::is_object);
        let permanent = slots
            .into_iter()
            .flatten()
            .filter_map(|(name, slot)| Some((name.clone(), permanent(slot, standby_cluster)?)));
        let matchers = config.get("ignore_slots").and_then(Value::as_array).into_iter().flatten();
        Self {
            use_slots: use_slots.unwrap_or(true),
            ttl: ttl.unwrap_or(TTL),
            permanent: permanent.collect(),
            untouched: matchers.filter_map(pattern).collect(),
        }
    }
}

/// A slot that the configuration names; `None` when it isn't for this kind of cluster, or can't be.
fn permanent(slot: &Value, standby_cluster: bool) -> Option<Permanent> {
    let text = |key: &str| slot.get(key).and_then(Value::as_str);
    match text("cluster_type") {
        Some("primary") if standby_cluster => return None,
        Some("standby") if !standby_cluster => return None,
        Some(_) | None => {}
    }
    match text("type") {
        None | Some("physical") => Some(Permanent::Physical),
        // A standby cluster has no primary that could have it.
        Some("logical") if !standby_cluster => Some(Permanent::Logical(LogicalSlot {
            database: text("database")?.to_owned(),
            plugin: text("plugin")?.to_owned(),
        })),
        Some(_) => None,
    }
}

fn pattern(matcher: &Value) -> Option<SlotPattern> {
    let text = |key: &str| matcher.get(key).and_then(Value::as_str).map(str::to_owned);
    let pattern = SlotPattern {
        name: text("name"),
        kind: text("type"),
        database: text("database"),
        plugin: text("plugin"),
    };
    // One without any attribute would match everything, and nobody means that.
    (pattern != SlotPattern::default()).then_some(pattern)
}

fn replicates_from(info: &MemberInfo) -> Option<&str> {
    info.tags.get("replicatefrom").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_api::{Keys, Record};
    use pgherd_core::Lsn;
    use serde_json::json;

    use super::*;

    fn cluster(config: &Value, status: &Value, members: &[(&str, Value)]) -> Cluster {
        let record = |key: &str, value: String| Record {
            key: format!("/service/demo/{key}").into_bytes(),
            value: value.into_bytes(),
            created: 1,
            modified: 1,
            lease: 0,
        };
        let mut all =
            vec![record("config", config.to_string()), record("status", status.to_string())];
        all.extend(
            members.iter().map(|(name, it)| record(&format!("members/{name}"), it.to_string())),
        );
        Cluster::read(Keys::new("service", "demo"), 1, all)
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    const START: Time = Time(1_000_000_000);

    #[test]
    fn every_node_that_can_lead_has_a_slot_for_every_other() {
        let members = [
            ("n-1", json!({})),
            ("n-2", json!({"tags": {"nofailover": true}})),
            ("n-3", json!({"tags": {"replicatefrom": "n-2"}, "xlog_location": 7})),
            ("n-4", json!({"tags": {"nostream": true}})),
        ];
        let status = json!({"optime": 9, "slots": {"n_1": 5, "n_3": 4}, "retain_slots": ["n_5"]});
        let cluster = cluster(&json!({"ttl": 30}), &status, &members);
        let of = |name: &str, leads| {
            let me = NodeName::new(name).unwrap();
            Slots::default().wishes(&cluster, &me, leads, &[], START).unwrap()
        };
        let leader = of("n-1", Leads::Yes);
        assert_eq!(
            leader.physical,
            names(&["n_2", "n_3", "n_5"]),
            "none for who reads the archive"
        );
        assert_eq!(leader.advance, BTreeMap::from([("n_3".to_owned(), Lsn(7))]));
        assert_eq!(of("n-2", Leads::No).physical, names(&["n_3"]), "its own follower only");
        let replica = of("n-3", Leads::No);
        assert_eq!(replica.physical, names(&["n_1", "n_2", "n_5"]));
        assert_eq!(replica.advance["n_1"], Lsn(5));
    }

    #[test]
    fn who_is_gone_keeps_its_slot_for_a_while() {
        let me = NodeName::new("a").unwrap();
        let config = json!({"member_slots_ttl": "10min"});
        let both = cluster(&config, &json!({"optime": 1}), &[("a", json!({})), ("b", json!({}))]);
        let alone = cluster(&config, &json!({"optime": 1}), &[("a", json!({}))]);
        let mut slots = Slots::default();
        let mut at = |cluster: &Cluster, minutes: u64| {
            let now = START + Duration::secs(60 * minutes);
            let wishes = slots.wishes(cluster, &me, Leads::Yes, &[], now).unwrap();
            (wishes.physical, slots.status(cluster, &me, &[]).retain)
        };
        assert_eq!(at(&both, 0), (names(&["b"]), names(&["a", "b"])));
        assert_eq!(at(&alone, 9), (names(&["b"]), names(&["a", "b"])));
        assert_eq!(at(&alone, 11), (names(&[]), names(&["a"])));
    }

    #[test]
    fn permanent_slots_and_those_that_are_nobodys_business() {
        let config = json!({
            "slots": {
                "a": null, "other": 0,
                "feed": {"type": "logical", "database": "app", "plugin": "pgoutput"},
                "broken": {"type": "logical"},
                "elsewhere": {"type": "physical", "cluster_type": "standby"},
            },
            "ignore_slots": [{"name": "x", "type": "logical"}, {}],
        });
        let cluster = cluster(&config, &json!({"optime": 1}), &[("a", json!({}))]);
        let me = NodeName::new("a").unwrap();
        let below = [(NodeName::new("n-9").unwrap(), Instance(10))];
        let wishes = Slots::default().wishes(&cluster, &me, Leads::Yes, &below, START).unwrap();
        let through = BTreeMap::from([("n_9_000000000000000a".to_owned(), Instance(10))]);
        assert_eq!(wishes.cascading, through);
        assert_eq!(wishes.physical, names(&["other"]), "never one for itself");
        assert_eq!(wishes.logical.keys().collect::<Vec<_>>(), ["feed"]);
        assert_eq!(wishes.untouched.len(), 1);
        assert_eq!(wishes.untouched[0].kind.as_deref(), Some("logical"));
    }
}
