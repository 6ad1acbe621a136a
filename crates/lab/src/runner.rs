//! Runs scenarios: a site per kind of cluster, a workload per scenario, gaps per round, findings in
//! the end. A site that did well is used again by the next scenario of its kind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::check::Findings;
use crate::faults::Roles;
use crate::history::{At, History, Outcome, longest_gap};
use crate::report::{Outages, Result as Report};
use crate::say;
use crate::scenario::{Expectation, Scenario, Step, Who};
use crate::site::{Ground, Site};
use crate::workload::{Load, Workload};

/// Quiet before and after a round, so that what is measured belongs to its fault.
const QUIET: Duration = Duration::from_secs(1);
const WRITES: Duration = Duration::from_secs(60);

pub(crate) struct Runner<'a> {
    ground: &'a Ground,
    site: Option<Site<'a>>,
    /// Where logs of failed scenarios are kept.
    kept: PathBuf,
    /// Those of the others too.
    keep_all: bool,
    count: u32,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(ground: &'a Ground, kept: PathBuf, keep_all: bool) -> Self {
        Self { ground, site: None, kept, keep_all, count: 0 }
    }

    /// Runs one, so many rounds. What goes wrong is part of the report.
    pub(crate) fn run(&mut self, scenario: &Scenario, rounds: u32, load: Load) -> Report {
        say(&format!("{}: {}", scenario.name, scenario.about));
        let begin = Instant::now();
        let mut report = Report::new(scenario);
        if let Err(error) = self.attempt(scenario, rounds, load, &mut report) {
            report.failures.push(format!("{error:#}"));
        }
        report.seconds = begin.elapsed().as_secs_f64();
        if (self.keep_all || !report.failures.is_empty())
            && let Some(site) = self.site.take()
        {
            let at = self.kept.join(&scenario.name);
            if let Err(error) = site.keep_logs(&at) {
                report.failures.push(format!("its logs could not be kept: {error:#}"));
            }
            report.logs = Some(at.display().to_string());
        }
        say(&format!("  {}", report.line()));
        report
    }

    fn attempt(
        &mut self,
        scenario: &Scenario,
        rounds: u32,
        load: Load,
        report: &mut Report,
    ) -> Result<()> {
        if self.site.as_ref().is_some_and(|site| site.cluster != scenario.cluster) {
            self.site = None;
        }
        if self.site.is_none() {
            self.site = Some(Site::start(self.ground, &scenario.cluster)?);
        }
        let site = self.site.as_mut().context("it was just started")?;
        self.count += 1;
        let workload = Workload::start(site, load, self.count)?;
        for number in 1..=rounds {
            let outages = round(site, scenario, &workload);
            // The rounds before have been measured, and their history is worth checking.
            match outages {
                Ok(outages) => report.rounds.push(outages),
                Err(error) => {
                    let error = error.context(format!("round {number}"));
                    report.failures.push(format!("{error:#}"));
                    break;
                }
            }
        }
        let whole = site.heal().and_then(|()| site.wait_whole());
        if let Err(error) = whole {
            report.failures.push(format!("{error:#}"));
        }
        let (history, last) = workload.finish(site)?;
        let findings = Findings::of(&history, &last);
        report.failures.extend(findings.violations(&scenario.cluster, scenario.allow_overlap));
        report.counts = counts(&history);
        report.findings = findings;
        Ok(())
    }
}

fn counts(history: &History) -> Vec<(String, usize)> {
    let with = |outcome| history.inserts.iter().filter(|i| i.outcome == outcome).count();
    let transactions = &history.transactions;
    let committed = transactions.iter().filter(|t| t.outcome == Outcome::Acknowledged).count();
    [
        ("inserts acknowledged", with(Outcome::Acknowledged)),
        ("inserts failed", with(Outcome::Failed)),
        ("inserts of unknown outcome", with(Outcome::Unknown)),
        ("reads", history.reads.len()),
        ("direct writes acknowledged", history.direct.len()),
        ("list transactions committed", committed),
        ("sums of the bank", history.sums.len()),
        ("looks at nodes", history.shown.len()),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .to_vec()
}

/// One time through the steps.
fn round(site: &mut Site<'_>, scenario: &Scenario, workload: &Workload) -> Result<Outages> {
    wait_for_writes(workload)?;
    std::thread::sleep(QUIET);
    let mut roles = Roles::of(site)?;
    let mut from = None;
    let mut crowds = Vec::new();
    for step in &scenario.round {
        // Preparing is not part of what is measured.
        if from.is_none() && !matches!(step, Step::EtcdLeader(_)) {
            from = Some(workload.now());
        }
        let begin = from.unwrap_or_default();
        if let Step::Crowd(who) = step {
            crowds.extend(site.crowd(roles, *who)?);
            continue;
        }
        perform(site, &mut roles, step, workload, begin)
            .with_context(|| format!("{}: {step:?}", scenario.name))?;
    }
    site.end_operations()?;
    std::thread::sleep(QUIET);
    let (from, until) = (from.context("nothing happens")?, workload.now());
    Ok(workload.look(|history| Outages {
        write: longest_gap(&history.acknowledged(), from, until),
        read: longest_gap(&history.reads, from, until),
    }))
}

fn perform(
    site: &mut Site<'_>,
    roles: &mut Roles,
    step: &Step,
    workload: &Workload,
    from: At,
) -> Result<()> {
    match step {
        Step::Run(time) => std::thread::sleep(*time),
        Step::Again(times, each, step) => {
            for _ in 0..*times {
                perform(site, roles, step, workload, from)?;
                std::thread::sleep(*each);
            }
        }
        Step::Kill(who, part) => site.kill_part(*roles, *who, *part)?,
        Step::Start(who, part) => site.start_part(*roles, *who, *part)?,
        Step::Freeze(Who::Router, _) => site.router().freeze("")?,
        Step::Thaw(Who::Router, _) => site.router().thaw("")?,
        Step::Freeze(who, part) => site.freeze_part(*roles, *who, *part)?,
        Step::Thaw(who, part) => site.thaw_part(*roles, *who, *part)?,
        Step::Cut(who, link, ways) => site.cut(*roles, *who, *link, *ways)?,
        Step::Flap(who, link, times, each) => {
            for _ in 0..*times {
                site.cut(*roles, *who, *link, crate::scenario::Ways::Both)?;
                std::thread::sleep(*each);
                site.heal()?;
                std::thread::sleep(*each);
            }
        }
        Step::Heal => site.heal()?,
        Step::Fill(who) => site.fill(*roles, *who)?,
        Step::Protect(who) => site.protect(*roles, *who)?,
        Step::Repair(who) => site.repair(*roles, *who)?,
        // Whoever holds the crowd does it.
        Step::Crowd(_) => {}
        Step::Empty(who) => site.empty(*roles, *who)?,
        Step::Operate(operation) => site.operate(*roles, operation)?,
        Step::FillEtcd => site.fill_etcd()?,
        Step::EmptyEtcd => site.empty_etcd()?,
        Step::Stutter(who, part, times, frozen, running) => {
            for _ in 0..*times {
                site.freeze_part(*roles, *who, *part)?;
                std::thread::sleep(*frozen);
                site.thaw_part(*roles, *who, *part)?;
                std::thread::sleep(*running);
            }
        }
        Step::Clock(who, seconds) => site.step_clock(*roles, *who, *seconds)?,
        Step::Await(who, program) => site.await_program(*roles, *who, program)?,
        Step::Restart(who, part) => {
            site.kill_part(*roles, *who, *part)?;
            site.start_part(*roles, *who, *part)?;
        }
        Step::EtcdLeader(place) => site.place_etcd_leader(roles, *place)?,
        Step::WaitWhole => site.wait_whole()?,
        Step::WaitWrites => wait_for_writes(workload)?,
        Step::Expect(expectation) => expect(site, *roles, *expectation, workload, from)?,
    }
    Ok(())
}

/// Until one that came after now is acknowledged.
fn wait_for_writes(workload: &Workload) -> Result<()> {
    let begin = workload.now();
    let last = || workload.look(|history| history.acknowledged().last().copied());
    while last().is_none_or(|at| at <= begin) {
        ensure!(workload.now() < begin + WRITES, "no write was acknowledged within {WRITES:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn expect(
    site: &Site<'_>,
    roles: Roles,
    expectation: Expectation,
    workload: &Workload,
    from: At,
) -> Result<()> {
    let leader = site.leader();
    match expectation {
        Expectation::LeaderChanged => {
            ensure!(leader != Some(roles.leader), "the leader is the same");
        }
        Expectation::LeaderSame => ensure!(leader == Some(roles.leader), "another leads"),
        Expectation::NoFailover => {
            let timelines = site.timelines()? - roles.timelines;
            ensure!(timelines == 0, "{timelines} promotions");
            ensure!(leader == Some(roles.leader), "another leads");
        }
        Expectation::GapBelow(limit) => {
            let until = workload.now();
            let gap = workload.look(|h| longest_gap(&h.acknowledged(), from, until));
            if gap >= limit {
                bail!("no write was acknowledged for {gap:?}, and less than {limit:?} is expected");
            }
        }
    }
    Ok(())
}
