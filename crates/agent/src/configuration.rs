//! What PostgreSQL's configuration should be: this node's and the cluster's settings put together for
//! both roles. A pure function, and the memory that keeps it from being asked twice.
//! Leaves trying and writing it to `pgherd-postgres`.

use std::collections::BTreeMap;

use pgherd_api::Cluster;
use pgherd_config::{Local, PostgresSettings, Problem, Role, StandbyCluster, effective};
use pgherd_core::Revision;
use pgherd_postgres::{Address, Configuration, MemberSlots, Remote, Wanted};
use serde_json::{Map, Value};

use crate::slots;

/// Makes the configuration when what it depends on has changed.
pub(crate) struct Wishes {
    local: Local,
    /// What a cluster gets that this node founds: in force until there is another.
    founding: Map<String, Value>,
    /// Where sockets are beside the agent's own, unless somebody says something else.
    sockets: Option<&'static str>,
    /// PostgreSQL's major version.
    major: u32,
    /// What the last one was made of.
    made_of: Option<(Revision, Leads)>,
    /// Said already.
    warned: Vec<Problem>,
}

/// Whether this node holds the leader key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leads {
    Yes,
    No,
}

impl Wishes {
    pub(crate) fn new(
        local: Local,
        founding: Map<String, Value>,
        sockets: Option<&'static str>,
        major: u32,
    ) -> Self {
        Self { local, founding, sockets, major, made_of: None, warned: Vec::new() }
    }

    /// The node says something else from now on.
    pub(crate) fn reload(&mut self, local: Local) {
        self.local = local;
        self.made_of = None;
    }

    /// Before anything is known of the cluster.
    pub(crate) fn first(&self) -> Wanted {
        self.wanted(&self.founding, Leads::No).0
    }

    /// The configuration, when it may be another than last time.
    pub(crate) fn news(&mut self, cluster: &Cluster, leads: Leads) -> Option<Wanted> {
        let config = cluster.config()?;
        let standby_cluster = config.json.contains_key("standby_cluster");
        // Only a standby cluster's leader has settings of its own in recovery.
        let leads = if standby_cluster { leads } else { Leads::No };
        let made_of = Some((config.modified, leads));
        if self.made_of == made_of {
            return None;
        }
        self.made_of = made_of;
        let (wanted, warnings) = self.wanted(&config.json, leads);
        for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warned = warnings;
        Some(wanted)
    }

    fn wanted(&self, dynamic: &Map<String, Value>, leads: Leads) -> (Wanted, Vec<Problem>) {
        let in_recovery = match leads {
            Leads::Yes => Role::StandbyLeader,
            Leads::No => Role::Replica,
        };
        let synchronous = pgherd_config::dynamic::from_json(dynamic).synchronous();
        let mut warnings: Vec<Problem> = Vec::new();
        let mut of = |role| {
            let settings = effective(&self.local, dynamic, role);
            for warning in &settings.warnings {
                if !warnings.contains(warning) {
                    warnings.push(warning.clone());
                }
            }
            let mut all = configuration(settings, synchronous);
            if slots::any_logical(dynamic) {
                keep_logical_slots(&mut all.parameters, self.major);
            }
            if let Some(sockets) = self.sockets {
                let place = all.parameters.entry("unix_socket_directories".to_owned());
                place.or_insert_with(|| sockets.to_owned());
            }
            all
        };
        let wanted = Wanted {
            primary: of(Role::Primary),
            standby: of(in_recovery),
            remote: pgherd_config::standby_cluster(dynamic).map(remote),
        };
        (wanted, warnings)
    }
}

/// The cluster that this one follows.
fn remote(it: StandbyCluster) -> Remote {
    let StandbyCluster { host, port, slot, methods, recovery } = it;
    Remote { at: host.map(|host| Address { host, port }), slot, recovery, methods }
}

/// A standby can hold what logical slots need only by telling the primary what it needs itself.
/// PostgreSQL 17 keeps them on its standbys by its own means, before that pgherd does.
fn keep_logical_slots(parameters: &mut BTreeMap<String, String>, major: u32) {
    parameters.insert("hot_standby_feedback".to_owned(), "on".to_owned());
    if major < 17 {
        return;
    }
    let sync = parameters.entry("sync_replication_slots".to_owned());
    sync.or_insert_with(|| "on".to_owned());
}

/// `synchronous_standby_names` is the user's only while no synchronous mode is on: then the list is
/// what commits are promised by.
fn configuration(settings: PostgresSettings, synchronous: bool) -> Configuration {
    let mut parameters = settings.parameters;
    let names = parameters.remove("synchronous_standby_names");
    Configuration {
        parameters,
        command_line: settings.command_line,
        standby_names: names.filter(|_| !synchronous),
        hba: settings.hba,
        ident: settings.ident,
        recovery: settings.recovery_conf,
        custom_conf: settings.custom_conf,
        member_slots: if settings.use_slots { MemberSlots::Used } else { MemberSlots::Unused },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_api::{Change, Keys, Record};
    use pgherd_config::yaml::Node;
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn config(json: &Value, at: u64) -> Record {
        let value = json.to_string().into_bytes();
        Record { key: b"/service/demo/config".to_vec(), value, created: 1, modified: at, lease: 0 }
    }

    #[test]
    fn it_is_made_anew_only_when_something_may_be_different() {
        let text = "postgresql: {parameters: {work_mem: 1MB}, parameters_primary: {work_mem: 2MB}}";
        let local = Local::new(vec![Node::parse_file("n.yml", text).unwrap()]);
        let mut wishes =
            Wishes::new(local, object(&json!({"postgresql": {"pg_hba": ["a"]}})), Some("/x"), 15);
        let first = wishes.first();
        assert_eq!(first.primary.parameters["work_mem"], "2MB");
        assert_eq!(first.standby.parameters["work_mem"], "1MB");
        assert_eq!(first.standby.parameters["unix_socket_directories"], "/x");
        assert_eq!(first.standby.hba.as_deref(), Some(["a".to_owned()].as_slice()));

        let users = json!({"postgresql": {"parameters": {
            "max_connections": 50, "synchronous_standby_names": "x"
        }}});
        let mut cluster = Cluster::read(Keys::new("service", "demo"), 5, [config(&users, 5)]);
        let wanted = wishes.news(&cluster, Leads::No).unwrap();
        assert_eq!(wanted.primary.command_line["max_connections"], "50");
        assert_eq!(wanted.primary.standby_names.as_deref(), Some("x"));
        assert_eq!(wanted.primary.hba, None);
        assert_eq!(wishes.news(&cluster, Leads::Yes), None);

        let mut strict = users;
        strict["synchronous_mode"] = json!(true);
        cluster.apply(6, [Change::Put(config(&strict, 6))]);
        let wanted = wishes.news(&cluster, Leads::No).unwrap();
        assert_eq!(wanted.primary.standby_names, None, "the list is pgherd's");

        strict["standby_cluster"] = json!({"host": "a"});
        strict["postgresql"]["parameters_standby_leader"] = json!({"work_mem": "3MB"});
        cluster.apply(7, [Change::Put(config(&strict, 7))]);
        let standby = |wanted: Option<Wanted>| wanted.unwrap().standby.parameters;
        assert_eq!(standby(wishes.news(&cluster, Leads::No))["work_mem"], "1MB");
        assert_eq!(standby(wishes.news(&cluster, Leads::Yes))["work_mem"], "3MB");
    }
}
