//! What a cluster's life looks like as lines: who became what, and when.
//! Pure apart from its memory; leaves printing to `supervise`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pgherd_api::{Cluster, MemberInfo};
use pgherd_core::cluster::{Accession, MemberRole, MemberState, ReignEnd};
use pgherd_core::{NodeName, Revision, Term};

/// What was last seen, so that only changes are told.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Keys that were written no later than this are an earlier life's, and say nothing of now.
    since: Revision,
    labels: BTreeMap<NodeName, String>,
    reign: Option<(NodeName, Term)>,
    serving: Option<Term>,
    paused: bool,
}

impl Progress {
    /// Tells only what is written after that revision.
    pub(crate) fn since(since: Revision) -> Self {
        Self { since, ..Self::default() }
    }

    /// The lines that a new view is worth.
    pub(crate) fn take(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        self.members(cluster, &mut lines);
        self.reign(cluster, &mut lines);
        let paused = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
        if paused != self.paused {
            self.paused = paused;
            let words = if paused { "management is paused" } else { "management goes on" };
            lines.push(words.to_owned());
        }
        lines
    }

    /// The members' lines alone, of a cluster whose terms aren't known.
    pub(crate) fn take_members(&mut self, cluster: &Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        self.members(cluster, &mut lines);
        lines
    }

    fn members(&mut self, cluster: &Cluster, lines: &mut Vec<String>) {
        for (name, info) in current_members(cluster, self.since) {
            let label = label(info);
            if self.labels.get(name) != Some(&label) {
                lines.push(format!("{name}: {label}"));
                self.labels.insert(name.clone(), label);
            }
        }
        let members = cluster.members();
        self.labels.retain(|name, _| {
            let here = members.contains_key(name);
            if !here {
                lines.push(format!("{name}: its agent is gone"));
            }
            here
        });
    }

    fn reign(&mut self, cluster: &Cluster, lines: &mut Vec<String>) {
        let view = cluster.view();
        let written = |keyed: Revision| keyed > self.since;
        let lives = view.current_beat().is_some_and(|beat| written(beat.modified));
        let leader = view.leader.as_ref().filter(|leader| lives || written(leader.modified));
        let reign = leader.map(|l| l.value.clone()).zip(view.current_term());
        if reign != self.reign {
            match (&self.reign, &reign) {
                (Some((old, _)), None) => {
                    let why = view.reign_end().map_or_else(
                        || "its leader key expired".to_owned(),
                        |end| reign_end(old, end),
                    );
                    lines.push(format!("{old} leads no longer: {why}"));
                }
                (before, Some((leader, term))) => {
                    let by = view.term.as_ref().map(|key| key.value.by);
                    let before = before.as_ref().map(|(name, _)| name).filter(|n| *n != leader);
                    lines.push(accession(leader, *term, by, before));
                }
                (None, None) => {}
            }
            self.reign = reign;
        }
        let beat = view.current_beat();
        let serving = beat.filter(|b| b.modified > self.since);
        let serving = serving.filter(|b| b.value.serving && b.value.ended.is_none());
        let serving = serving.and_then(|_| view.current_term());
        if serving.is_some() && serving != self.serving {
            let name = view.leader.as_ref().map(|l| l.value.to_string()).unwrap_or_default();
            lines.push(format!("{name} takes writes"));
        }
        self.serving = serving;
    }

    /// How many members stream from the leader, or lead.
    pub(super) fn in_place(&self, cluster: &Cluster) -> usize {
        let leader = self.leader();
        let streams = |m: &MemberInfo| m.replication_state.as_deref() == Some("streaming");
        let members = current_members(cluster, self.since);
        members.filter(|(name, info)| leader == Some(name) || streams(info)).count()
    }

    /// Somebody leads and lets clients in.
    pub(crate) fn serving(&self) -> bool {
        self.serving.is_some()
    }

    /// Management is paused.
    pub(super) fn paused(&self) -> bool {
        self.paused
    }

    /// Who leads.
    pub(crate) fn leader(&self) -> Option<&NodeName> {
        self.reign.as_ref().map(|(name, _)| name)
    }
}

/// In synchronous modes: whether the voters are known, so that commits wait for one of them.
pub(super) fn has_voters(cluster: &Cluster) -> bool {
    let view = cluster.view();
    let synchronous = view.config.as_ref().is_some_and(|config| config.value.synchronous());
    !synchronous || view.sync.as_ref().is_some_and(|sync| sync.value.names_voters())
}

fn current_members(
    cluster: &Cluster,
    since: Revision,
) -> impl Iterator<Item = (&NodeName, &MemberInfo)> {
    let view = cluster.view();
    let written = move |name: &NodeName| view.members.get(name).map(|key| key.modified);
    cluster.members().iter().filter(move |(name, _)| written(name) > Some(since))
}

fn label(info: &MemberInfo) -> String {
    let role = pgherd_api::words::parse_role(&info.role);
    let streaming = info.replication_state.as_deref() == Some("streaming");
    match (pgherd_api::words::parse_state(&info.state), role) {
        (MemberState::Running, MemberRole::Primary) => "primary".to_owned(),
        (MemberState::Running, _) if streaming => "replica, streaming".to_owned(),
        (MemberState::Running, _) => "replica, not streaming".to_owned(),
        (MemberState::Initializing, _) => "making the first data directory".to_owned(),
        (MemberState::CreatingReplica, _) => "copying the primary".to_owned(),
        (MemberState::Starting, _) => "starting".to_owned(),
        (MemberState::Stopping, _) => "stopping".to_owned(),
        (MemberState::Stopped, MemberRole::Uninitialized) => "no data yet".to_owned(),
        (MemberState::Stopped, _) => "stopped".to_owned(),
        (MemberState::Crashed, _) => "crashed".to_owned(),
        (MemberState::Other, _) if info.state == "unknown" => "its agent looks at it".to_owned(),
        (MemberState::Other, _) => info.state.clone(),
    }
}

fn reign_end(old: &NodeName, end: &ReignEnd) -> String {
    match end {
        ReignEnd::Died => format!("PostgreSQL died on {old}"),
        ReignEnd::Stopped { .. } => format!("PostgreSQL was stopped on {old}"),
        ReignEnd::HandedOver { to, .. } => format!("it hands over to {to}"),
    }
}

fn accession(
    leader: &NodeName,
    term: Term,
    by: Option<Accession>,
    before: Option<&NodeName>,
) -> String {
    let after = before.map(|name| format!(" after {name}")).unwrap_or_default();
    let how = match by {
        Some(Accession::Founding) => "as the first",
        Some(Accession::HandOver) => "by hand-over",
        Some(Accession::Pledges) => "elected by the voters",
        Some(Accession::Silence) => "because the leader fell silent",
        Some(Accession::Return) => "again, with everything it had",
        Some(Accession::Operator) => "by an operator's word",
        None => "as an agent of Patroni's",
    };
    format!("{leader} leads{after}, {how} (term {term})")
}
