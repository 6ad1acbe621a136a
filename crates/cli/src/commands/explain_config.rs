//! `pgherd explain-config [FILE] [KEY...]`: every effective setting of a node, where it came from,
//! what it overrode, and what was said in vain.

use std::path::Path;

use anyhow::Context;
use pgherd_agent::Settings;
use pgherd_config::explain::{Row, explain};
use pgherd_config::{Local, Role, Sources};
use serde_json::{Map, Value, json};

use super::check_config::{cached, place_of};
use crate::args::{ExplainConfigArgs, NodeRole, Report};
use crate::live;
use crate::output::{Failure, Outcome, Printer};
use crate::settings::node::{ClusterId, resolve};
use crate::sources;
use crate::table::{Align, Table};

/// Wider cells are cut: what is longer is in the JSON.
const WIDTH: usize = 60;

/// Where the cluster's settings were taken from.
#[derive(Clone, Copy)]
enum Cluster {
    Store,
    Copy,
    Founding,
    Nothing,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainConfigArgs) -> Outcome {
    let (file, keys) = split(&args.words);
    let sources = sources::gather(file)?;
    if sources.is_empty() {
        let words = "nothing to explain; name a settings file, or set PATRONI_SCOPE and the other \
                     variables (docs/configuration.md)";
        return Err(Failure::refused("explain-config", words));
    }
    let settings = settings(&sources)?;
    let (config, from) = cluster_settings(&settings, args.offline)?;
    let role = match args.role {
        NodeRole::Primary => Role::Primary,
        NodeRole::Replica => Role::Replica,
        NodeRole::StandbyLeader => Role::StandbyLeader,
    };
    let mut rows = explain(&settings.local, &config, role);
    let chosen = |key: &str| {
        let below = |wanted: &String| {
            key.strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        keys.is_empty() || keys.iter().any(below)
    };
    rows.retain(|row| chosen(&row.key));
    if rows.is_empty() {
        let words = format!("no effective setting is called {}", keys.join(" or "));
        return Err(Failure::refused("explain-config", words));
    }
    match args.output {
        Report::Pretty => pretty(&rows, from),
        Report::Json => {
            let list: Vec<Value> = rows.iter().map(json_of).collect();
            let text = serde_json::to_string_pretty(&list).map_err(anyhow::Error::from)?;
            Ok(Printer::new().line(text)?)
        }
    }
}

/// The first word is a file when it looks like one or is one; the others are keys.
fn split(words: &[String]) -> (Option<&Path>, &[String]) {
    let Some((first, rest)) = words.split_first() else { return (None, words) };
    let path = Path::new(first);
    let named = first.contains('/') || first.ends_with(".yml") || first.ends_with(".yaml");
    if named || path.exists() { (Some(path), rest) } else { (None, words) }
}

fn settings(sources: &Sources) -> Outcome<Settings> {
    match resolve(sources) {
        Ok(resolved) => Ok(resolved.value),
        Err(problems) => Err(Failure::Refused { place: String::new(), problems }),
    }
}

/// From the store; where that can't be reached, the node's copy; before the cluster is founded, what
/// it will be founded with.
fn cluster_settings(settings: &Settings, offline: bool) -> Outcome<(Map<String, Value>, Cluster)> {
    if !offline {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("the runtime can't be started")?;
        match runtime.block_on(from_store(settings)) {
            Ok(Some(config)) => return Ok((config, Cluster::Store)),
            Ok(None) => {}
            Err(error) => {
                let words = format_args!("the store does not answer ({error:#})");
                Printer::new().error(words)?;
            }
        }
    }
    Ok(match (cached(&settings.local), founding(&settings.local)) {
        (Some(config), _) => (config, Cluster::Copy),
        (None, Some(config)) => (config, Cluster::Founding),
        (None, None) => (Map::new(), Cluster::Nothing),
    })
}

async fn from_store(settings: &Settings) -> anyhow::Result<Option<Map<String, Value>>> {
    let id = ClusterId { namespace: settings.namespace.clone(), scope: settings.scope.clone() };
    let cluster = live::read(&live::client(&settings.store)?, &live::keys(&id)).await?;
    Ok(cluster.config().map(|config| config.json.clone()))
}

fn founding(local: &Local) -> Option<Map<String, Value>> {
    match local.get(&["bootstrap", "dcs"])?.to_json() {
        Value::Object(config) => Some(config),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            None
        }
    }
}

fn pretty(rows: &[Row], from: Cluster) -> Outcome {
    let mut table = Table::new(None);
    for name in ["Setting", "Value", "From", "Overrode"] {
        table.column(name, Align::Left);
    }
    for row in rows {
        let overrode = row.overrode.iter().map(|(value, at)| format!("{} ({at})", cut(value)));
        let overrode: Vec<String> = overrode.collect();
        let cells = vec![row.key.clone(), cut(&row.value), row.origin.to_string()];
        table.row(cells.into_iter().chain([overrode.join(", ")]).collect());
    }
    let mut printer = Printer::new();
    printer.raw(table.draw())?;
    for row in rows {
        for note in &row.notes {
            printer.line(format_args!("{}: {note}", row.key))?;
        }
    }
    let words = match from {
        Cluster::Store => "The dynamic configuration is the store's.",
        Cluster::Copy => "The dynamic configuration is this node's copy, as it last saw it.",
        Cluster::Founding => "There is no cluster yet: the dynamic configuration is bootstrap.dcs.",
        Cluster::Nothing => "The dynamic configuration is not known: defaults stand for it.",
    };
    Ok(printer.line(words)?)
}

fn cut(text: &str) -> String {
    let line = text.replace('\n', " ");
    if line.chars().count() <= WIDTH {
        return line;
    }
    let kept: String = line.chars().take(WIDTH - 3).collect();
    format!("{kept}...")
}

fn json_of(row: &Row) -> Value {
    let overrode = row.overrode.iter();
    let overrode = overrode.map(|(value, at)| json!({"value": value, "source": place_of(at)}));
    json!({
        "key": row.key,
        "value": row.value,
        "source": place_of(&row.origin),
        "overrode": overrode.collect::<Vec<_>>(),
        "notes": row.notes,
    })
}
