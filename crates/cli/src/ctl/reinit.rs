//! `reinit`: a new copy of the leader's data for replicas, and how far it is (contract 2.4, 5.2).

use std::io::IsTerminal;
use std::time::Duration;

use http::Method;
use pgherd_api::rest::{PatroniStatus, paths};
use pgherd_api::{MemberInfo, Response};
use serde_json::json;

use super::choose::{Choice, choose, confirm_members};
use super::watch::{LOOK_EVERY, Watch};
use super::{ANSWER, Ctl, answer_words, url_of};
use crate::args::{PlaceArgs, ReinitArgs};
use crate::output::{Failure, Outcome, confirm};

/// An agent that doesn't answer for so long while it copies counts as gone.
const SILENCE: Duration = Duration::from_secs(60);
/// A copy that nobody saw begin has ended: it was quick.
const BEGIN: Duration = Duration::from_secs(10);

pub(super) async fn reinit(place: &PlaceArgs, args: &ReinitArgs) -> Outcome {
    let (mut ctl, cluster, words) = Ctl::open_members(place, &args.members.words).await?;
    if words.is_empty() && args.force {
        let words = "name the members that are to get a new copy";
        return Err(Failure::refused("MEMBER", words));
    }
    let choice = Choice { names: &words, role: None, force: args.force, action: "reinitialize" };
    let members = choose(&mut ctl, &cluster, &choice)?;
    confirm_members(&members, args.force, "reinitialize")?;
    let mut watch = Watch::new(&cluster);
    let (mut started, mut bad) = (Vec::new(), Vec::new());
    for member in members {
        let response = ask_for(&ctl, &member, args).await?;
        if response.status.as_u16() < 400 {
            ctl.printer.line(format_args!("Success: reinitialize for member {}", member.name))?;
            started.push(member);
        } else {
            bad.push(answer_words("reinitialize", &member, &response));
        }
    }
    if args.wait && !started.is_empty() {
        wait(&mut ctl, &mut watch, started, &mut bad).await?;
    }
    super::members::all_or(&mut ctl.printer, &bad)
}

/// Asks, and when something else is going on, whether that is to be broken off.
async fn ask_for(ctl: &Ctl, member: &MemberInfo, args: &ReinitArgs) -> Outcome<Response> {
    let mut force = args.force;
    loop {
        let body = json!({ "force": force, "from_leader": args.from_leader });
        let path = paths::REINITIALIZE;
        let response = ctl.tell(member, Method::POST, path, Some(&body), ANSWER).await?;
        let busy =
            response.status.as_u16() >= 400 && response.text().ends_with(" already in progress");
        if !busy || force || !std::io::stdin().is_terminal() {
            return Ok(response);
        }
        confirm("Do you want to cancel it and reinitialize anyway?")?;
        force = true;
    }
}

/// A member that gets a copy.
struct Copying {
    member: MemberInfo,
    /// It was seen doing something else than running.
    begun: bool,
    heard: Duration,
}

async fn wait(
    ctl: &mut Ctl,
    watch: &mut Watch,
    members: Vec<MemberInfo>,
    bad: &mut Vec<String>,
) -> Outcome {
    let names = super::choose::names(&members);
    ctl.printer.line(format_args!("Waiting for reinitialize to complete on: {names}"))?;
    let begin = watch.elapsed();
    let copying = |member| Copying { member, begun: false, heard: begin };
    let mut left: Vec<Copying> = members.into_iter().map(copying).collect();
    while !left.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
        watch.look(ctl).await?;
        let now = watch.elapsed();
        let mut still = Vec::new();
        for mut one in left {
            watch.reasons(ctl, std::slice::from_ref(&one.member)).await?;
            let state = state(ctl, &one.member).await;
            if state.is_some() {
                one.heard = now;
            }
            let runs = state.as_deref() == Some("running");
            one.begun |= state.as_deref().is_some_and(|state| state != "running");
            let name = &one.member.name;
            if runs && (one.begun || now - begin > BEGIN) {
                ctl.printer.line(format_args!("Reinitialize is completed on: {name}"))?;
            } else if now - one.heard > SILENCE {
                let seconds = SILENCE.as_secs();
                bad.push(format!("Failed: the agent of {name} is silent for {seconds} s"));
            } else {
                still.push(one);
            }
        }
        left = still;
    }
    Ok(())
}

/// A member's state, by its own word.
async fn state(ctl: &Ctl, member: &MemberInfo) -> Option<String> {
    let url = url_of(member, paths::PATRONI).ok()?;
    let status: PatroniStatus = ctl.rest.get(&url).await.ok()?;
    Some(status.state)
}
