//! Commands that speak with single members: reinit, version.

use std::time::Duration;

use http::Method;
use pgherd_api::rest::{PatroniStatus, paths};

use super::{Ctl, url_of};
use crate::args::ReinitArgs;
use crate::output::{Failure, Outcome, confirm};

/// How often a member is asked whether its copy is done.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn reinit(mut ctl: Ctl, args: &ReinitArgs) -> Outcome {
    let cluster = ctl.read().await?;
    // patronictl wants the cluster's name first; a hand that knows it may go on writing it.
    let scope = ctl.keys.scope().to_owned();
    let named = args.members.iter().enumerate();
    let members = named.filter(|(i, name)| !(*i == 0 && **name == scope)).map(|(_, name)| name);
    let mut targets = Vec::new();
    for name in members {
        let member = cluster.members().values().find(|m| m.name.as_str() == name);
        targets.push(member.ok_or_else(|| {
            Failure::refused("MEMBER", format!("there is no member '{name}' in cluster {scope}"))
        })?);
    }
    if targets.is_empty() {
        return Err(Failure::refused("MEMBER", "name the members that are to get a new copy"));
    }
    let names: Vec<&str> = targets.iter().map(|m| m.name.as_str()).collect();
    if !args.force {
        let names = names.join(", ");
        confirm(&format!("Are you sure you want to reinitialize members {names}?"))?;
    }
    let body = serde_json::json!({ "force": args.force });
    let mut refused = None;
    for member in &targets {
        let url = url_of(member, paths::REINITIALIZE)?;
        let response = ctl.rest.request(Method::POST, &url, Some(&body)).await;
        let response = response.map_err(anyhow::Error::from)?;
        if response.status.as_u16() < 400 {
            let words = format!("Success: reinitialize for member {}", member.name);
            ctl.printer.line(words)?;
        } else {
            refused = Some(format!(
                "Failed: reinitialize for member {}, status code={}, ({})",
                member.name,
                response.status.as_u16(),
                response.text()
            ));
        }
    }
    if let Some(words) = refused {
        return Err(Failure::Failed(anyhow::anyhow!(words)));
    }
    if args.wait { wait(&mut ctl, &names).await } else { Ok(()) }
}

/// A copy is done when the member streams again. It was running before, so it must first be seen
/// doing something else.
async fn wait(ctl: &mut Ctl, names: &[&str]) -> Outcome {
    let list = names.join(", ");
    ctl.printer.line(format_args!("Waiting for reinitialize to complete on: {list}"))?;
    let mut left: Vec<(&str, bool)> = names.iter().map(|name| (*name, false)).collect();
    while !left.is_empty() {
        tokio::time::sleep(ASK_EVERY / 10).await;
        let cluster = ctl.read().await?;
        let mut done = Vec::new();
        for (name, left_running) in &mut left {
            let member = cluster.members().values().find(|m| m.name.as_str() == *name);
            let running = member.is_some_and(|m| m.state == "running");
            *left_running |= !running;
            if running && *left_running {
                done.push(*name);
            }
        }
        left.retain(|(name, _)| !done.contains(name));
        for name in done {
            ctl.printer.line(format_args!("Reinitialize is completed on: {name}"))?;
        }
    }
    Ok(())
}

pub(super) async fn version(mut ctl: Ctl) -> Outcome {
    let cluster = ctl.read().await?;
    let words = format!("pgherd ctl version {}\n", env!("CARGO_PKG_VERSION"));
    ctl.printer.line(words)?;
    for member in cluster.members().values() {
        let url = url_of(member, paths::PATRONI)?;
        let line = match ctl.rest.get::<PatroniStatus>(&url).await {
            Ok(status) => {
                let server = status.server_version.map(server_version);
                let server = server.map(|v| format!(" PostgreSQL {v}")).unwrap_or_default();
                // Only ours know terms.
                let kind = if status.term.is_some() { "pgherd, as Patroni" } else { "Patroni" };
                format!("{}: {kind} {}{server}", member.name, status.patroni.version)
            }
            Err(error) => format!("{}: failed to get version: {error}", member.name),
        };
        ctl.printer.line(line)?;
    }
    Ok(())
}

/// 150018 is 15.18.
fn server_version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
