//! `switchover` and `failover`: ask, tell the agent, show what happens, say how it ended and why.
//! Leaves whether it may happen to the agents.

use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::rest::{FailoverBody, paths};
use pgherd_api::{Cluster, MemberInfo, Response};
use pgherd_core::cluster::Key;
use pgherd_core::{Lsn, NodeName};
use pgherd_store::{Compare, Op, Txn};

use super::watch::{LOOK_EVERY, Watch, all_reasons};
use super::{Ctl, failed, leader_of, list, member, paused, timestamp, when};
use crate::args::{FailoverArgs, Format, PlaceArgs, SwitchoverArgs};
use crate::output::{Failure, Outcome, ask, ask_or, confirm};

/// An agent answers when the new leader is there, or after 20 seconds (contract 2.4).
const PATIENCE: Duration = Duration::from_secs(30);
/// What an agent didn't see the end of is watched for so long.
const UNKNOWN: Duration = Duration::from_secs(60);
const WRITE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Switchover,
    Failover,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Switchover => paths::SWITCHOVER,
            Self::Failover => paths::FAILOVER,
        }
    }
}

pub(super) async fn switchover(place: &PlaceArgs, args: &SwitchoverArgs) -> Outcome {
    // What can be refused before anybody is asked.
    when::scheduled(args.scheduled.as_deref())?;
    let mut ctl = Ctl::open(place, args.cluster.cluster.as_deref()).await?;
    let cluster = ctl.read().await?;
    let scope = ctl.keys.scope().to_owned();
    show(&mut ctl, &cluster)?;
    let leader = leader_of(&cluster).ok_or_else(|| failed("This cluster has no leader"))?;
    let named = match &args.leader {
        Some(name) => name.clone(),
        None if args.force => leader.name.to_string(),
        None => ask_or("Primary", leader.name.as_str(), "say --leader NAME and --force")?,
    };
    if named != leader.name.as_str() {
        return Err(failed(format!("Member {named} is not the leader of cluster {scope}")));
    }
    let candidates = candidates(&cluster, Some(&leader.name));
    if candidates.is_empty() {
        return Err(failed("No candidates found to switchover to"));
    }
    let candidate = candidate(args.candidate.as_ref(), args.force, &candidates)?;
    check_candidate(&cluster, &candidate, Some(&leader.name), &scope)?;
    let at = match (&args.scheduled, args.force) {
        (Some(text), _) => when::scheduled(Some(text))?,
        (None, true) => None,
        (None, false) => {
            let example = when::next_hour();
            let question = format!("When should the switchover take place (e.g. {example} ) ");
            when::scheduled(Some(&ask_or(&question, "now", "say --scheduled TIME, or --force")?))?
        }
    };
    if at.is_some() && paused(&cluster) {
        return Err(failed("Can't schedule switchover in the paused state"));
    }
    if !args.force {
        let what = match &at {
            Some(at) => format!("schedule switchover of cluster {scope} at {at}"),
            None => format!("switchover cluster {scope}"),
        };
        let name = &leader.name;
        confirm(&format!("Are you sure you want to {what}, demoting current leader {name}?"))?;
    }
    let body = FailoverBody {
        leader: Some(leader.name.to_string()),
        candidate: Some(candidate).filter(|name| !name.is_empty()),
        scheduled_at: at,
    };
    carry_out(&mut ctl, What::Switchover, &cluster, leader, &body).await
}

pub(super) async fn failover(mut ctl: Ctl, args: &FailoverArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let scope = ctl.keys.scope().to_owned();
    show(&mut ctl, &cluster)?;
    let leader = leader_of(&cluster);
    let leader_name = leader.map(|m| &m.name);
    let candidates = candidates(&cluster, leader_name);
    let candidate = candidate(args.candidate.as_ref(), args.force, &candidates)?;
    if candidate.is_empty() {
        let words =
            "Failover could be performed only to a specific candidate; say --candidate NAME";
        return Err(Failure::refused("--candidate", words));
    }
    check_candidate(&cluster, &candidate, leader_name, &scope)?;
    let info = member(&cluster, &candidate);
    if !args.force {
        warn_of_loss(&mut ctl, &cluster, info)?;
        let demoting = leader.map(|m| format!(", demoting current leader {}", m.name));
        confirm(&format!(
            "Are you sure you want to failover cluster {scope}{}?",
            demoting.unwrap_or_default()
        ))?;
    }
    let body = FailoverBody { leader: None, candidate: Some(candidate), scheduled_at: None };
    let target = leader.or(info).ok_or_else(|| failed("nobody can be asked"))?;
    carry_out(&mut ctl, What::Failover, &cluster, target, &body).await
}

fn candidate(said: Option<&String>, force: bool, candidates: &[String]) -> Outcome<String> {
    match (said, force) {
        (Some(name), _) => Ok(name.clone()),
        (None, true) => Ok(String::new()),
        (None, false) => {
            let question = format!("Candidate {candidates:?} []").replace('"', "'");
            ask(&question, "say --candidate NAME and --force")
        }
    }
}

/// In synchronous modes only a voter surely has every commit.
fn warn_of_loss(ctl: &mut Ctl, cluster: &Cluster, candidate: Option<&MemberInfo>) -> Outcome {
    let view = cluster.view();
    let Some(sync) = view.sync.as_ref().filter(|sync| sync.value.names_voters()) else {
        return Ok(());
    };
    let Some(candidate) = candidate.filter(|m| !sync.value.voters.contains_key(&m.name)) else {
        return Ok(());
    };
    let behind = candidate.xlog_location.unwrap_or(Lsn::ZERO);
    let beat = view.current_beat().map(|beat| beat.value.lsn);
    let end = view.status.as_ref().map(|status| status.value.optime).max(beat);
    ctl.printer.line(format_args!(
        "Warning: {} is no synchronous standby; commits may be lost (it is {} bytes behind).",
        candidate.name,
        behind.lag_behind(end.unwrap_or(Lsn::ZERO))
    ))?;
    let name = &candidate.name;
    confirm(&format!("Are you sure you want to failover to the asynchronous node {name}?"))
}

fn show(ctl: &mut Ctl, cluster: &Cluster) -> Outcome {
    ctl.printer.line("Current cluster topology")?;
    Ok(ctl.printer.raw(list::render(cluster, Format::Pretty, false))?)
}

fn candidates(cluster: &Cluster, leader: Option<&NodeName>) -> Vec<String> {
    let fit = |m: &&MemberInfo| Some(&m.name) != leader && !m.nofailover();
    cluster.members().values().filter(fit).map(|m| m.name.to_string()).collect()
}

fn check_candidate(
    cluster: &Cluster,
    candidate: &str,
    leader: Option<&NodeName>,
    scope: &str,
) -> Outcome {
    if candidate.is_empty() {
        return Ok(());
    }
    if leader.is_some_and(|leader| candidate == leader.as_str()) {
        let words = format!("Member {candidate} is already the leader of cluster {scope}");
        return Err(failed(words));
    }
    if candidates(cluster, leader).iter().any(|name| name == candidate) {
        return Ok(());
    }
    Err(failed(format!(
        "Member {candidate} does not exist in cluster {scope} or is tagged as nofailover"
    )))
}

/// Asks the agent and shows what happens meanwhile.
async fn carry_out(
    ctl: &mut Ctl,
    what: What,
    before: &Cluster,
    target: &MemberInfo,
    body: &FailoverBody,
) -> Outcome {
    let json = serde_json::to_value(body).map_err(anyhow::Error::from)?;
    let concerned: Vec<MemberInfo> = before.members().values().cloned().collect();
    let mut watch = Watch::new(before);
    watch.know_reasons(ctl, &concerned).await;
    let url = super::url_of(target, what.path())?;
    let rest = ctl.rest.clone().with_timeout(PATIENCE);
    let call = rest.request(Method::POST, &url, Some(&json));
    let response = match watch.during(ctl, &concerned, call).await? {
        Ok(response) => response,
        Err(error) => {
            write_wish(ctl, what, before, body, &error.into()).await?;
            return watch_the_end(ctl, what, before, watch, &concerned).await;
        }
    };
    watch.look(ctl).await?;
    let (status, text) = (response.status, response.text());
    if status == StatusCode::OK || status == StatusCode::ACCEPTED {
        ctl.printer.line(format_args!("{} {text}", timestamp()))?;
        let cluster = ctl.read().await?;
        return Ok(ctl.printer.raw(list::render(&cluster, Format::Pretty, false))?);
    }
    if is_unknown(&response) {
        return watch_the_end(ctl, what, before, watch, &concerned).await;
    }
    all_reasons(ctl, before).await?;
    Err(failed(format!("{} failed, details: {}, {text}", what.title(), status.as_u16())))
}

fn is_unknown(response: &Response) -> bool {
    response.status == StatusCode::SERVICE_UNAVAILABLE && response.text().contains("status unknown")
}

/// Nobody answers at the agent: the wish goes where the agents look for wishes.
async fn write_wish(
    ctl: &mut Ctl,
    what: What,
    before: &Cluster,
    body: &FailoverBody,
    error: &anyhow::Error,
) -> Outcome {
    let word = what.word();
    let store = ctl.store(&format!("the agent doesn't answer ({error:#}); a {word} without it"))?;
    let key = ctl.keys.path(&Key::Failover);
    let mut wish = serde_json::Map::new();
    for (name, value) in [
        ("leader", &body.leader),
        ("member", &body.candidate),
        ("scheduled_at", &body.scheduled_at),
    ] {
        if let Some(value) = value {
            wish.insert(name.to_owned(), value.clone().into());
        }
    }
    let value = serde_json::Value::Object(wish).to_string();
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), before.failover_modified().0)],
        then: vec![Op::put(key, value)],
        otherwise: Vec::new(),
    };
    let reply = store.txn(txn, WRITE_LIMIT).await.map_err(anyhow::Error::from)?;
    if !reply.succeeded {
        return Err(failed("somebody else asked for a new leader at the same time; look again"));
    }
    let words = format!("Could not {word} using Patroni api, falling back to DCS ({error:#})");
    Ok(ctl.printer.line(format_args!("{} {words}", timestamp()))?)
}

/// The agent doesn't say how it ended: the store will, or the agents will say why not.
async fn watch_the_end(
    ctl: &mut Ctl,
    what: What,
    before: &Cluster,
    mut watch: Watch,
    concerned: &[MemberInfo],
) -> Outcome {
    let former = leader_of(before).map(|m| m.name.clone());
    let until = watch.elapsed() + UNKNOWN;
    let mut last = None;
    while watch.elapsed() < until {
        if let Some(cluster) = watch.look(ctl).await? {
            if cluster.schedule().is_some() {
                ctl.printer.line(format_args!("{} {} scheduled", timestamp(), what.title()))?;
                return Ok(());
            }
            let serves = |m: &&MemberInfo| {
                let arrived = matches!(m.role.as_str(), "primary" | "standby_leader");
                Some(&m.name) != former.as_ref() && arrived && m.state == "running"
            };
            if let Some(leader) = leader_of(&cluster).filter(serves) {
                let name = &leader.name;
                let word = if what == What::Failover { "failed" } else { "switched" };
                ctl.printer.line(format_args!("{} {word} over to \"{name}\"", timestamp()))?;
                return Ok(ctl.printer.raw(list::render(&cluster, Format::Pretty, false))?);
            }
            last = Some(cluster);
        }
        watch.reasons(ctl, concerned).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    all_reasons(ctl, last.as_ref().unwrap_or(before)).await?;
    let leads = last.as_ref().and_then(leader_of).map(|m| m.name.to_string());
    let leads = leads.map_or_else(|| "nobody leads".to_owned(), |name| format!("{name} leads"));
    let seconds = watch.elapsed().as_secs();
    Err(failed(format!("{} did not happen within {seconds} s: {leads}", what.title())))
}
