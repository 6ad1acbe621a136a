//! Cluster-wide settings: show-config, edit-config, pause, resume.
//! A change compares the revision that was read, so that nobody's change is overwritten.

use std::io::Read;
use std::time::{Duration, Instant};

use pgherd_api::config::merge;
use pgherd_core::cluster::Key;
use pgherd_store::{Compare, Op, Txn};
use serde_json::{Map, Value, json};

use super::Ctl;
use crate::args::EditConfigArgs;
use crate::live::{Live, News};
use crate::output::{Failure, Outcome, confirm, warn};
use crate::settings::node::check_dynamic;
use crate::settings::problem::Severity;
use crate::settings::yaml::Node;

const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How long members may take to notice a pause.
const NOTICE_LIMIT: Duration = Duration::from_secs(15);

pub(super) async fn show(mut ctl: Ctl) -> Outcome {
    let cluster = ctl.read().await?;
    let config = cluster.config().map(|config| config.json.clone()).unwrap_or_default();
    Ok(ctl.printer.raw(yaml(&config))?)
}

pub(super) async fn edit(mut ctl: Ctl, args: &EditConfigArgs) -> Outcome {
    let patch = patch(args)?;
    let problems = check_dynamic(&patch);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Failure::Refused { place: String::new(), problems });
    }
    warn(&mut ctl.printer, "edit-config", &problems);
    let cluster = ctl.read().await?;
    let Some(old) = cluster.config() else {
        return Err(Failure::Failed(anyhow::anyhow!("the cluster has no settings yet")));
    };
    let mut new = old.json.clone();
    if !merge(&mut new, &patch) {
        return Ok(ctl.printer.line("Not changed")?);
    }
    if !args.quiet {
        let changes = diff(&yaml(&old.json), &yaml(&new));
        ctl.printer.raw(changes)?;
    }
    if !args.force {
        confirm("Apply these changes?")?;
    }
    if !put(&ctl, &new, old.modified.0).await? {
        let words = "Config modification aborted due to concurrent changes";
        return Err(Failure::Failed(anyhow::anyhow!(words)));
    }
    Ok(ctl.printer.line("Configuration changed")?)
}

/// Everything that was asked for, as one change.
fn patch(args: &EditConfigArgs) -> Outcome<Map<String, Value>> {
    let mut patch = Map::new();
    if let Some(file) = &args.apply {
        let text = if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        } else {
            std::fs::read_to_string(file).map_err(|error| {
                Failure::refused(file.display().to_string(), format!("can't be read: {error}"))
            })?
        };
        let node = Node::parse(&text).map_err(|problem| Failure::Refused {
            place: file.display().to_string(),
            problems: vec![problem],
        })?;
        let Value::Object(object) = node.to_json() else {
            let words = format!("expected keys and values, found {}", node.describe());
            return Err(Failure::refused(file.display().to_string(), words));
        };
        patch = object;
    }
    for (flag, pairs) in [("--set", &args.set), ("--pg", &args.pg)] {
        for pair in pairs {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                let words = format!("expected KEY=VALUE like ttl=10, found '{pair}'");
                return Err(Failure::refused(flag, words));
            };
            let key =
                if flag == "--pg" { format!("postgresql.parameters.{key}") } else { key.into() };
            set(&mut patch, &key, scalar(value));
        }
    }
    if patch.is_empty() {
        let words = "nothing to change; say -s KEY=VALUE, -p NAME=VALUE or --apply FILE (opening \
                     an editor isn't there yet)";
        return Err(Failure::refused("edit-config", words));
    }
    Ok(patch)
}

/// A value as YAML reads it: numbers, on and off, null, or text.
fn scalar(text: &str) -> Value {
    Node::parse(text).map_or_else(|_| Value::from(text), |node| node.to_json())
}

/// `a.b.c` as nested objects. Below `postgresql.parameters` dots belong to the parameter's name.
fn set(patch: &mut Map<String, Value>, key: &str, value: Value) {
    const PARAMETERS: &str = "postgresql.parameters.";
    let mut path: Vec<&str> = match key.strip_prefix(PARAMETERS) {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => key.split('.').collect(),
    };
    let last = path.pop().unwrap_or(key);
    let mut target = patch;
    for part in path {
        let entry = target.entry(part).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        let Value::Object(inner) = entry else { return };
        target = inner;
    }
    target.insert(last.to_owned(), value);
}

/// Block YAML with sorted keys, as patronictl shows it.
fn yaml(config: &Map<String, Value>) -> String {
    let sorted: std::collections::BTreeMap<&String, &Value> = config.iter().collect();
    serde_saphyr::to_string(&sorted).unwrap_or_default()
}

/// The lines that differ, with what is around them left out.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // Longest common subsequence, from the end.
    let mut length = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i][j] = if old[i] == new[j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && length[i + 1][j] >= length[i][j + 1]) {
            text.push_str(&format!("-{}\n", old[i]));
            i += 1;
        } else {
            text.push_str(&format!("+{}\n", new[j]));
            j += 1;
        }
    }
    text
}

/// Writes the settings, unless they were changed since `modified`.
async fn put(ctl: &Ctl, config: &Map<String, Value>, modified: u64) -> Outcome<bool> {
    let key = ctl.keys.path(&Key::Config);
    let value = serde_json::to_vec(config).map_err(anyhow::Error::from)?;
    let txn = Txn {
        compare: vec![Compare::mod_revision(key.clone(), modified)],
        then: vec![Op::put(key, value)],
        otherwise: Vec::new(),
    };
    let reply = ctl.store.txn(txn, WRITE_LIMIT).await.map_err(anyhow::Error::from)?;
    Ok(reply.succeeded)
}

pub(super) async fn pause(mut ctl: Ctl, pause: bool, wait: bool) -> Outcome {
    let word = if pause { "paused" } else { "resumed" };
    loop {
        let cluster = ctl.read().await?;
        let is = cluster.view().config.as_ref().is_some_and(|config| config.value.pause);
        if is == pause {
            let not = if pause { "already" } else { "not" };
            return Err(Failure::Failed(anyhow::anyhow!("Cluster is {not} paused")));
        }
        let (mut config, modified) = cluster
            .config()
            .map(|config| (config.json.clone(), config.modified.0))
            .unwrap_or_default();
        let value = if pause { Value::Bool(true) } else { Value::Null };
        merge(&mut config, &Map::from_iter([("pause".to_owned(), value)]));
        // Somebody else's change in between: read again.
        if put(&ctl, &config, modified).await? {
            break;
        }
    }
    if wait {
        let what = if pause { "pause" } else { "resume" };
        let words = format!("'{what}' request sent, waiting until it is recognized by all nodes");
        ctl.printer.line(words)?;
        noticed(&ctl, pause).await?;
    }
    Ok(ctl.printer.line(format_args!("Success: cluster management is {word}"))?)
}

async fn noticed(ctl: &Ctl, pause: bool) -> Outcome {
    let until = Instant::now() + NOTICE_LIMIT;
    let mut live = Live::follow(&ctl.store, &ctl.keys);
    let mut missing = Vec::new();
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match tokio::time::timeout(left, live.next()).await {
            Ok(Some(News::Cluster)) => {}
            Ok(Some(News::Lost(_))) => continue,
            Ok(None) | Err(_) => break,
        }
        let Some(cluster) = live.cluster() else { continue };
        let late = cluster.members().values().filter(|m| m.api_url.is_some() && m.pause != pause);
        missing = late.map(|m| m.name.to_string()).collect::<Vec<_>>();
        if missing.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "{} did not notice within {} s",
        missing.join(", "),
        NOTICE_LIMIT.as_secs()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_keys_nest_and_parameters_keep_their_dots() {
        let mut patch = Map::new();
        set(&mut patch, "ttl", scalar("10"));
        set(&mut patch, "postgresql.use_slots", scalar("off"));
        set(&mut patch, "postgresql.parameters.pg_stat_statements.max", scalar("null"));
        let expected = json!({
            "ttl": 10,
            "postgresql": {"use_slots": false, "parameters": {"pg_stat_statements.max": null}},
        });
        assert_eq!(Value::Object(patch), expected);
    }

    #[test]
    fn a_value_that_nobody_could_read_is_refused_before_it_is_stored() {
        let mut patch = Map::new();
        set(&mut patch, "ttl", scalar("soon"));
        set(&mut patch, "synchronus_mode", scalar("on"));
        set(&mut patch, "primary_start_timeout", scalar("null"));
        set(&mut patch, "postgresql.parameters.work_mem", scalar("8MB"));
        let said: Vec<String> = check_dynamic(&patch).iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("ttl: expected a number of seconds"), "{said:?}");
        assert!(said[1].ends_with("did you mean 'synchronous_mode'?"), "{said:?}");
    }

    #[test]
    fn a_diff_shows_what_changes_and_nothing_else() {
        let old = "loop_wait: 1\nttl: 5\n";
        let new = "loop_wait: 1\nmaximum: 3\nttl: 10\n";
        assert_eq!(diff(old, new), "-ttl: 5\n+maximum: 3\n+ttl: 10\n");
    }
}
