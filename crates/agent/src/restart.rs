//! Restarts on request: on which conditions, and when. Pure values; the core restarts, the event
//! loop watches the clock. A restart that is due later lives in this agent's memory, as in Patroni,
//! and is shown in the member key (contract 1.3, 2.4, 4.15).

use pgherd_core::postgres::{PgRole, PgState, RunningFacts};
use serde_json::{Map, Value};

use crate::postgres::Observation;
use crate::schedule::{Moment, moment};

/// What must hold for a restart to happen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Conditions {
    /// PostgreSQL has this role.
    pub(crate) role: Option<Role>,
    /// PostgreSQL is older than this: 150018.
    pub(crate) older_than: Option<u32>,
    /// A parameter waits for a restart.
    pub(crate) pending: bool,
}

/// A role, in the words of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Primary,
    StandbyLeader,
    Replica,
}

/// A restart that is due later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Planned {
    /// When, in unix seconds.
    pub(crate) at: i64,
    pub(crate) conditions: Conditions,
    /// When the postmaster had started, in unix seconds: another one needs no restart any more.
    pub(crate) started: Option<i64>,
    /// As the member key shows it: `schedule`, `postmaster_start_time`, and the filters.
    pub(crate) shown: Map<String, Value>,
}

/// What is to be done about a planned restart now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Nothing yet.
    Later,
    /// Its moment has come, and its conditions hold.
    Now,
    /// It is dropped.
    Never(&'static str),
}

/// What conditions are compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a> {
    pub(crate) observed: Option<&'a Observation>,
    /// This node holds the leader key.
    pub(crate) leads: bool,
    pub(crate) server_version: u32,
    pub(crate) pending: bool,
}

impl Conditions {
    pub(crate) fn hold(&self, here: Here<'_>) -> bool {
        self.role.is_none_or(|role| here.role() == Some(role))
            && self.older_than.is_none_or(|version| here.server_version < version)
            && (!self.pending || here.pending)
    }
}

impl Here<'_> {
    fn role(&self) -> Option<Role> {
        match &self.observed?.facts.state {
            PgState::Running(RunningFacts { role: PgRole::Primary(_), .. }) => Some(Role::Primary),
            PgState::Running(_) if self.leads => Some(Role::StandbyLeader),
            PgState::Running(_) => Some(Role::Replica),
            PgState::Absent
            | PgState::Broken(_)
            | PgState::Stopped(_)
            | PgState::NotAccepting(_)
            | PgState::Unresponsive { .. } => None,
        }
    }
}

impl Planned {
    /// Whether it is time, at this moment of the wall clock.
    pub(crate) fn due(&self, here: Here<'_>, now: i64, patience: i64) -> Due {
        let started = here.observed.and_then(|observed| observed.started);
        if self.started.is_some() && started.is_some() && self.started != started {
            return Due::Never("PostgreSQL was restarted meanwhile");
        }
        match moment(self.at, now, patience) {
            Moment::Later => Due::Later,
            Moment::Missed => Due::Never("its moment was missed"),
            Moment::Now if self.conditions.hold(here) => Due::Now,
            Moment::Now => Due::Never("its conditions are not satisfied"),
        }
    }

    /// As the status shows it: without the postmaster's start.
    pub(crate) fn for_status(&self) -> Map<String, Value> {
        let mut shown = self.shown.clone();
        shown.shift_remove("postmaster_start_time");
        shown
    }
}

/// `9.6.3` or `15.18` as PostgreSQL's own number, or what is wrong with it, in Patroni's words.
pub(crate) fn version(text: &str) -> Result<u32, String> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    let parts = parts.map_err(|_| format!("Invalid PostgreSQL version: {text}"))?;
    let number = |a: u32, b: u32, c: u32| {
        let number = a.checked_mul(10_000)?.checked_add(b.checked_mul(100)?)?;
        number.checked_add(c)
    };
    let number = match parts.as_slice() {
        [major, minor] if *major >= 10 => number(*major, 0, *minor),
        [major, middle, minor] => number(*major, *middle, *minor),
        _ => None,
    };
    number.ok_or_else(|| {
        format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_core::postgres::{PgFacts, ReplicaFacts};
    use pgherd_core::{Instance, Lsn, SystemId, Time, Timeline};

    use super::*;

    fn replica(started: i64) -> Observation {
        let role = PgRole::Replica(ReplicaFacts {
            received: Lsn(1),
            replayed: Lsn(1),
            streaming: true,
            upstream: None,
            at_end: false,
        });
        let running = RunningFacts {
            system_id: SystemId(1),
            instance: Instance(1),
            timeline: Timeline(1),
            role,
        };
        Observation {
            facts: PgFacts { at: Time(0), state: PgState::Running(running) },
            started: Some(started),
            copied: None,
            shown: pgherd_postgres::Shown::default(),
        }
    }

    #[test]
    fn versions_are_patronis() {
        assert_eq!(version("15.18"), Ok(150_018));
        assert_eq!(version("9.6.3"), Ok(90_603));
        assert_eq!(version("x"), Err("Invalid PostgreSQL version: x".to_owned()));
        for bad in ["15", "9.6", "1.2.3.4", "4294967295.1"] {
            let words =
                format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {bad}");
            assert_eq!(version(bad), Err(words));
        }
    }

    #[test]
    fn conditions_and_the_moment_decide() {
        let observed = replica(7);
        let here = Here {
            observed: Some(&observed),
            leads: false,
            server_version: 150_018,
            pending: false,
        };
        let plan = |conditions: Conditions| Planned {
            at: 1_000,
            conditions,
            started: Some(7),
            shown: Map::new(),
        };
        let any = plan(Conditions::default());
        assert_eq!(any.due(here, 999, 15), Due::Later);
        assert_eq!(any.due(here, 1_000, 15), Due::Now);
        assert!(matches!(any.due(here, 1_016, 15), Due::Never(_)));
        let later = replica(8);
        let restarted = Here { observed: Some(&later), ..here };
        assert_eq!(any.due(restarted, 0, 15), Due::Never("PostgreSQL was restarted meanwhile"));
        let unmet = [
            Conditions { role: Some(Role::Primary), ..Conditions::default() },
            Conditions { older_than: Some(150_018), ..Conditions::default() },
            Conditions { pending: true, ..Conditions::default() },
        ];
        for conditions in unmet {
            let due = plan(conditions).due(here, 1_000, 15);
            assert_eq!(due, Due::Never("its conditions are not satisfied"));
        }
        let met =
            Conditions { role: Some(Role::Replica), older_than: Some(150_019), pending: true };
        assert_eq!(plan(met).due(Here { pending: true, ..here }, 1_000, 15), Due::Now);
    }
}
