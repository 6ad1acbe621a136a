//! Which members a command is about: patronictl's `CLUSTER [MEMBER]...` and its roles (contract
//! 5.1). Leaves what happens to them to the commands.

use pgherd_api::words::parse_role;
use pgherd_api::{Cluster, MemberInfo};
use pgherd_core::cluster::MemberRole;

use super::{Ctl, leader_of, list, member};
use crate::args::{Format, PlaceArgs, Role};
use crate::output::{Failure, Outcome, ask, confirm};

impl Ctl {
    /// Opens what `[CLUSTER] MEMBER...` means. The first word is the cluster when it is called so,
    /// or when nothing else says which cluster; a hand that knows patronictl writes it always.
    pub(super) async fn open_members(
        place: &PlaceArgs,
        words: &[String],
    ) -> Outcome<(Self, Cluster, Vec<String>)> {
        let Some((first, rest)) = words.split_first() else {
            let mut ctl = Self::open(place, None).await?;
            let cluster = ctl.read().await?;
            return Ok((ctl, cluster, Vec::new()));
        };
        let named = match Self::open(place, None).await {
            Ok(mut ctl) if ctl.keys.scope() != first => {
                let cluster = ctl.read().await;
                match cluster {
                    Ok(cluster) if member(&cluster, first).is_some() => {
                        return Ok((ctl, cluster, words.to_vec()));
                    }
                    Ok(_) | Err(_) => Self::open(place, Some(first)).await,
                }
            }
            Ok(ctl) => Ok(ctl),
            Err(_) => Self::open(place, Some(first)).await,
        };
        let mut ctl = named?;
        let cluster = ctl.read().await?;
        Ok((ctl, cluster, rest.to_vec()))
    }
}

/// Whether a member has a role.
pub(super) fn has_role(cluster: &Cluster, info: &MemberInfo, role: Role) -> bool {
    let leads = leader_of(cluster).map(|m| &m.name) == Some(&info.name);
    let standby_leader = info.role == "standby_leader";
    match role {
        Role::Any => true,
        Role::Leader => leads,
        Role::Primary => leads && !standby_leader && parse_role(&info.role) == MemberRole::Primary,
        Role::StandbyLeader => leads && standby_leader,
        Role::Replica | Role::Standby => !leads,
    }
}

/// What a command does with whom.
pub(super) struct Choice<'a> {
    pub(super) names: &'a [String],
    pub(super) role: Option<Role>,
    pub(super) force: bool,
    /// As in "Which member do you want to restart".
    pub(super) action: &'a str,
}

/// The members that are meant, after a look at the cluster.
pub(super) fn choose(
    ctl: &mut Ctl,
    cluster: &Cluster,
    choice: &Choice<'_>,
) -> Outcome<Vec<MemberInfo>> {
    ctl.printer.raw(list::render(cluster, Format::Pretty, false))?;
    let fits = |m: &&MemberInfo| choice.role.is_none_or(|role| has_role(cluster, m, role));
    let candidates: Vec<&MemberInfo> = cluster.members().values().filter(fits).collect();
    let listed = candidates.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
    if candidates.is_empty() {
        let scope = ctl.keys.scope();
        let words = match choice.role {
            Some(role) => format!("no member of cluster {scope} has the role {}", word(role)),
            None => format!("{scope} cluster doesn't have any members"),
        };
        return Err(super::failed(words));
    }
    let mut names = choice.names.to_vec();
    if names.is_empty() && choice.role.is_none() && !choice.force {
        let question = format!("Which member do you want to {} [{listed}]?", choice.action);
        let answer = ask(&question, "name the members, or say --role any or --force for all")?;
        names = answer.split([',', ' ']).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(Failure::refused("MEMBER", "nobody was named"));
        }
    }
    if names.is_empty() {
        return Ok(candidates.into_iter().cloned().collect());
    }
    let find = |name: &String| {
        let found = candidates.iter().find(|m| m.name.as_str() == name);
        found.map(|m| (*m).clone()).ok_or_else(|| {
            let scope = ctl.keys.scope();
            let words = match choice.role {
                Some(role) if member(cluster, name).is_some() => {
                    format!("member {name} of cluster {scope} doesn't have the role {}", word(role))
                }
                Some(_) | None => {
                    format!("{name} is not a member of cluster {scope}; it has: {listed}")
                }
            };
            Failure::refused("MEMBER", words)
        })
    };
    names.iter().map(find).collect()
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Primary => "primary",
        Role::StandbyLeader => "standby-leader",
        Role::Replica => "replica",
        Role::Standby => "standby",
        Role::Any => "any",
    }
}

/// Asks whether it is meant, unless that was said.
pub(super) fn confirm_members(members: &[MemberInfo], force: bool, action: &str) -> Outcome {
    if force {
        return Ok(());
    }
    confirm(&format!("Are you sure you want to {action} members {}?", names(members)))
}

/// `node1, node2`.
pub(super) fn names(members: &[MemberInfo]) -> String {
    members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
}
