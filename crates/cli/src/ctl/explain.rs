//! `ctl explain`: what each agent does now and why, what it decided before, what it knows.
//! Leaves every reason's sentence to the core.

use std::fmt::Write as _;

use pgherd_api::rest::{DecisionBody, ExplainBody, LostBody, PeerBody, PostgresBody, paths};

use super::{Ctl, url_of};
use crate::args::{ExplainArgs, Format};
use crate::output::{Failure, Outcome, Printer};

/// So many former decisions are shown.
const RECENT: usize = 12;
/// So many calls.
const CALLS: usize = 5;

pub(super) async fn explain(mut ctl: Ctl, args: &ExplainArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let wanted = |name: &str| args.member.as_deref().is_none_or(|member| member == name);
    let members: Vec<_> = cluster.members().values().filter(|m| wanted(m.name.as_str())).collect();
    if members.is_empty() {
        let name = args.member.as_deref().unwrap_or_default();
        let words = format!("there is no member '{name}' in cluster {}", ctl.keys.scope());
        return Err(Failure::refused("MEMBER", words));
    }
    let mut silent = 0;
    let mut bodies = Vec::new();
    for member in members {
        let url = url_of(member, paths::EXPLAIN)?;
        match ctl.rest.get::<ExplainBody>(&url).await {
            Ok(body) => bodies.push(body),
            Err(error) => {
                silent += 1;
                let error = anyhow::Error::from(error);
                ctl.printer
                    .error(format_args!("{}: its agent does not answer: {error:#}", member.name))?;
            }
        }
    }
    let text = match args.format {
        Format::Pretty => bodies.iter().map(|body| describe(&ctl.printer, body)).collect(),
        Format::Json | Format::Tsv => pgherd_api::json::spaced(&bodies).unwrap_or_default() + "\n",
        Format::Yaml => {
            let bodies = serde_json::to_value(&bodies).map_err(anyhow::Error::from)?;
            crate::yaml_text::block(&bodies)
        }
    };
    ctl.printer.raw(text)?;
    if silent > 0 {
        let words = format!("{silent} of {} agents did not answer", silent + bodies.len());
        return Err(Failure::Failed(anyhow::anyhow!(words)));
    }
    Ok(())
}

/// One node in a few lines.
fn describe(printer: &Printer, body: &ExplainBody) -> String {
    let mut text = String::new();
    let term = body.term.map(|term| format!(", term {term}")).unwrap_or_default();
    let now = &body.current;
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "{}  {}: {}  {}",
        printer.bold(body.name.as_str()),
        now.situation,
        now.text,
        printer.dim(&format!("(since {}{term})", clock(&now.at)))
    );
    let _ = writeln!(text, "  PostgreSQL  {}", postgres(&body.postgres));
    if let Some(failure) = &body.postgres.last_failure {
        let _ = writeln!(text, "              last failure: {failure}");
    }
    if let Some(ailment) = body.postgres.ailment {
        let _ = writeln!(text, "  health      {ailment}");
    }
    if body.postgres.room_for_clients == Some(0) {
        let _ = writeln!(text, "  clients     all connection slots are taken");
    }
    if let Some(left) = body.belief_ms {
        let _ = writeln!(text, "  belief      {left} ms left before it must stop writing");
    }
    let age = body.store_age_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let _ = writeln!(text, "  store       heard {age}, revision {}", body.revision);
    for peer in &body.peers {
        let _ = writeln!(text, "  {:<10}  {}", peer.name, describe_peer(peer));
    }
    for asked in body.asked.iter().take(CALLS) {
        let _ = writeln!(text, "  asked       {}  {} by {asked}", clock(&asked.at), asked.call);
    }
    text.push_str(&describe_waits(body));
    for lost in &body.lost {
        let _ = writeln!(text, "  lost        {}", describe_lost(lost));
    }
    if !body.recent.is_empty() {
        let _ = writeln!(text, "  before");
    }
    // The latest stand first.
    for decision in body.recent.iter().take(RECENT) {
        let _ = writeln!(text, "    {}", describe_decision(decision));
    }
    text + "\n"
}

fn postgres(pg: &PostgresBody) -> String {
    let mut parts = vec![pg.state.clone()];
    parts.extend(pg.timeline.map(|timeline| format!("timeline {timeline}")));
    parts.extend(pg.lsn_text.clone());
    if let Some(upstream) = &pg.upstream {
        let how = if pg.streaming { "streams from" } else { "wants to stream from" };
        parts.push(format!("{how} {upstream}"));
    }
    let names = |names: &[pgherd_core::NodeName]| {
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if !pg.replicas.is_empty() {
        parts.push(format!("streams to {}", names(&pg.replicas)));
    }
    if let Some(count) = pg.waits_for_count.filter(|_| !pg.waits_for.is_empty()) {
        parts.push(format!("commits wait for {count} of {}", names(&pg.waits_for)));
    }
    let copied = pg.copied_bytes.zip(pg.total_bytes);
    let copied = copied.map(|(done, total)| format!(" ({} of {} MB)", done >> 20, total >> 20));
    let copied = copied.unwrap_or_default();
    parts.extend(pg.operation.as_ref().map(|operation| format!("doing: {operation}{copied}")));
    parts.join(", ")
}

/// Commits that nobody acknowledged and somebody may have seen.
fn describe_waits(body: &ExplainBody) -> String {
    let mut text = String::new();
    if body.cancelled_waits > 0 {
        let end = body.unreplicated.as_ref();
        let rest = end.map_or_else(
            || "all is replicated by now".to_owned(),
            |end| format!("commits up to {end} are visible here and on too few others"),
        );
        let _ = writeln!(text, "  waits       {} cancelled; {rest}", body.cancelled_waits);
    }
    if let Some(end) = &body.without {
        let _ = writeln!(
            text,
            "  without     commits up to {end} that the leader before showed, their wait cancelled"
        );
    }
    text
}

/// Commits that a rewind took back.
fn describe_lost(lost: &LostBody) -> String {
    let commits = lost.commits.map_or_else(|| "uncounted".to_owned(), |n| n.to_string());
    let LostBody { timeline, from, to, path, .. } = lost;
    let part = if lost.left_out > 0 { ", in part" } else { "" };
    format!("{commits} commits of timeline {timeline}, {from} to {to}; kept in {path}{part}")
}

fn describe_peer(peer: &PeerBody) -> String {
    let heard = match (peer.connected, peer.heard_ms) {
        (true, Some(ms)) => format!("heard {ms} ms ago"),
        (false, Some(ms)) => format!("not connected, heard {ms} ms ago"),
        (_, None) => "never heard".to_owned(),
    };
    let leads = peer.leads.map(|term| format!(", leads under term {term}")).unwrap_or_default();
    let hears = if peer.hears_leader { ", hears the leader" } else { "" };
    let at = peer.lsn.map(|lsn| format!(" at {lsn}")).unwrap_or_default();
    let ill = peer.ailment.map(|ailment| format!(", {ailment}")).unwrap_or_default();
    format!("{heard}: PostgreSQL {}{at}{leads}{hears}{ill}", peer.postgres)
}

fn describe_decision(decision: &DecisionBody) -> String {
    let term = decision.term.map(|term| format!(" (term {term})")).unwrap_or_default();
    format!(
        "{}  {:<10}  {}{term}",
        clock(&decision.at),
        decision.situation.to_string(),
        decision.text
    )
}

/// The time of day of an ISO timestamp, on this machine's clock.
fn clock(at: &str) -> String {
    at.parse::<jiff::Timestamp>().map_or_else(
        |_| at.to_owned(),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
    )
}
