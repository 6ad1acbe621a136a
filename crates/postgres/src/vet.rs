//! Trying a configuration before PostgreSQL gets it: the server's own program reads it and says what
//! it doesn't know or can't take (`postgres -C`), so that no value from the store stops a server.
//! What it refuses keeps its last good value, or goes. Leaves files and reloads to `apply`.
//!
//! Not found this way: what only a start shows (a library that is missing, too little memory).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::conf::{Role, value_in};
use crate::facts::blocking;
use crate::settings::Settings;
use crate::tool::Tool;
use crate::wanted::{COMMAND_LINE, Configuration, MemberSlots, Wanted};
use crate::{PgError, conf, files};

/// They change what the trial says of the others: tried alone.
const TRIED_ALONE: [&str; 2] = ["lc_messages", "log_min_messages"];
/// How often the program is asked again without what it refused; then all that is left is tried one
/// by one.
const ROUNDS: usize = 5;

/// One role's configuration as PostgreSQL takes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Effective {
    /// The user's part of `postgresql.conf`.
    pub(crate) file: BTreeMap<String, String>,
    /// The user's recovery settings.
    pub(crate) recovery: BTreeMap<String, String>,
    /// Everything on the command line.
    pub(crate) command_line: BTreeMap<&'static str, String>,
    /// See [`Configuration::standby_names`].
    pub(crate) standby_names: Option<String>,
    /// See [`Configuration::hba`].
    pub(crate) hba: Option<Vec<String>>,
    /// See [`Configuration::ident`].
    pub(crate) ident: Option<Vec<String>>,
    /// See [`Configuration::custom_conf`].
    pub(crate) custom_conf: Option<PathBuf>,
    /// See [`Configuration::member_slots`].
    pub(crate) member_slots: MemberSlots,
}

/// The configurations in use, for both roles.
#[derive(Clone, Debug)]
pub(crate) struct Confs {
    /// What they were made of.
    pub(crate) wanted: Wanted,
    pub(crate) primary: Effective,
    pub(crate) standby: Effective,
    /// What could not be taken, in words.
    pub(crate) problems: Vec<String>,
    /// PostgreSQL's program has read them.
    pub(crate) tried: bool,
}

impl Confs {
    /// As wanted; nobody has tried it.
    pub(crate) fn untried(settings: &Settings, wanted: Wanted) -> Self {
        let primary = Effective::new(settings, &wanted.primary);
        let standby = Effective::new(settings, &wanted.standby);
        Self { wanted, primary, standby, problems: Vec::new(), tried: false }
    }

    pub(crate) fn of(&self, role: Role) -> &Effective {
        match role {
            Role::Primary => &self.primary,
            Role::Standby => &self.standby,
        }
    }
}

impl Effective {
    fn new(settings: &Settings, wanted: &Configuration) -> Self {
        let mut command_line = wanted.on_command_line();
        let sockets = settings.socket_dir.to_string_lossy();
        command_line.insert("cluster_name", settings.cluster_name.clone());
        command_line.insert("hot_standby", "on".to_owned());
        command_line.insert("listen_addresses", settings.listen_addresses.clone());
        command_line.insert("port", settings.port.to_string());
        let sockets = match wanted.socket_directories() {
            // Ours first: the agent speaks through it.
            Some(theirs) => format!("{sockets},{theirs}"),
            None => sockets.into_owned(),
        };
        command_line.insert("unix_socket_directories", sockets);
        let mut file = wanted.in_file();
        file.remove("unix_socket_directories");
        let mut recovery = wanted.in_recovery();
        recovery.retain(|name, _| !file.contains_key(name));
        Self {
            file,
            recovery,
            command_line,
            standby_names: wanted.standby_names.clone().filter(|names| !names.trim().is_empty()),
            hba: wanted.hba.clone(),
            ident: wanted.ident.clone(),
            custom_conf: wanted.custom_conf.clone(),
            member_slots: wanted.member_slots,
        }
    }
}

/// Tries a configuration for both roles. `last`: the one in use.
pub(crate) async fn vet(
    settings: &Arc<Settings>,
    last: &Confs,
    wanted: Wanted,
) -> Result<Confs, PgError> {
    let mut confs = Confs::untried(settings, wanted);
    let own = Arc::clone(settings);
    let written = blocking(move || files::own_conf(&own)).await??;
    let mut trial = Trial { settings, written, last, refused: BTreeMap::new() };
    trial.settle(&mut confs.primary).await?;
    if confs.wanted.standby == confs.wanted.primary {
        confs.standby = confs.primary.clone();
    } else {
        trial.settle(&mut confs.standby).await?;
    }
    for name in confs.wanted.primary.no_names().chain(confs.wanted.standby.no_names()) {
        let name = name.escape_debug().to_string();
        let words = format!("{name}: this is no parameter's name; it is left out");
        trial.refused.insert(name, words);
    }
    confs.problems = trial.refused.into_values().collect();
    confs.tried = true;
    Ok(confs)
}

struct Trial<'a> {
    settings: &'a Settings,
    /// Our `postgresql.conf` as it stands.
    written: String,
    last: &'a Confs,
    /// Parameters that were refused, and the words about each.
    refused: BTreeMap<String, String>,
}

/// What the program said of one trial.
enum Verdict {
    Good,
    /// These it named, each with its words.
    Names(BTreeMap<String, String>),
    /// It refused, and nobody knows what.
    Unclear(String),
}

impl Trial<'_> {
    /// Takes out what is refused until the rest is good.
    async fn settle(&mut self, conf: &mut Effective) -> Result<(), PgError> {
        for name in TRIED_ALONE {
            self.alone(conf, name).await?;
        }
        for _ in 0..ROUNDS {
            match self.ask(&conf.file, &conf.recovery, &conf.command_line).await? {
                Verdict::Good => return Ok(()),
                Verdict::Names(names) => {
                    for (name, words) in names {
                        self.refuse(conf, &name, &words);
                    }
                }
                Verdict::Unclear(words) => {
                    tracing::debug!(words, "the configuration is tried one by one");
                    break;
                }
            }
        }
        let names: BTreeSet<String> =
            conf.file.keys().chain(conf.recovery.keys()).cloned().collect();
        for name in names {
            self.alone(conf, &name).await?;
        }
        for (name, _) in COMMAND_LINE {
            self.alone(conf, name).await?;
        }
        Ok(())
    }

    async fn alone(&mut self, conf: &mut Effective, name: &str) -> Result<(), PgError> {
        let one = |all: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            all.get(name).map(|value| (name.to_owned(), value.clone())).into_iter().collect()
        };
        let (file, recovery) = (one(&conf.file), one(&conf.recovery));
        let line = conf.command_line.get_key_value(name);
        let line: BTreeMap<_, _> = line.map(|(k, v)| (*k, v.clone())).into_iter().collect();
        if file.is_empty() && recovery.is_empty() && line.is_empty() {
            return Ok(());
        }
        let words = match self.ask(&file, &recovery, &line).await? {
            Verdict::Good => return Ok(()),
            Verdict::Names(names) => names.into_values().next().unwrap_or_default(),
            Verdict::Unclear(words) => words,
        };
        self.refuse(conf, name, &words);
        Ok(())
    }

    /// Its last good value instead, or none.
    fn refuse(&mut self, conf: &mut Effective, name: &str, words: &str) {
        let first = !self.refused.contains_key(name);
        let mut kept = None;
        if let Some(value) = conf.command_line.get_mut(name) {
            let default = COMMAND_LINE.iter().find(|(ours, _)| *ours == name);
            let last = self.last.primary.command_line.get(name).filter(|_| self.last.tried);
            let good = last.cloned().filter(|last| last != value);
            if let Some(good) = good.or_else(|| default.map(|(_, value)| (*value).to_owned())) {
                *value = good.clone();
                kept = Some(good);
            }
        } else if let Some(wrong) = conf.file.remove(name) {
            let good = value_in(&self.written, name).filter(|good| first && *good != wrong);
            kept.clone_from(&good);
            conf.file.extend(good.map(|good| (name.to_owned(), good)));
        } else {
            conf.recovery.remove(name);
        }
        let kept = match kept {
            Some(value) => format!("it stays '{value}'"),
            None => "it is left out".to_owned(),
        };
        self.refused.insert(name.to_owned(), format!("{name}: {words}; {kept}"));
    }

    async fn ask(
        &self,
        file: &BTreeMap<String, String>,
        recovery: &BTreeMap<String, String>,
        command_line: &BTreeMap<&'static str, String>,
    ) -> Result<Verdict, PgError> {
        let settings = self.settings;
        let path = settings.run_dir.join("trial.conf");
        let text = conf::trial(file.iter().chain(recovery));
        let written = path.clone();
        blocking(move || files::write_private(&written, &text)).await??;
        let mut tool = Tool::new(settings, "postgres")
            .args(["-C", "port", "-D"])
            .arg(&settings.run_dir)
            .arg(format!("--config-file={}", path.display()));
        for (name, value) in command_line {
            tool = tool.arg(format!("--{name}={value}"));
        }
        let output = tool.run(|_| ()).await?;
        if output.success {
            return Ok(Verdict::Good);
        }
        let known = |name: &str| {
            file.contains_key(name)
                || recovery.contains_key(name)
                || command_line.contains_key(name)
        };
        let complaints = output.errors.iter().filter_map(|line| complaint(line));
        let names: BTreeMap<_, _> = complaints.filter(|(name, _)| known(name)).collect();
        Ok(if names.is_empty() { Verdict::Unclear(output.reason()) } else { Verdict::Names(names) })
    }
}

/// The parameter that a line of the program is about, and its words: everything behind the level.
fn complaint(line: &str) -> Option<(String, String)> {
    let levels = ["LOG:  ", "FATAL:  ", "ERROR:  ", "WARNING:  "];
    let words = levels.iter().find_map(|level| line.split_once(level)).map(|(_, words)| words)?;
    let (_, rest) = words.split_once("parameter \"")?;
    let (name, _) = rest.split_once('"')?;
    // The place in the trial's file says nothing to anybody.
    let words = words.split(" in file \"").next().unwrap_or(words);
    Some((name.to_ascii_lowercase(), words.to_owned()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_programs_complaints_name_their_parameter() {
        let of = |line| super::complaint(line).unwrap();
        let line = "2026-11-22 GMT [1] LOG:  unrecognized configuration parameter \"foo\" in file \"/x\" line 1";
        assert_eq!(of(line), ("foo".into(), "unrecognized configuration parameter \"foo\"".into()));
        let line = "2026 [1] LOG:  0 MB is outside the valid range for parameter \"max_wal_size\" (2 .. 3)";
        assert_eq!(of(line).0, "max_wal_size");
        let line = "2026 [1] FATAL:  invalid value for parameter \"DateStyle\": \"bla\"";
        assert_eq!(of(line).0, "datestyle");
        assert!(super::complaint("HINT:  Valid units for this parameter are \"us\".").is_none());
    }
}
