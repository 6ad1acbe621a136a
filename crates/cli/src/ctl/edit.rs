//! `edit-config`: from options, from a file, or in an editor; a unified diff; and a write that
//! overwrites nobody's change (contract 5.2).

use std::io::Read;
use std::path::{Path, PathBuf};

use pgherd_api::config::merge;
use serde_json::{Map, Value, json};
use similar::TextDiff;

use super::config::{Change, difference, write};
use super::{Ctl, failed};
use crate::args::EditConfigArgs;
use crate::output::{Failure, Outcome, Printer, confirm, warn};
use crate::settings::problem::Severity;
use crate::settings::yaml::Node;
use crate::yaml_text;
use pgherd_config::check;

type Settings = Map<String, Value>;

pub(super) async fn edit(mut ctl: Ctl, args: &EditConfigArgs) -> Outcome {
    let pairs = pairs(args)?;
    let file = args.apply.as_ref().or(args.replace.as_ref());
    let given = file.map(|file| read(file)).transpose()?;
    let cluster = ctl.read().await?;
    let Some(old) = cluster.config() else {
        let scope = ctl.keys.scope();
        return Err(failed(format!("The config key does not exist in the cluster {scope}")));
    };
    let mut new = old.json.clone();
    match (given, pairs.is_empty()) {
        (Some(given), _) if args.replace.is_some() => new = given,
        (Some(given), _) => {
            merge(&mut new, &given);
        }
        (None, false) => {}
        (None, true) => new = in_editor(&old.json, ctl.keys.scope())?,
    }
    pairs.into_iter().for_each(|(path, value)| set(&mut new, &path, value));
    let patch = difference(&old.json, &new);
    if patch.is_empty() {
        return Ok(ctl.printer.line("Not changed")?);
    }
    check(&mut ctl.printer, &patch)?;
    if !args.quiet {
        show(&mut ctl.printer, &text(&old.json), &text(&new))?;
    }
    if !args.force {
        confirm("Apply these changes?")?;
    }
    let change = Change { new: &new, patch: &patch, modified: old.modified.0 };
    if !write(&ctl, &change).await? {
        return Err(failed("Config modification aborted due to concurrent changes"));
    }
    Ok(ctl.printer.line("Configuration changed")?)
}

/// What nobody could read is refused before it is stored.
fn check(printer: &mut Printer, patch: &Settings) -> Outcome {
    let problems = check::dynamic(patch);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Failure::Refused { place: String::new(), problems });
    }
    warn(printer, "edit-config", &problems);
    Ok(())
}

fn text(config: &Settings) -> String {
    yaml_text::block(&Value::Object(config.clone()))
}

/// A unified diff, in colour on a terminal.
fn show(printer: &mut Printer, old: &str, new: &str) -> Outcome {
    let diff = TextDiff::from_lines(old, new);
    let unified = diff.unified_diff().header("", "").to_string();
    for line in unified.lines() {
        let line = match line.as_bytes().first() {
            Some(b'+') => printer.green(line),
            Some(b'-') => printer.red_output(line),
            Some(b'@') => printer.dim(line),
            Some(_) | None => line.to_owned(),
        };
        printer.line(line)?;
    }
    Ok(printer.line("")?)
}

/// A settings file, or standard input.
fn read(file: &Path) -> Outcome<Settings> {
    let place = file.display().to_string();
    let text = if place == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| Failure::refused(place.clone(), format!("can't be read: {error}")))?
    };
    parse(&place, &text)
}

fn parse(place: &str, text: &str) -> Outcome<Settings> {
    let node = Node::parse(text)
        .map_err(|problem| Failure::Refused { place: place.to_owned(), problems: vec![problem] })?;
    match node.to_json() {
        Value::Object(settings) => Ok(settings),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let words = format!("expected keys and values, found {}", node.describe());
            Err(Failure::refused(place, words))
        }
    }
}

/// Lets the user edit the settings. The file is only for their eyes, and gone afterwards.
fn in_editor(old: &Settings, scope: &str) -> Outcome<Settings> {
    let file = Scratch::new(scope, &text(old))?;
    let editor = editor()?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let mut command = std::process::Command::new(program);
    let status = command.args(words).arg(&file.0).status();
    let status = status.map_err(|error| {
        Failure::refused("EDITOR", format!("'{editor}' can't be started: {error}"))
    })?;
    if !status.success() {
        return Err(failed(format!(
            "the editor '{editor}' ended with {status}; nothing is changed"
        )));
    }
    parse("what was edited", &std::fs::read_to_string(&file.0)?)
}

fn editor() -> Outcome<String> {
    if let Some(editor) = std::env::var("EDITOR").ok().filter(|editor| !editor.trim().is_empty()) {
        return Ok(editor);
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&paths).any(|dir| dir.join(name).is_file());
    let found = ["editor", "vi"].into_iter().find(there);
    found.map(str::to_owned).ok_or_else(|| {
        let words = "it is not set, and neither editor nor vi is there; set it, or say -s \
                     KEY=VALUE, -p NAME=VALUE, --apply FILE or --replace FILE";
        Failure::refused("EDITOR", words)
    })
}

/// A file of our own in the directory for temporary ones.
struct Scratch(PathBuf);

impl Scratch {
    fn new(scope: &str, text: &str) -> Outcome<Self> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let name = format!("{scope}-config-{:016x}.yaml", u64::from_le_bytes(random));
        let file = Self(std::env::temp_dir().join(name));
        let mut options = std::fs::OpenOptions::new();
        // New, and nobody else's to read: settings can hold connection strings.
        let mut open = options.write(true).create_new(true).mode(0o600).open(&file.0)?;
        open.write_all(text.as_bytes())?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is no reason to fail after the work is done.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What `-s` and `-p` say, as paths and values.
fn pairs(args: &EditConfigArgs) -> Outcome<Vec<(String, Value)>> {
    let mut pairs = Vec::new();
    for (flag, prefix, given) in
        [("--set", "", &args.set), ("--pg", "postgresql.parameters.", &args.pg)]
    {
        for pair in given {
            let split = pair.split_once('=').map(|(key, value)| (key.trim(), value));
            let Some((key, value)) = split.filter(|(key, _)| !key.is_empty()) else {
                let words = format!("expected KEY=VALUE like ttl=10, found '{pair}'");
                return Err(Failure::refused(flag, words));
            };
            pairs.push((format!("{prefix}{key}"), scalar(value)));
        }
    }
    Ok(pairs)
}

/// A value as YAML reads it: numbers, on and off, null, or text.
fn scalar(text: &str) -> Value {
    Node::parse(text).map_or_else(|_| Value::from(text), |node| node.to_json())
}

/// Sets `a.b.c`; null removes, and sections that become empty with it. Below
/// `postgresql.parameters` dots belong to the parameter's name.
fn set(settings: &mut Settings, key: &str, value: Value) {
    const PARAMETERS: &str = "postgresql.parameters.";
    let path: Vec<&str> = match key.strip_prefix(PARAMETERS) {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => key.split('.').collect(),
    };
    set_path(settings, &path, value);
}

fn set_path(settings: &mut Settings, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if !rest.is_empty() {
        let entry = settings.entry((*first).to_owned()).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        if let Value::Object(inner) = entry {
            set_path(inner, rest, value);
            if inner.is_empty() {
                settings.shift_remove(*first);
            }
        }
    } else if value.is_null() {
        settings.shift_remove(*first);
    } else {
        settings.insert((*first).to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_keys_nest_and_parameters_keep_their_dots() {
        let mut settings = Map::new();
        set(&mut settings, "ttl", scalar("10"));
        set(&mut settings, "postgresql.use_slots", scalar("off"));
        set(&mut settings, "postgresql.parameters.pg_stat_statements.max", scalar("5"));
        set(&mut settings, "slots.a.type", scalar("physical"));
        let expected = json!({
            "ttl": 10,
            "postgresql": {"use_slots": false, "parameters": {"pg_stat_statements.max": 5}},
            "slots": {"a": {"type": "physical"}},
        });
        assert_eq!(Value::Object(settings.clone()), expected);
        set(&mut settings, "slots.a.type", Value::Null);
        set(&mut settings, "ttl", Value::Null);
        set(&mut settings, "never.there", Value::Null);
        let left: Vec<&String> = settings.keys().collect();
        assert_eq!(left, ["postgresql"]);
    }

    #[test]
    fn a_value_that_nobody_could_read_is_refused_before_it_is_stored() {
        let mut patch = Map::new();
        set(&mut patch, "ttl", scalar("soon"));
        set(&mut patch, "synchronus_mode", scalar("on"));
        set(&mut patch, "postgresql.parameters.work_mem", scalar("8MB"));
        let said: Vec<String> = check::dynamic(&patch).iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("ttl: expected a number of seconds"), "{said:?}");
        assert!(said[1].ends_with("did you mean 'synchronous_mode'?"), "{said:?}");
    }
}
