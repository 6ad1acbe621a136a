//! `restart`: now or later, of whom and under which conditions (contract 2.4, 5.2).
//! Leaves the conditions' meaning to the agents.

use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::rest::paths;
use pgherd_api::{Cluster, MemberInfo};
use serde_json::{Map, Value};

use super::choose::{Choice, choose, confirm_members, names};
use super::watch::{Watch, why};
use super::{ANSWER, Ctl, answer_words, failed, paused, when};
use crate::args::{PlaceArgs, RestartArgs};
use crate::output::{Failure, Outcome, ask, ask_or, confirm};
use crate::settings::parse;

/// Beyond what the agent itself may take: Patroni's default for a start is 300 s.
const GRACE: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(300);

pub(super) async fn restart(place: &PlaceArgs, args: &RestartArgs) -> Outcome {
    let timeout = timeout(args)?;
    if let Some(version) = &args.pg_version {
        check_version(version)?;
    }
    when::scheduled(args.scheduled.as_deref())?;
    let (mut ctl, cluster, words) = Ctl::open_members(place, &args.members.words).await?;
    let choice = Choice { names: &words, role: args.role, force: args.force, action: "restart" };
    let mut members = choose(&mut ctl, &cluster, &choice)?;
    let at = scheduled(args)?;
    if at.is_none() && args.pending {
        members.retain(|m| m.pending_restart);
        if members.is_empty() {
            return Ok(ctl.printer.line("No member has a setting that waits for a restart")?);
        }
    }
    if args.any {
        members = one_of(members)?;
    }
    confirm_restart(&members, args, at.as_deref())?;
    let version = version(args)?;
    if at.is_some() && paused(&cluster) {
        return Err(failed("Can't schedule restart in the paused state"));
    }
    let body = body(args, at, version);
    carry_out(&mut ctl, &cluster, &members, &body, args.force, timeout).await
}

/// What each agent is told.
fn body(args: &RestartArgs, at: Option<String>, version: Option<String>) -> Map<String, Value> {
    let mut body = Map::new();
    if args.pending {
        body.insert("restart_pending".to_owned(), Value::Bool(true));
    }
    let texts =
        [("schedule", at), ("postgres_version", version), ("timeout", args.timeout.clone())];
    for (key, text) in texts {
        if let Some(text) = text {
            body.insert(key.to_owned(), Value::from(text));
        }
    }
    body
}

async fn carry_out(
    ctl: &mut Ctl,
    cluster: &Cluster,
    members: &[MemberInfo],
    body: &Map<String, Value>,
    force: bool,
    timeout: Duration,
) -> Outcome {
    let later = body.contains_key("schedule");
    let json = Value::Object(body.clone());
    let mut bad = Vec::new();
    for member in members {
        if later && force && member.scheduled_restart.is_some() {
            let path = paths::RESTART;
            let gone = ctl.tell(member, Method::DELETE, path, None, ANSWER).await?;
            if gone.status.as_u16() >= 400 {
                bad.push(answer_words("flush scheduled restart", member, &gone));
                continue;
            }
        }
        let mut watch = Watch::new(cluster);
        let concerned = std::slice::from_ref(member);
        watch.know_reasons(ctl, concerned).await;
        let url = super::url_of(member, paths::RESTART)?;
        let rest = ctl.rest.clone().with_timeout(timeout + GRACE);
        let call = rest.request(Method::POST, &url, Some(&json));
        let name = &member.name;
        let words = match watch.during(ctl, concerned, call).await? {
            Ok(response) => match response.status {
                StatusCode::OK => Ok(format!("Success: restart on member {name}")),
                StatusCode::ACCEPTED => Ok(format!("Success: restart scheduled on member {name}")),
                StatusCode::CONFLICT => Err(format!(
                    "Failed: another restart is already scheduled on member {name} ('flush restart' \
                     takes it back, and so does --force)"
                )),
                _ => Err(answer_words("restart", member, &response)),
            },
            Err(error) => {
                Err(format!("Failed: restart for member {name}: {:#}", anyhow::Error::from(error)))
            }
        };
        match words {
            Ok(words) => ctl.printer.line(words)?,
            Err(words) => {
                let reason = why(ctl, member).await.map(|why| format!("; {name} says: {why}"));
                bad.push(words + &reason.unwrap_or_default());
            }
        }
    }
    super::members::all_or(&mut ctl.printer, &bad)
}

fn scheduled(args: &RestartArgs) -> Outcome<Option<String>> {
    if args.scheduled.is_some() || args.force {
        return when::scheduled(args.scheduled.as_deref());
    }
    let question = format!("When should the restart take place (e.g. {}) ", when::next_hour());
    when::scheduled(Some(&ask_or(&question, "now", "say --scheduled TIME, or --force")?))
}

fn confirm_restart(members: &[MemberInfo], args: &RestartArgs, at: Option<&str>) -> Outcome {
    match at {
        None => confirm_members(members, args.force, "restart"),
        Some(_) if args.force => Ok(()),
        Some(_) if args.pending => confirm(
            "The nodes needing a restart will be identified at the scheduled time, and might be \
             different from the ones showing pending restart right now. Is this fine?",
        ),
        Some(at) => confirm(&format!(
            "Are you sure you want to schedule restart of members {} at {at}?",
            names(members)
        )),
    }
}

fn version(args: &RestartArgs) -> Outcome<Option<String>> {
    if args.pg_version.is_some() || args.force {
        return Ok(args.pg_version.clone());
    }
    let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)  []";
    let answer = ask(question, "say --pg-version VERSION, or --force")?;
    if answer.is_empty() {
        return Ok(None);
    }
    check_version(&answer)?;
    Ok(Some(answer))
}

fn check_version(text: &str) -> Outcome {
    let parts: Vec<&str> = text.split('.').collect();
    let numbers = parts.iter().all(|part| part.len() <= 2 && part.parse::<u8>().is_ok());
    if numbers && matches!(parts.len(), 2 | 3) {
        return Ok(());
    }
    let words = format!("expected a version like 15.18 or 9.6.24, found '{text}'");
    Err(Failure::refused("--pg-version", words))
}

fn timeout(args: &RestartArgs) -> Outcome<Duration> {
    let Some(text) = &args.timeout else { return Ok(START) };
    let span = parse::span(text).ok().filter(|span| span.0 > 0);
    let span = span.ok_or_else(|| {
        let words = format!("expected a number of seconds above 0, found '{text}'");
        Failure::refused("--timeout", words)
    })?;
    Ok(Duration::from_micros(span.0))
}

/// Whichever: by chance, so that it isn't the same one every time.
fn one_of(mut members: Vec<MemberInfo>) -> Outcome<Vec<MemberInfo>> {
    let mut chance = [0_u8; 8];
    getrandom::fill(&mut chance).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let count = members.len() as u64;
    let chosen = u64::from_le_bytes(chance).checked_rem(count).unwrap_or(0);
    Ok(vec![members.swap_remove(usize::try_from(chosen).unwrap_or(0))])
}
