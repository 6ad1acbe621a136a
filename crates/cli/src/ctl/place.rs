//! Which cluster a command is about: what the command line says, else the files where one would
//! look (contract 5.1). Leaves speaking with it to `Ctl`.

use std::path::{Path, PathBuf};

use pgherd_config::Sources;

use crate::args::PlaceArgs;
use crate::output::{Failure, Outcome, Printer, warn};
use crate::settings::control::{self, Access, ControlSettings, Given};
use crate::settings::node::Resolved;
use crate::settings::problem::Problem;
use crate::sources;
use crate::up::default_dir;
use crate::up::layout::{Layout, Marker};

/// What the settings came to.
pub(super) enum Found {
    /// The store says everything.
    Store(ControlSettings),
    /// An agent says what it knows.
    Agent { url: String, access: Access, scope: Option<String> },
}

impl PlaceArgs {
    /// The directory of `up`, when it is that which says where.
    pub(super) fn below(&self) -> Option<PathBuf> {
        if self.config_file.is_some() || self.dcs_url.is_some() || self.agent.is_some() {
            return None;
        }
        self.dir.clone().or_else(|| default_dir().ok())
    }

    /// Looks. `cluster` is the name on the command line, which goes before that of a file.
    pub(super) fn find(&self, cluster: Option<&str>) -> Outcome<Found> {
        if let Some(sources) = self.environment()? {
            let given = Given { dcs_url: None, cluster };
            let mut settings = understood("", control::resolve_environment(&sources, given))?;
            settings.access.tls.insecure |= self.insecure;
            return Ok(Found::Store(settings));
        }
        let file = self.file()?;
        let mut found = match (&self.agent, &file) {
            (Some(url), file) => self.of_agent(url, file.as_deref())?,
            (None, Some(file)) => {
                let given = Given { dcs_url: self.dcs_url.as_deref(), cluster };
                Found::Store(read(file, |text| control::resolve(text, given))?)
            }
            // An address and a name are enough.
            (None, None) => {
                let cluster = cluster.or(Some("pgherd"));
                let given = Given { dcs_url: self.dcs_url.as_deref(), cluster };
                Found::Store(understood("", control::resolve("{}", given))?)
            }
        };
        let access = match &mut found {
            Found::Store(settings) => &mut settings.access,
            Found::Agent { access, .. } => access,
        };
        access.tls.insecure |= self.insecure;
        Ok(found)
    }

    /// The environment, in a container that has a node's and where nothing else says which cluster.
    fn environment(&self) -> Outcome<Option<Sources>> {
        let told = self.config_file.is_some() || self.dir.is_some() || self.dcs_url.is_some();
        let own = default_dir().is_ok_and(|dir| marker(&dir).is_some());
        let patronis = patronis_file().is_some_and(|file| file.is_file());
        if told || self.agent.is_some() || own || patronis {
            return Ok(None);
        }
        Ok(Some(sources::gather(None)?).filter(|sources| !sources.is_empty()))
    }

    fn of_agent(&self, url: &str, file: Option<&Path>) -> Outcome<Found> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        if pgherd_api::client::origin(&url).is_none() {
            let words = format!("expected an address like http://10.0.0.1:8008, found '{url}'");
            return Err(Failure::refused("--agent", words));
        }
        let (access, scope) = match file {
            Some(file) => read(file, control::access_only)?,
            None => (Access::default(), None),
        };
        Ok(Found::Agent { url, access, scope })
    }

    /// The file that says where; `None` when addresses alone do.
    fn file(&self) -> Outcome<Option<PathBuf>> {
        if let Some(file) = &self.config_file {
            return Ok(Some(file.clone()));
        }
        if let Some(dir) = &self.dir {
            return file_below(dir).map(Some);
        }
        let addressed = self.dcs_url.is_some() || self.agent.is_some();
        let own = default_dir().ok().filter(|dir| !addressed && marker(dir).is_some());
        if let Some(dir) = own {
            return file_below(&dir).map(Some);
        }
        let patronis = patronis_file().filter(|file| file.is_file());
        if patronis.is_some() || addressed {
            return Ok(patronis);
        }
        file_below(&default_dir()?).map(Some)
    }
}

/// Where patronictl looks when it isn't told.
fn patronis_file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| variable("HOME").map(|home| home.join(".config")))?;
    Some(config.join("patroni/patronictl.yaml"))
}

fn marker(dir: &Path) -> Option<Marker> {
    Marker::read(&Layout::new(dir.to_owned()).marker()).ok().flatten()
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
                     -c FILE (a node's settings), -d URL (the store), --agent URL or --dir DIR";
        Failure::refused(place, words)
    })?;
    Ok(layout.node_file(&first.name))
}

/// The agents of a cluster made by `up`: whom to ask when the store doesn't answer.
pub(super) fn agents_below(dir: &Path) -> Vec<String> {
    let nodes = marker(dir).map(|marker| marker.nodes).unwrap_or_default();
    nodes.iter().map(|node| format!("http://127.0.0.1:{}", node.rest)).collect()
}

fn read<T>(
    file: &Path,
    resolve: impl FnOnce(&str) -> Result<Resolved<T>, Vec<Problem>>,
) -> Outcome<T> {
    let place = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::refused(place.clone(), format!("the settings file can't be read: {error}"))
    })?;
    understood(&place, resolve(&text))
}

fn understood<T>(place: &str, read: Result<Resolved<T>, Vec<Problem>>) -> Outcome<T> {
    match read {
        Ok(Resolved { value, warnings }) => {
            warn(&mut Printer::new(), place, &warnings);
            Ok(value)
        }
        Err(problems) => Err(Failure::Refused { place: place.to_owned(), problems }),
    }
}
