//! Commands that speak with single members and are done: reload, version.

use http::{Method, StatusCode};
use pgherd_api::MemberInfo;
use pgherd_api::rest::{PatroniStatus, paths};

use super::choose::{Choice, choose, confirm_members};
use super::{ANSWER, Ctl, answer_words, url_of};
use crate::args::{PlaceArgs, ReloadArgs, VersionArgs};
use crate::output::{Failure, Outcome, Printer};

pub(super) async fn reload(place: &PlaceArgs, args: &ReloadArgs) -> Outcome {
    let (mut ctl, cluster, words) = Ctl::open_members(place, &args.members.words).await?;
    let choice = Choice { names: &words, role: args.role, force: args.force, action: "reload" };
    let members = choose(&mut ctl, &cluster, &choice)?;
    confirm_members(&members, args.force, "reload")?;
    let loop_wait = cluster.config().and_then(|config| config.json.get("loop_wait")?.as_u64());
    let seconds = loop_wait.unwrap_or(10);
    let mut bad = Vec::new();
    for member in &members {
        let name = &member.name;
        match ctl.tell(member, Method::POST, paths::RELOAD, None, ANSWER).await {
            Ok(response) if response.status == StatusCode::ACCEPTED => {
                ctl.printer.line(format_args!(
                    "Reload request received for member {name} and will be processed within \
                     {seconds} seconds"
                ))?;
            }
            Ok(response) if response.status == StatusCode::OK => {
                ctl.printer.line(format_args!("No changes to apply on member {name}"))?;
            }
            Ok(response) => bad.push(answer_words("reload", member, &response)),
            Err(error) => bad.push(format!("Failed: reload for member {name}: {error:#}")),
        }
    }
    all_or(&mut ctl.printer, &bad)
}

/// Success when nothing went badly; else what did, in the lines that patronictl has for it.
pub(super) fn all_or(printer: &mut Printer, bad: &[String]) -> Outcome {
    if bad.is_empty() {
        return Ok(());
    }
    printer.line(bad.join("\n"))?;
    Err(Failure::Told)
}

pub(super) async fn version(place: &PlaceArgs, args: &VersionArgs) -> Outcome {
    let mut printer = Printer::new();
    printer.line(format_args!("pgherd ctl version {}", env!("CARGO_PKG_VERSION")))?;
    let asked = !args.members.words.is_empty();
    let (mut ctl, cluster, words) = match Ctl::open_members(place, &args.members.words).await {
        Ok(opened) => opened,
        // Nobody asked about a cluster, and there is none.
        Err(_) if !asked => return Ok(()),
        Err(failure) => return Err(failure),
    };
    ctl.printer.line("")?;
    let wanted =
        |m: &&MemberInfo| words.is_empty() || words.iter().any(|name| name == m.name.as_str());
    let mut bad = Vec::new();
    for member in cluster.members().values().filter(wanted) {
        let url = url_of(member, paths::PATRONI)?;
        match ctl.rest.get::<PatroniStatus>(&url).await {
            Ok(status) => {
                let server = status.server_version.map(server_version);
                let server = server.map(|v| format!(" PostgreSQL {v}")).unwrap_or_default();
                // Only ours know terms.
                let kind = if status.term.is_some() { "pgherd, as Patroni" } else { "Patroni" };
                let version = &status.patroni.version;
                ctl.printer.line(format_args!("{}: {kind} {version}{server}", member.name))?;
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                bad.push(format!("{}: failed to get version: {error:#}", member.name));
            }
        }
    }
    let unknown = |name: &&String| super::member(&cluster, name).is_none();
    let scope = ctl.keys.scope().to_owned();
    bad.extend(
        words.iter().filter(unknown).map(|n| format!("{n} is not a member of cluster {scope}")),
    );
    all_or(&mut ctl.printer, &bad)
}

/// 150018 is 15.18, and 90624 is 9.6.24.
fn server_version(number: u32) -> String {
    let (major, rest) = (number / 10_000, number % 10_000);
    if major >= 10 {
        return format!("{major}.{rest}");
    }
    format!("{major}.{}.{}", rest / 100, rest % 100)
}
