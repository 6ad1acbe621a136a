//! What happens while a command waits: lines with the time that passed, and at the end each agent's
//! own word on why. Leaves what is waited for to the commands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgherd_api::rest::{ExplainBody, paths};
use pgherd_api::{Cluster, MemberInfo};

use super::{Ctl, Source, url_of};
use crate::output::Outcome;
use crate::up::Progress;

/// How often the cluster is looked at while something happens.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long an agent may take to say why.
const WHY: Duration = Duration::from_secs(2);

/// Tells what changes.
pub(super) struct Watch {
    begin: Instant,
    progress: Progress,
    said: BTreeMap<String, String>,
}

impl Watch {
    /// Begins with the cluster as it is: only what follows is news.
    pub(super) fn new(cluster: &Cluster) -> Self {
        let mut progress = Progress::default();
        let _known = progress.take(cluster);
        Self { begin: Instant::now(), progress, said: BTreeMap::new() }
    }

    /// Looks once. A look that fails is none: what is waited for decides how it ends.
    pub(super) async fn look(&mut self, ctl: &mut Ctl) -> Outcome<Option<Cluster>> {
        let Ok(cluster) = ctl.read().await else { return Ok(None) };
        // An agent's word has no terms.
        let lines = match ctl.source {
            Source::Store { .. } => self.progress.take(&cluster),
            Source::Agent(_) => self.progress.take_members(&cluster),
        };
        for line in lines {
            self.tell(ctl, &line)?;
        }
        Ok(Some(cluster))
    }

    /// What a member's agent decides, when it changed since the last time.
    pub(super) async fn reasons(&mut self, ctl: &mut Ctl, members: &[MemberInfo]) -> Outcome {
        for member in members {
            let Some(words) = why(ctl, member).await else { continue };
            let name = member.name.to_string();
            if self.said.get(&name) != Some(&words) {
                self.tell(ctl, &format!("{name}: {words}"))?;
                self.said.insert(name, words);
            }
        }
        Ok(())
    }

    /// Remembers what is decided now, without telling it.
    pub(super) async fn know_reasons(&mut self, ctl: &Ctl, members: &[MemberInfo]) {
        for member in members {
            if let Some(words) = why(ctl, member).await {
                self.said.insert(member.name.to_string(), words);
            }
        }
    }

    /// One line of progress.
    pub(super) fn tell(&self, ctl: &mut Ctl, line: &str) -> Outcome {
        let passed = self.begin.elapsed().as_secs_f64();
        let line = ctl.printer.dim(&format!("  {passed:5.1} s  {line}"));
        Ok(ctl.printer.line(line)?)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Waits for `work`, and tells meanwhile what happens.
    pub(super) async fn during<T>(
        &mut self,
        ctl: &mut Ctl,
        members: &[MemberInfo],
        work: impl Future<Output = T>,
    ) -> Outcome<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let pause = tokio::time::sleep(LOOK_EVERY);
            tokio::select! {
                done = &mut work => return Ok(done),
                () = pause => {}
            }
            // The work goes on while we look: a look is short, and bounded.
            let look = async {
                self.look(ctl).await?;
                self.reasons(ctl, members).await
            };
            let mut look = std::pin::pin!(look);
            tokio::select! {
                looked = &mut look => looked?,
                done = &mut work => {
                    look.await?;
                    return Ok(done);
                }
            }
        }
    }
}

/// An agent's decision in force, in its own words; `None` of an agent that doesn't say.
pub(super) async fn why(ctl: &Ctl, member: &MemberInfo) -> Option<String> {
    let url = url_of(member, paths::EXPLAIN).ok()?;
    let body: ExplainBody = ctl.rest.clone().with_timeout(WHY).get(&url).await.ok()?;
    let mut words = format!("{}: {}", body.current.situation, body.current.text);
    if let Some(operation) = &body.postgres.operation {
        words.push_str(&format!(" ({operation})"));
    }
    if let Some(failure) = &body.postgres.last_failure {
        words.push_str(&format!("; its last failure: {failure}"));
    }
    Some(words)
}

/// Each member's word on why it does what it does, one line each.
pub(super) async fn all_reasons(ctl: &mut Ctl, cluster: &Cluster) -> Outcome {
    for member in cluster.members().values() {
        let words = why(ctl, member).await;
        let words = words.unwrap_or_else(|| "its agent doesn't say".to_owned());
        ctl.printer.error(format_args!("  {}: {words}", member.name))?;
    }
    Ok(())
}
