//! `pgherd ctl`: looks at a cluster and changes it. patronictl's words and flags (contract 5).
//! Here is how a cluster is reached, through its store or through an agent; each command has its
//! file.

mod choose;
mod config;
mod edit;
mod explain;
mod flush;
pub(crate) mod list;
mod members;
mod place;
mod query;
mod reinit;
mod remote;
mod remove;
mod restart;
mod show;
mod standby;
mod transfer;
mod watch;
mod when;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use pgherd_api::tls::{self, Trust};
use pgherd_api::{Client as Rest, Cluster, Keys, MemberInfo, Response};
use pgherd_config::rest::RestClient;
use pgherd_core::NodeName;
use pgherd_store::Client as Store;
use serde_json::Value;

use crate::args::{ClusterArg, CtlArgs, CtlCommand, PlaceArgs};
use crate::live;
use crate::lock::Lock;
use crate::output::{Failure, Outcome, Printer};
use crate::settings::control::Access;
use crate::up::layout::Layout;
use place::Found;

/// How long an agent may take to answer a question.
const ANSWER: Duration = Duration::from_secs(5);

/// A cluster that can be asked and told.
struct Ctl {
    /// Of a cluster made by `up`: where.
    dir: Option<PathBuf>,
    source: Source,
    keys: Keys,
    rest: Rest,
    printer: Printer,
    /// It was said that what is shown is old.
    warned: bool,
}

/// Where the cluster's state is read, and its settings are written.
enum Source {
    /// The store itself; and agents to ask when it doesn't answer.
    Store { client: Store, agents: Vec<String> },
    /// An agent, by the origin of its address.
    Agent(String),
}

/// Runs one command.
pub(crate) fn run(args: CtlArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't be started")?;
    runtime.block_on(Box::pin(dispatch(args)))
}

async fn dispatch(args: CtlArgs) -> Outcome {
    let place = args.place;
    match args.command {
        CtlCommand::List(args) => show::list(&place, &args).await,
        CtlCommand::Topology(args) => show::topology(&place, &args).await,
        CtlCommand::History(args) => show::history(open(&place, &args.cluster).await?, &args).await,
        CtlCommand::Dsn(args) => show::dsn(open(&place, &args.cluster).await?, &args).await,
        CtlCommand::Query(args) => query::query(open(&place, &args.cluster).await?, &args).await,
        CtlCommand::Version(args) => members::version(&place, &args).await,
        CtlCommand::Switchover(args) => transfer::switchover(&place, &args).await,
        CtlCommand::Failover(args) => {
            transfer::failover(open(&place, &args.cluster).await?, &args).await
        }
        CtlCommand::Restart(args) => restart::restart(&place, &args).await,
        CtlCommand::Reload(args) => members::reload(&place, &args).await,
        CtlCommand::Reinit(args) => reinit::reinit(&place, &args).await,
        CtlCommand::Flush(args) => flush::flush(&place, &args).await,
        CtlCommand::Pause(args) => {
            config::pause(open(&place, &args.cluster).await?, true, args.wait).await
        }
        CtlCommand::Resume(args) => {
            config::pause(open(&place, &args.cluster).await?, false, args.wait).await
        }
        CtlCommand::ShowConfig(args) => config::show(open(&place, &args).await?).await,
        CtlCommand::EditConfig(args) => edit::edit(open(&place, &args.cluster).await?, &args).await,
        CtlCommand::Remove(args) => {
            remove::remove(Ctl::open(&place, Some(&args.cluster)).await?, &args).await
        }
        CtlCommand::Explain(args) => explain::explain(Ctl::open(&place, None).await?, &args).await,
        CtlCommand::DemoteCluster(args) => {
            standby::demote(open(&place, &args.cluster).await?, &args).await
        }
        CtlCommand::PromoteCluster(args) => {
            standby::promote(open(&place, &args.cluster).await?, &args).await
        }
    }
}

async fn open(place: &PlaceArgs, cluster: &ClusterArg) -> Outcome<Ctl> {
    Ctl::open(place, cluster.cluster.as_deref()).await
}

impl Ctl {
    /// `cluster` is the name on the command line.
    async fn open(place: &PlaceArgs, cluster: Option<&str>) -> Outcome<Self> {
        let dir = place.below();
        let printer = Printer::new();
        match place.find(cluster)? {
            Found::Store(settings) => {
                let mut agents = dir.as_deref().map(place::agents_below).unwrap_or_default();
                agents.extend(settings.access.agent.clone().filter(|_| agents.is_empty()));
                let rest = rest(settings.access)?;
                let source = Source::Store { client: live::client(&settings.store)?, agents };
                Ok(Self {
                    dir,
                    source,
                    keys: live::keys(&settings.cluster),
                    rest,
                    printer,
                    warned: false,
                })
            }
            Found::Agent { url, access, scope } => {
                let rest = rest(access)?;
                let origin = pgherd_api::client::origin(&url).unwrap_or(url);
                let asked = cluster.map(str::to_owned).or(scope);
                let keys = remote::keys(&rest, &origin, asked.as_deref()).await?;
                Ok(Self { dir, source: Source::Agent(origin), keys, rest, printer, warned: false })
            }
        }
    }

    /// The cluster as it is now; one that isn't there is an error. When the store doesn't answer
    /// and an agent does, the agent is asked from now on.
    async fn read(&mut self) -> Outcome<Cluster> {
        let cluster = match &self.source {
            Source::Agent(origin) => {
                let told = remote::read(&self.rest, origin, &self.keys).await?;
                self.warn_of_age(told.age)?;
                told.cluster
            }
            Source::Store { client, agents } => match live::read(client, &self.keys).await {
                Ok(cluster) => cluster,
                Err(error) => {
                    let agents = agents.clone();
                    self.ask_agents(&agents, error).await?
                }
            },
        };
        if cluster.members().is_empty() && cluster.view().initialize.is_none() {
            return Err(Failure::Failed(anyhow::anyhow!(
                "there is no cluster '{}' below {} in the store; check scope and namespace",
                self.keys.scope(),
                self.keys.prefix()
            )));
        }
        Ok(cluster)
    }

    /// Said once: what an agent tells may be old.
    fn warn_of_age(&mut self, age: Option<Duration>) -> Outcome {
        if let Some(age) = age.filter(|_| !self.warned) {
            self.warned = true;
            let (words, seconds) = (self.printer.yellow("Warning:"), age.as_secs());
            self.printer.error(format_args!(
                "{words} the agent hasn't heard the store for {seconds} s: this is how it was then"
            ))?;
        }
        Ok(())
    }

    async fn ask_agents(&mut self, agents: &[String], error: anyhow::Error) -> Outcome<Cluster> {
        for origin in agents {
            let Ok(told) = remote::read(&self.rest, origin, &self.keys).await else { continue };
            let words = self.printer.yellow("Warning:");
            self.printer.error(format_args!(
                "{words} {error:#}; {origin} is asked instead, and says what it last knew"
            ))?;
            self.source = Source::Agent(origin.clone());
            self.warn_of_age(told.age)?;
            return Ok(told.cluster);
        }
        Err(Failure::Failed(match &self.dir {
            Some(dir) if Lock::holder(&Layout::new(dir.clone()).lock()).is_none() => {
                let dir = dir.display();
                error
                    .context(format!("the cluster does not run; 'pgherd up --dir {dir}' starts it"))
            }
            Some(_) | None => error.context(
                "the store doesn't answer (with --agent URL, any of the cluster's agents is asked \
                 instead)",
            ),
        }))
    }

    /// The store, for what can't be done without it.
    fn store(&self, what: &str) -> Outcome<&Store> {
        match &self.source {
            Source::Store { client, .. } => Ok(client),
            Source::Agent(_) => {
                let words = format!("{what} needs the store itself; leave --agent out");
                Err(Failure::refused("--agent", words))
            }
        }
    }

    /// One call to a member's agent.
    async fn tell(
        &self,
        member: &MemberInfo,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> anyhow::Result<Response> {
        let url = url_of(member, path)?;
        let rest = self.rest.clone().with_timeout(within);
        rest.request(method, &url, body).await.map_err(anyhow::Error::from)
    }
}

/// The client that agents are asked with.
fn rest(access: Access) -> Outcome<Rest> {
    let mut rest = Rest::new(ANSWER).on_behalf_of(&whoami());
    match tls::client(&access.tls, Trust::Named) {
        Ok(config) => rest = rest.with_tls(config),
        // The system has no authorities: only who asks over HTTPS needs to know.
        Err(_) if access.tls == RestClient::default() => {}
        Err(error) => return Err(Failure::Failed(error.into())),
    }
    Ok(match access.login {
        Some(login) => rest.with_auth(login.username, login.password),
        None => rest,
    })
}

/// `root@host`: who is named to the agents.
fn whoami() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current());
    let user = user.ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{user}@{}", host.trim())
}

/// Something was tried and did not work.
fn failed(words: impl Into<String>) -> Failure {
    Failure::Failed(anyhow::anyhow!(words.into()))
}

/// A cluster's settings, as far as commands look at them.
fn paused(cluster: &Cluster) -> bool {
    cluster.view().config.as_ref().is_some_and(|config| config.value.pause)
}

/// The leader as it describes itself.
fn leader_of(cluster: &Cluster) -> Option<&MemberInfo> {
    let leader = cluster.view().leader.as_ref()?.value.clone();
    cluster.members().get(&leader)
}

/// A member by its name.
fn member<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a MemberInfo> {
    cluster.members().get(&NodeName::new(name).ok()?)
}

/// Everybody, the leader first.
fn leader_first(cluster: &Cluster) -> Vec<&MemberInfo> {
    let leader = leader_of(cluster).map(|m| &m.name);
    let mut members: Vec<_> = cluster.members().values().collect();
    members.sort_by_key(|member| Some(&member.name) != leader);
    members
}

/// An agent's URL for a path.
fn url_of(member: &MemberInfo, path: &str) -> anyhow::Result<String> {
    let url = member.api_url.as_deref().with_context(|| {
        format!("member {} publishes no api_url, so its agent can't be asked", member.name)
    })?;
    let origin = pgherd_api::client::origin(url).with_context(|| format!("'{url}' is no URL"))?;
    Ok(format!("{origin}{path}"))
}

/// The time as patronictl prints it.
fn timestamp() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S.%5f").to_string()
}

/// What an agent answered, in patronictl's words.
fn answer_words(what: &str, member: &MemberInfo, response: &Response) -> String {
    let code = response.status.as_u16();
    format!("Failed: {what} for member {}, status code={code}, ({})", member.name, response.text())
}
