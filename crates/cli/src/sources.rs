//! Gathers what a node is told: a file or a directory of files, the environment, the machine's name.
//! Leaves what it means to `pgherd-config`.

use std::collections::BTreeMap;
use std::fs;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use pgherd_config::environment::{is_ours, variables};
use pgherd_config::spilo::Machine;
use pgherd_config::{Origin, Problem, Sources};

use crate::output::{Failure, Outcome};

/// Everything that is there.
pub(crate) fn gather(path: Option<&Path>) -> Outcome<Sources> {
    let sources = environment().and_then(|environment| again(path, &environment));
    sources.map_err(|problems| Failure::Refused { place: String::new(), problems })
}

/// The files as they are now, and the environment as it was.
pub(crate) fn again(
    path: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Sources, Vec<Problem>> {
    let files = path.map(files).transpose()?.unwrap_or_default();
    Ok(Sources { files, environment: environment.clone(), machine: machine() })
}

/// A file, or all `*.yml` and `*.yaml` of a directory by name (contract 3.1).
fn files(path: &Path) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let refused = |place: &Path, error| {
        let words = format!("the settings file can't be read: {error}");
        vec![Problem::error(None, place.display().to_string(), words)]
    };
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| refused(path, error))?;
        paths =
            entries.into_iter().map(|entry| entry.path()).filter(|path| is_yaml(path)).collect();
        paths.sort();
        if paths.is_empty() {
            let words = "there is no *.yml or *.yaml file in this directory";
            return Err(vec![Problem::error(None, path.display().to_string(), words)]);
        }
    }
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(error) => Err(refused(&path, error)),
    };
    paths.into_iter().map(read).collect()
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

/// The environment. `NAME_FILE` beside a known `NAME` that is a secret names a file with its value,
/// as container platforms hand secrets over.
fn environment() -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    let mut all: BTreeMap<String, String> =
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let known = variables().into_iter().map(|variable| variable.name);
    let more = ["PGPASSWORD_SUPERUSER", "PGPASSWORD_STANDBY", "ETCD3_PASSWORD"];
    let secrets = known.chain(more.map(str::to_owned));
    for name in secrets.filter(|name| name.ends_with("PASSWORD") || name.ends_with("SECRET")) {
        let Some(file) = all.remove(&format!("{name}_FILE")) else { continue };
        let value = fs::read_to_string(&file).map_err(|error| {
            let origin = Origin::Environment(format!("{name}_FILE").into());
            let words = format!("{file} can't be read: {error}");
            vec![Problem::error(Some(origin), "", words)]
        })?;
        all.insert(name, value.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(all)
}

/// The host's name and its own address, as Spilo finds them.
pub(crate) fn machine() -> Machine {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_owned();
    let address = (name.as_str(), 0).to_socket_addrs().ok().and_then(|mut found| found.next());
    let address = address.map_or_else(|| name.clone(), |address| address.ip().to_string());
    Machine { name, address }
}

/// Takes the variables that are ours out of this process's environment, so that neither PostgreSQL
/// nor a script gets a password with it. Must be called while there is one thread.
pub(crate) fn forget_environment() {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours));
    for (name, _) in ours.collect::<Vec<_>>() {
        // SAFETY: the caller is this process's only thread, so nobody reads the environment now.
        #[expect(unsafe_code, reason = "there is no safe way, and no other thread")]
        unsafe {
            std::env::remove_var(name);
        }
    }
}
