//! `pgherd ctl`: looks at a cluster and changes it. patronictl's words and flags (contract 5).
//! Here is which cluster it is about and how to reach it; each command has its file.

mod config;
mod explain;
pub(crate) mod list;
mod members;
mod show;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use pgherd_api::{Client as Rest, Cluster, Keys, MemberInfo};
use pgherd_store::Client as Store;

use crate::args::{CtlArgs, CtlCommand};
use crate::live;
use crate::lock::Lock;
use crate::output::{Failure, Outcome, Printer, warn};
use crate::settings::control::{self, ControlSettings};
use crate::settings::node::Resolved;
use crate::up::default_dir;
use crate::up::layout::{Layout, Marker};

/// How long an agent may take to answer a question.
const ANSWER: Duration = Duration::from_secs(5);

/// A cluster that can be asked and told.
struct Ctl {
    /// Of a cluster made by `up`: where.
    dir: Option<PathBuf>,
    store: Store,
    keys: Keys,
    rest: Rest,
    printer: Printer,
}

/// Runs one command.
pub(crate) fn run(args: CtlArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't be started")?;
    runtime.block_on(Box::pin(dispatch(args)))
}

async fn dispatch(args: CtlArgs) -> Outcome {
    let place = Place { file: args.config_file, url: args.dcs_url, dir: args.dir };
    let open = |cluster: Option<&str>| Ctl::open(&place, cluster);
    match args.command {
        CtlCommand::List(args) => show::list(open(args.cluster.name())?, &args).await,
        CtlCommand::Topology(args) => show::topology(open(args.cluster.name())?, &args).await,
        CtlCommand::History(args) => show::history(open(args.cluster.name())?, &args).await,
        CtlCommand::Dsn(args) => show::dsn(open(args.cluster.name())?, &args).await,
        CtlCommand::Version(args) => members::version(open(args.cluster.as_deref())?).await,
        CtlCommand::Switchover(args) => {
            transfer::check(&args)?;
            transfer::switchover(open(args.cluster.name())?, &args).await
        }
        CtlCommand::Failover(args) => transfer::failover(open(args.cluster.name())?, &args).await,
        CtlCommand::Pause(args) => config::pause(open(args.cluster.name())?, true, args.wait).await,
        CtlCommand::Resume(args) => {
            config::pause(open(args.cluster.name())?, false, args.wait).await
        }
        CtlCommand::ShowConfig(args) => config::show(open(args.name())?).await,
        CtlCommand::EditConfig(args) => config::edit(open(args.cluster.name())?, &args).await,
        CtlCommand::Reinit(args) => members::reinit(open(None)?, &args).await,
        CtlCommand::Explain(args) => explain::explain(open(None)?, &args).await,
    }
}

/// Where the user says that the cluster is.
struct Place {
    file: Option<PathBuf>,
    url: Option<String>,
    dir: Option<PathBuf>,
}

impl Place {
    /// The directory of `up`, when it is that which says where.
    fn below(&self) -> Option<PathBuf> {
        if self.file.is_some() || self.url.is_some() {
            return None;
        }
        self.dir.clone().or_else(|| default_dir().ok())
    }

    fn settings(&self, cluster: Option<&str>) -> Outcome<ControlSettings> {
        let mut settings = match (&self.file, &self.url, &self.dir) {
            (Some(file), url, _) => read(file, url.as_deref())?,
            // An address and a name are enough.
            (None, Some(url), None) => read_url(url, cluster.unwrap_or("pgherd"))?,
            (None, url, dir) => {
                let dir = dir.clone().map_or_else(default_dir, Ok)?;
                read(&file_below(&dir)?, url.as_deref())?
            }
        };
        if let Some(cluster) = cluster {
            cluster.clone_into(&mut settings.cluster.scope);
        }
        Ok(settings)
    }
}

/// Any node's file of a cluster made by `up` says everything.
fn file_below(dir: &Path) -> Outcome<PathBuf> {
    let layout = Layout::new(dir.to_owned());
    let place = dir.display().to_string();
    let marker = Marker::read(&layout.marker()).map_err(|error| {
        Failure::refused(place.clone(), format!("its cluster.json can't be read: {error:#}"))
    })?;
    let first = marker.as_ref().and_then(|marker| marker.nodes.first()).ok_or_else(|| {
        let words = "there is no cluster of 'pgherd up' in this directory; say which cluster with \
                     -c FILE (a node's settings) or --dir DIR";
        Failure::refused(place, words)
    })?;
    Ok(layout.node_file(&first.name))
}

fn read(file: &Path, url: Option<&str>) -> Outcome<ControlSettings> {
    let place = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::refused(place.clone(), format!("the settings file can't be read: {error}"))
    })?;
    match control::resolve(&text, url) {
        Ok(Resolved { value, warnings }) => {
            warn(&mut Printer::new(), &place, &warnings);
            Ok(value)
        }
        Err(problems) => Err(Failure::Refused { place, problems }),
    }
}

fn read_url(url: &str, scope: &str) -> Outcome<ControlSettings> {
    let text = serde_json::json!({ "scope": scope }).to_string();
    match control::resolve(&text, Some(url)) {
        Ok(Resolved { value, .. }) => Ok(value),
        Err(problems) => Err(Failure::Refused { place: String::new(), problems }),
    }
}

impl Ctl {
    fn open(place: &Place, cluster: Option<&str>) -> Outcome<Self> {
        let settings = place.settings(cluster)?;
        let rest = Rest::new(ANSWER);
        let rest = match settings.rest_auth {
            Some(login) => rest.with_auth(login.username, login.password),
            None => rest,
        };
        Ok(Self {
            dir: place.below(),
            store: live::client(&settings.store)?,
            keys: live::keys(&settings.cluster),
            rest,
            printer: Printer::new(),
        })
    }

    /// The cluster as it is now; one that isn't there is an error.
    async fn read(&self) -> Outcome<Cluster> {
        let cluster =
            live::read(&self.store, &self.keys).await.map_err(|error| match &self.dir {
                Some(dir) if Lock::holder(&Layout::new(dir.clone()).lock()).is_none() => {
                    let dir = dir.display();
                    error.context(format!(
                        "the cluster does not run; 'pgherd up --dir {dir}' starts it"
                    ))
                }
                _ => error,
            })?;
        if cluster.members().is_empty() && cluster.view().initialize.is_none() {
            return Err(Failure::Failed(anyhow::anyhow!(
                "there is no cluster '{}' below {} in the store; check scope and namespace",
                self.keys.scope(),
                self.keys.prefix()
            )));
        }
        Ok(cluster)
    }
}

/// The leader as it describes itself.
fn leader_of(cluster: &Cluster) -> Option<&MemberInfo> {
    let leader = cluster.view().leader.as_ref()?.value.clone();
    cluster.members().get(&leader)
}

/// An agent's URL for a path.
fn url_of(member: &MemberInfo, path: &str) -> anyhow::Result<String> {
    let url = member.api_url.as_deref().context("the member publishes no api_url")?;
    let origin = pgherd_api::client::origin(url).with_context(|| format!("'{url}' is no URL"))?;
    Ok(format!("{origin}{path}"))
}

/// The time as patronictl prints it.
fn timestamp() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S.%5f").to_string()
}

impl crate::args::ClusterArg {
    fn name(&self) -> Option<&str> {
        self.cluster.as_deref()
    }
}
