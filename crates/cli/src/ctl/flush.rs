//! `flush`: takes back what is planned (contract 2.4, 5.2).

use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::Cluster;
use pgherd_api::rest::paths;
use pgherd_core::cluster::Key;
use pgherd_store::{Compare, Op, Txn};

use super::choose::{Choice, choose, confirm_members};
use super::{ANSWER, Ctl, answer_words, failed, leader_first, timestamp};
use crate::args::{FlushArgs, PlaceArgs};
use crate::output::{Failure, Outcome};

const WRITE_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn flush(place: &PlaceArgs, args: &FlushArgs) -> Outcome {
    let (target, words) = args.words.split_last().map_or(("", &[][..]), |(t, w)| (t.as_str(), w));
    match target {
        "restart" => restarts(place, words, args).await,
        "switchover" => {
            let (ctl, cluster, _) = Ctl::open_members(place, words).await?;
            switchover(ctl, &cluster).await
        }
        other => {
            let words =
                format!("expected 'restart' or 'switchover' as the last word, found '{other}'");
            Err(Failure::refused("flush", words))
        }
    }
}

async fn restarts(place: &PlaceArgs, words: &[String], args: &FlushArgs) -> Outcome {
    let (mut ctl, cluster, words) = Ctl::open_members(place, words).await?;
    let choice = Choice { names: &words, role: args.role, force: args.force, action: "flush" };
    let members = choose(&mut ctl, &cluster, &choice)?;
    let planned: Vec<_> =
        members.iter().filter(|m| m.scheduled_restart.is_some()).cloned().collect();
    if !planned.is_empty() {
        confirm_members(&planned, args.force, "flush the scheduled restart of")?;
    }
    let mut bad = Vec::new();
    for member in &members {
        if member.scheduled_restart.is_none() {
            ctl.printer.line(format_args!("No scheduled restart for member {}", member.name))?;
            continue;
        }
        let what = "flush scheduled restart";
        match ctl.tell(member, Method::DELETE, paths::RESTART, None, ANSWER).await {
            Ok(response) if response.status.as_u16() < 400 => {
                ctl.printer.line(format_args!("Success: {what} for member {}", member.name))?;
            }
            Ok(response) => bad.push(answer_words(what, member, &response)),
            Err(error) => bad.push(format!("Failed: {what} for member {}: {error:#}", member.name)),
        }
    }
    super::members::all_or(&mut ctl.printer, &bad)
}

async fn switchover(mut ctl: Ctl, cluster: &Cluster) -> Outcome {
    if cluster.schedule().is_none() {
        return Ok(ctl.printer.line("No pending scheduled switchover")?);
    }
    for member in leader_first(cluster) {
        let path = paths::SWITCHOVER;
        let Ok(response) = ctl.tell(member, Method::DELETE, path, None, ANSWER).await else {
            continue;
        };
        let text = response.text();
        match response.status {
            StatusCode::OK => return Ok(ctl.printer.line(format_args!("Success: {text}"))?),
            StatusCode::NOT_FOUND => return Err(failed(format!("Failed: {text}"))),
            _ => {
                let code = response.status.as_u16();
                let name = &member.name;
                let words = format!("Failed: member={name}, status_code={code}, ({text})");
                ctl.printer.error(words)?;
            }
        }
    }
    let scope = ctl.keys.scope().to_owned();
    let words = format!("Could not find any accessible member of cluster {scope}");
    ctl.printer.line(format_args!("{} {words}, the store is told", timestamp()))?;
    let key = ctl.keys.path(&Key::Failover);
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), cluster.failover_modified().0)],
        then: vec![Op::put(key, "{}")],
        otherwise: Vec::new(),
    };
    let reply = ctl.store("this")?.txn(txn, WRITE_LIMIT).await.map_err(anyhow::Error::from)?;
    if !reply.succeeded {
        return Err(failed("the planned switchover was changed meanwhile; look again"));
    }
    Ok(ctl.printer.line("Success: scheduled switchover deleted")?)
}
