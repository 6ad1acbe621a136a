//! The router's view of the cluster, made from the store's keys.
//! Leaves where connections go to the router, and who leads to the agents.

use std::sync::Arc;
use std::time::Duration;

use pgherd_api::{Cluster, MemberInfo};
use pgherd_core::cluster::{MemberRole, MemberState};
use pgherd_core::{Lsn, SynchronousMode, Time};
use pgherd_router::topology::{HostPort, LeaderRoute, MemberRoute, Role, SyncRole, Topology};
use tokio::sync::watch;

use crate::confirm::{self, Confirmer};
use crate::live::Live;

/// While nothing changes, the view is confirmed this often.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Feeds the router until nobody listens any more. While the store is away the last view stays,
/// with its age, and `confirmer` says how long its leader's term may be relied on.
///
/// # Errors
/// The settings never let us in.
pub(crate) async fn feed(
    mut live: Live,
    mut confirmer: Option<Confirmer>,
    sender: watch::Sender<Arc<Topology>>,
) -> Result<(), pgherd_store::Error> {
    let every = if confirmer.is_some() { confirm::EVERY } else { CONFIRM_EVERY };
    let mut ticks = tokio::time::interval(every);
    let mut fresh = None;
    loop {
        tokio::select! {
            news = live.next() => match news {
                None => return Ok(()),
                Some(crate::live::News::Lost(why)) => tracing::warn!(%why, "the store is lost"),
                Some(crate::live::News::Cluster) => {
                    if let (Some(confirmer), Some(cluster)) = (&mut confirmer, live.cluster()) {
                        confirmer.shown(cluster);
                    }
                }
            },
            () = listen(&mut confirmer) => {}
            // The watch itself notices a silent store within two seconds.
            _ = ticks.tick() => {}
            () = sender.closed() => return Ok(()),
        }
        if let Some(error) = live.refused() {
            return Err(error.clone());
        }
        let now = confirm::now();
        if live.connected() {
            fresh = Some(now);
        }
        // Without a confirmer there is nothing new to say while the store is away.
        let news = live.connected() || confirmer.is_some();
        if let (Some(cluster), Some(fresh)) = (live.cluster().filter(|_| news), fresh) {
            let topology = topology(cluster, fresh);
            sender.send_replace(confirm::confirmed(topology, confirmer.as_ref(), now));
        }
    }
}

async fn listen(confirmer: &mut Option<Confirmer>) {
    match confirmer {
        Some(confirmer) => confirmer.listen().await,
        None => std::future::pending().await,
    }
}

/// The cluster as the router wants it.
pub(crate) fn topology(cluster: &Cluster, now: Time) -> Topology {
    let view = cluster.view();
    let leader = leader(cluster);
    let beat = view.current_beat().map(|beat| beat.value.lsn);
    let end = view.status.as_ref().map(|status| status.value.optime).max(beat);
    let policy = view.config.as_ref().map(|config| config.value.clone()).unwrap_or_default();
    let sync = |info: &MemberInfo| {
        let names = view.sync.as_ref().map(|sync| &sync.value.voters);
        match (names.is_some_and(|v| v.contains_key(&info.name)), policy.synchronous_mode) {
            (false, _) | (true, SynchronousMode::Off) => SyncRole::None,
            (true, SynchronousMode::Priority) => SyncRole::Sync,
            (true, SynchronousMode::Quorum) => SyncRole::Quorum,
        }
    };
    let leads = view.leader.as_ref().map(|leader| &leader.value);
    let members = cluster.members().values().filter_map(|info| {
        let role = match pgherd_api::words::parse_role(&info.role) {
            // It holds the key and is in recovery: good for reads.
            MemberRole::StandbyLeader => Role::Replica,
            _ if leads == Some(&info.name) => Role::Leader,
            MemberRole::Replica => Role::Replica,
            MemberRole::Uninitialized | MemberRole::Primary | MemberRole::Demoted => Role::Other,
        };
        Some(MemberRoute { role, sync: sync(info), ..member(info, end)? })
    });
    Topology {
        cluster: cluster.keys().scope().to_owned(),
        revision: view.revision.0,
        fresh_at: Some(now),
        leader,
        members: members.collect(),
        max_lag: policy.maximum_lag_on_failover,
        paused: policy.pause,
        sync_mode: match policy.synchronous_mode {
            SynchronousMode::Off => "off",
            SynchronousMode::Priority => "on",
            SynchronousMode::Quorum => "quorum",
        }
        .to_owned(),
        notes: Vec::new(),
    }
}

fn leader(cluster: &Cluster) -> Option<LeaderRoute> {
    let view = cluster.view();
    let name = view.leader.as_ref()?.value.clone();
    let info = cluster.members().get(&name)?;
    let serving = match view.current_beat() {
        Some(beat) => beat.value.serving && beat.value.ended.is_none(),
        // A Patroni leader writes no beats: its member key says whether it was promoted.
        None => {
            pgherd_api::words::parse_role(&info.role) == MemberRole::Primary
                && pgherd_api::words::parse_state(&info.state) == MemberState::Running
        }
    };
    let (term, address) = (view.current_term()?, address(info)?);
    Some(LeaderRoute { name, term, serving, address, confirmed_until: None })
}

/// A member; one that doesn't say where it is can't be routed to.
fn member(info: &MemberInfo, end: Option<Lsn>) -> Option<MemberRoute> {
    let position = info.replay_lsn.or(info.xlog_location);
    Some(MemberRoute {
        name: info.name.clone(),
        address: address(info)?,
        role: Role::Other,
        state: info.state.clone(),
        streaming: info.replication_state.as_deref() == Some("streaming"),
        timeline: info.timeline,
        lsn: info.xlog_location,
        lag_bytes: position.zip(end).map(|(position, end)| position.lag_behind(end)),
        noloadbalance: info.tagged("noloadbalance"),
        api_url: info.api_url.clone(),
        sync: SyncRole::None,
    })
}

fn address(info: &MemberInfo) -> Option<HostPort> {
    Some(HostPort::new(info.host.clone()?, info.port?))
}

#[cfg(test)]
mod tests {
    use pgherd_api::{Keys, Record};

    use super::*;

    fn cluster(keys: &[(&str, &str, u64, u64)]) -> Cluster {
        let record = |(key, value, created, modified): &(&str, &str, u64, u64)| Record {
            key: format!("/service/demo/{key}").into_bytes(),
            value: value.as_bytes().to_vec(),
            created: *created,
            modified: *modified,
            lease: 7,
        };
        Cluster::read(Keys::new("service", "demo"), 99, keys.iter().map(record))
    }

    const PRIMARY: &str = r#"{"conn_url":"postgres://h1:5442/postgres","api_url":"http://h1:8008/patroni","state":"running","role":"primary","version":"4.1.4","xlog_location":5000,"timeline":2}"#;
    const REPLICA: &str = r#"{"conn_url":"postgres://h2:5443/postgres","api_url":"http://h2:8008/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":4000,"replay_lsn":3000,"replication_state":"streaming","timeline":2}"#;

    #[test]
    fn a_patroni_leader_serves_when_its_member_key_says_primary() {
        let keys = [
            ("leader", "n1", 10, 10),
            ("status", r#"{"optime":5000}"#, 11, 11),
            ("sync", r#"{"leader":"n1","quorum":1,"sync_standby":"n2"}"#, 11, 11),
            ("config", r#"{"synchronous_mode":"quorum"}"#, 3, 3),
            ("members/n1", PRIMARY, 12, 12),
            ("members/n2", REPLICA, 13, 13),
        ];
        let topology = topology(&cluster(&keys), Time(1));
        let leader = topology.leader.unwrap();
        assert!(leader.serving);
        assert_eq!((leader.term.0, leader.address.port), (10, 5442));
        let replica = &topology.members[1];
        assert_eq!((replica.role, replica.streaming), (Role::Replica, true));
        assert_eq!(replica.lag_bytes, Some(2000));
        assert_eq!(replica.sync, SyncRole::Quorum);
    }

    #[test]
    fn one_of_ours_serves_when_its_beat_says_so() {
        let beat = |serving: bool| {
            format!(
                r#"{{"incarnation":1,"seq":1,"ttl":5000000,"lsn":5000,"timeline":2,"start":1,"serving":{serving},"ended":null}}"#
            )
        };
        let of = |beat: &str, modified| {
            let keys = [
                ("leader", "n1", 10, 20),
                ("term", r#"{"leader":"n1","by":"pledges"}"#, 10, 20),
                ("beat", beat, 10, modified),
                ("members/n1", PRIMARY, 12, 12),
            ];
            topology(&cluster(&keys), Time(1)).leader.unwrap()
        };
        assert!(of(&beat(true), 21).serving);
        assert!(!of(&beat(false), 21).serving);
        assert_eq!(of(&beat(true), 21).term.0, 20);
    }
}
