//! `switchover` and `failover`: ask, tell the agent, show what happens, say how it ended.
//! Leaves whether it may happen to the agents.

use std::time::Duration;

use http::Method;
use pgherd_api::rest::{FailoverBody, paths};
use pgherd_api::{Cluster, MemberInfo};
use pgherd_core::{Lsn, NodeName};

use super::{Ctl, leader_of, list, timestamp, url_of};
use crate::args::{FailoverArgs, Format, SwitchoverArgs};
use crate::live::Live;
use crate::output::{Failure, Outcome, ask, confirm};
use crate::up::Progress;

/// An agent answers when the new leader is there, or after 20 seconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn failed(words: impl Into<String>) -> Failure {
    Failure::Failed(anyhow::anyhow!(words.into()))
}

/// What can be refused before anybody is asked.
pub(super) fn check(args: &SwitchoverArgs) -> Outcome {
    if args.scheduled.as_deref().is_some_and(|when| when != "now") {
        let words = "a switchover at a later time isn't there yet; leave --scheduled out";
        return Err(Failure::refused("--scheduled", words));
    }
    Ok(())
}

pub(super) async fn switchover(mut ctl: Ctl, args: &SwitchoverArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let scope = ctl.keys.scope().to_owned();
    show(&mut ctl, &cluster)?;
    let leader = leader_of(&cluster).ok_or_else(|| failed("This cluster has no leader"))?;
    let named = match &args.leader {
        Some(name) => name.clone(),
        None if args.force => leader.name.to_string(),
        None => prompt(&format!("Primary [{}]", leader.name), leader.name.as_str())?,
    };
    if named != leader.name.as_str() {
        return Err(failed(format!("Member {named} is not the leader of cluster {scope}")));
    }
    let candidates = candidates(&cluster, Some(&leader.name));
    if candidates.is_empty() {
        return Err(failed("No candidates found to switchover to"));
    }
    let candidate = match (&args.candidate, args.force) {
        (Some(name), _) => name.clone(),
        (None, true) => String::new(),
        (None, false) => prompt(&format!("Candidate {candidates:?} []").replace('"', "'"), "")?,
    };
    check_candidate(&cluster, &candidate, &leader.name, &scope)?;
    if !args.force {
        confirm(&format!(
            "Are you sure you want to switchover cluster {scope}, demoting current leader {}?",
            leader.name
        ))?;
    }
    let body = FailoverBody {
        leader: Some(leader.name.to_string()),
        candidate: Some(candidate).filter(|name| !name.is_empty()),
        scheduled_at: None,
    };
    let url = url_of(leader, paths::SWITCHOVER)?;
    carry_out(&mut ctl, "Switchover", &url, &body).await
}

pub(super) async fn failover(mut ctl: Ctl, args: &FailoverArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let scope = ctl.keys.scope().to_owned();
    show(&mut ctl, &cluster)?;
    let leader = leader_of(&cluster);
    let candidates = candidates(&cluster, leader.map(|m| &m.name));
    let candidate = match (&args.candidate, args.force) {
        (Some(name), _) => name.clone(),
        (None, true) => String::new(),
        (None, false) => prompt(&format!("Candidate {candidates:?} []").replace('"', "'"), "")?,
    };
    if candidate.is_empty() {
        return Err(failed("Failover could be performed only to a specific candidate"));
    }
    let nobody = NodeName::new("-").ok();
    let leader_name = leader.map(|m| m.name.clone()).or(nobody);
    if let Some(leader) = &leader_name {
        check_candidate(&cluster, &candidate, leader, &scope)?;
    }
    let info = cluster.members().values().find(|m| m.name.as_str() == candidate);
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
    let url = url_of(target, paths::FAILOVER)?;
    carry_out(&mut ctl, "Failover", &url, &body).await
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
    let end = view.current_beat().map_or(Lsn::ZERO, |beat| beat.value.lsn);
    ctl.printer.line(format_args!(
        "Warning: {} is no synchronous standby; commits may be lost (it is {} bytes behind).",
        candidate.name,
        behind.lag_behind(end)
    ))?;
    confirm(&format!(
        "Are you sure you want to failover to the asynchronous node {}?",
        candidate.name
    ))
}

fn show(ctl: &mut Ctl, cluster: &Cluster) -> Outcome {
    ctl.printer.line("Current cluster topology")?;
    Ok(ctl.printer.raw(list::render(cluster, Format::Pretty, false))?)
}

fn prompt(question: &str, default: &str) -> Outcome<String> {
    match ask(question)? {
        None => Err(Failure::Aborted),
        Some(answer) if answer.is_empty() => Ok(default.to_owned()),
        Some(answer) => Ok(answer),
    }
}

fn candidates(cluster: &Cluster, leader: Option<&NodeName>) -> Vec<String> {
    let fit = |m: &&MemberInfo| Some(&m.name) != leader && !m.nofailover();
    cluster.members().values().filter(fit).map(|m| m.name.to_string()).collect()
}

fn check_candidate(cluster: &Cluster, candidate: &str, leader: &NodeName, scope: &str) -> Outcome {
    if candidate.is_empty() {
        return Ok(());
    }
    if candidate == leader.as_str() {
        let words = format!("Member {candidate} is already the leader of cluster {scope}");
        return Err(failed(words));
    }
    if candidates(cluster, Some(leader)).iter().any(|name| name == candidate) {
        return Ok(());
    }
    Err(failed(format!(
        "Member {candidate} does not exist in cluster {scope} or is tagged as nofailover"
    )))
}

/// Asks the agent and shows what happens meanwhile.
async fn carry_out(ctl: &mut Ctl, what: &str, url: &str, body: &FailoverBody) -> Outcome {
    let json = serde_json::to_value(body).map_err(anyhow::Error::from)?;
    let rest = ctl.rest.clone().with_timeout(PATIENCE);
    let mut answer = std::pin::pin!(rest.request(Method::POST, url, Some(&json)));
    let mut live = Live::follow(&ctl.store, &ctl.keys);
    let mut progress = Progress::default();
    let mut told = false;
    let response = loop {
        tokio::select! {
            response = &mut answer => break response,
            Some(_) = live.next() => {
                let Some(cluster) = live.cluster() else { continue };
                let lines = progress.take(cluster);
                // The first view is where it begins; only what follows is news.
                if told {
                    for line in lines {
                        let line = ctl.printer.dim(&format!("  {line}"));
                        ctl.printer.line(line)?;
                    }
                }
                told = true;
            }
        }
    };
    let response = response.map_err(|error| anyhow::Error::new(error).context(what.to_owned()))?;
    let (status, text) = (response.status.as_u16(), response.text());
    if status >= 400 {
        let unknown = status == 503 && text.contains("status unknown");
        let outcome = if unknown { "result unknown" } else { "failed" };
        return Err(failed(format!("{what} {outcome}, details: {status}, {text}")));
    }
    ctl.printer.line(format_args!("{} {text}", timestamp()))?;
    let cluster = ctl.read().await?;
    Ok(ctl.printer.raw(list::render(&cluster, Format::Pretty, false))?)
}
