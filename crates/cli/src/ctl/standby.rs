//! `demote-cluster` and `promote-cluster`: a cluster begins or ends to follow another one (contract
//! 4.14, 5.2).

use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::rest::paths;
use pgherd_api::{Cluster, MemberInfo};
use serde_json::{Map, Value, json};

use super::watch::{LOOK_EVERY, Watch, all_reasons};
use super::{ANSWER, Ctl, failed, leader_of, list, member, timestamp};
use crate::args::{DemoteClusterArgs, Format, PromoteClusterArgs};
use crate::output::{Failure, Outcome, confirm};

/// Restarts of everybody, and then some.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn demote(ctl: Ctl, args: &DemoteClusterArgs) -> Outcome {
    let mut standby = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            standby.insert(key.to_owned(), value);
        }
    };
    put("host", args.host.clone().map(Value::from));
    put("port", args.port.map(Value::from));
    put("restore_command", args.restore_command.clone().map(Value::from));
    if standby.is_empty() {
        let words = "At least --host, --port or --restore-command should be specified";
        return Err(Failure::refused("demote-cluster", words));
    }
    if let Some(slot) = &args.primary_slot_name {
        standby.insert("primary_slot_name".to_owned(), Value::from(slot.as_str()));
    }
    change(ctl, &Change { verb: "demot", role: "standby_leader", standby, force: args.force }).await
}

pub(super) async fn promote(ctl: Ctl, args: &PromoteClusterArgs) -> Outcome {
    let standby = Map::new();
    change(ctl, &Change { verb: "promot", role: "primary", standby, force: args.force }).await
}

struct Change {
    /// Without its end, as "-ed", "-e" and "-ion" follow.
    verb: &'static str,
    /// What the leader's role is to be.
    role: &'static str,
    /// Empty to follow nobody.
    standby: Map<String, Value>,
    force: bool,
}

async fn change(mut ctl: Ctl, change: &Change) -> Outcome {
    let cluster = ctl.read().await?;
    let verb = change.verb;
    let leader = leader_of(&cluster)
        .ok_or_else(|| failed(format!("Cluster has no leader, {verb}ion is not possible")))?;
    if leader.role == change.role {
        return Err(failed("Cluster is already in the required state"));
    }
    ctl.printer.line("Current cluster topology")?;
    ctl.printer.raw(list::render(&cluster, Format::Pretty, false))?;
    let scope = ctl.keys.scope().to_owned();
    if !change.force {
        confirm(&format!("Are you sure you want to {verb}e {scope} cluster?"))?;
    }
    let standby =
        if change.standby.is_empty() { Value::Null } else { Value::Object(change.standby.clone()) };
    let mut watch = Watch::new(&cluster);
    let body = json!({ "standby_cluster": standby });
    let response = ctl.tell(leader, Method::PATCH, paths::CONFIG, Some(&body), ANSWER).await?;
    if response.status != StatusCode::OK {
        let (code, text) = (response.status.as_u16(), response.text());
        return Err(failed(format!(
            "Failed to {verb}e {scope} cluster: /config PATCH status code={code}, ({text})"
        )));
    }
    let concerned: Vec<MemberInfo> = cluster.members().values().cloned().collect();
    while watch.elapsed() < PATIENCE {
        let now = watch.look(&mut ctl).await?;
        if let Some(now) = now.filter(|now| reached(now, change, leader)) {
            ctl.printer.line(format_args!("{} cluster is successfully {verb}ed", timestamp()))?;
            return Ok(ctl.printer.raw(list::render(&now, Format::Pretty, false))?);
        }
        watch.reasons(&mut ctl, &concerned).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    all_reasons(&mut ctl, &cluster).await?;
    let seconds = PATIENCE.as_secs();
    Err(failed(format!("The cluster was not {verb}ed within {seconds} s; the settings ask for it")))
}

/// Somebody leads in the new role, and of a former primary, it runs again.
fn reached(now: &Cluster, change: &Change, former: &MemberInfo) -> bool {
    let runs = |m: &MemberInfo| m.state == "running";
    let leads = leader_of(now).is_some_and(|m| m.role == change.role && runs(m));
    let former = member(now, former.name.as_str());
    leads && (change.standby.is_empty() || former.is_some_and(runs))
}
