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
        self.dir.clone().or_else(|| default_dir().ok().filter(|dir| marker(dir).is_some()))
    }

    /// Looks. `cluster` is the name on the command line, which goes before that of a file.
    pub(super) fn find(&self, cluster: Option<&str>) -> Outcome<Found> {
        let (place, sources) = self.sources()?;
        let dcs_url = self.dcs_url.as_deref();
        let mut found = if let Some(url) = &self.agent {
            of_agent(url, &place, &sources)?
        } else {
            // An address and a name are enough.
            let otherwise = dcs_url.filter(|_| sources.files.is_empty()).map(|_| "pgherd");
            let given = Given { dcs_url, cluster, otherwise };
            Found::Store(understood(&place, control::resolve(&sources, given))?)
        };
        let access = match &mut found {
            Found::Store(settings) => &mut settings.access,
            Found::Agent { access, .. } => access,
        };
        access.tls.insecure |= self.insecure;
        Ok(found)
    }

    /// What says where, and what to call it in messages: a file with the environment over it, or
    /// either alone.
    fn sources(&self) -> Outcome<(String, Sources)> {
        if let Some(file) = &self.config_file {
            return gather(Some(file));
        }
        if let Some(dir) = &self.dir {
            return below(dir);
        }
        let addressed = self.dcs_url.is_some() || self.agent.is_some();
        let own = default_dir().ok().filter(|dir| !addressed && marker(dir).is_some());
        if let Some(dir) = own {
            return below(&dir);
        }
        let patronis = patronis_file().filter(|file| file.is_file());
        let (place, sources) = gather(patronis.as_deref())?;
        if addressed || !sources.is_empty() {
            return Ok((place, sources));
        }
        below(&default_dir()?)
    }
}

fn of_agent(url: &str, place: &str, sources: &Sources) -> Outcome<Found> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    if pgherd_api::client::origin(&url).is_none() {
        let words = format!("expected an address like http://10.0.0.1:8008, found '{url}'");
        return Err(Failure::refused("--agent", words));
    }
    let (access, scope) = understood(place, control::access_only(sources))?;
    Ok(Found::Agent { url, access, scope })
}

fn gather(file: Option<&Path>) -> Outcome<(String, Sources)> {
    let place = file.map(|file| file.display().to_string()).unwrap_or_default();
    Ok((place, sources::gather(file)?))
}

/// A cluster of `up` says everything itself: the environment is about others.
fn below(dir: &Path) -> Outcome<(String, Sources)> {
    let place = file_below(dir)?.display().to_string();
    let text = std::fs::read_to_string(&place).map_err(|error| {
        Failure::refused(place.clone(), format!("the settings file can't be read: {error}"))
    })?;
    let sources = Sources::file(&place, &text);
    Ok((place, sources))
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

fn understood<T>(place: &str, read: Result<Resolved<T>, Vec<Problem>>) -> Outcome<T> {
    match read {
        Ok(Resolved { value, warnings }) => {
            // What a container's environment has too much was said by the agent.
            if !place.is_empty() {
                warn(&mut Printer::new(), place, &warnings);
            }
            Ok(value)
        }
        Err(problems) => Err(Failure::Refused { place: place.to_owned(), problems }),
    }
}
