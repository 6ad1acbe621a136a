//! Commands that only look: list, topology, history, dsn.

use std::time::Duration;

use pgherd_api::{Cluster, MemberInfo};
use serde_json::{Map, Value};

use super::choose::has_role;
use super::{Ctl, failed, list};
use crate::args::{
    ClustersArg, DsnArgs, Format, HistoryArgs, ListArgs, PlaceArgs, Role, TopologyArgs, WatchArgs,
};
use crate::output::{Failure, Outcome};
use crate::table::{Align, Table};

impl WatchArgs {
    /// How long to wait before printing again; `None`: print once.
    pub(super) fn pause(&self) -> Outcome<Option<Duration>> {
        let seconds = self.watch.or(self.watch_2.then_some(2.0));
        let pause = seconds.map(|seconds| {
            Duration::try_from_secs_f64(seconds).ok().filter(|pause| !pause.is_zero())
        });
        match pause {
            None => Ok(None),
            Some(Some(pause)) => Ok(Some(pause)),
            Some(None) => Err(Failure::refused("--watch", "expected a number of seconds above 0")),
        }
    }
}

pub(super) async fn list(place: &PlaceArgs, args: &ListArgs) -> Outcome {
    let pause = args.watch.pause()?;
    let mut clusters = open_all(place, &args.clusters).await?;
    loop {
        let mut text = String::new();
        for ctl in &mut clusters {
            let Some(cluster) = read(ctl, pause, &mut text).await? else { continue };
            if args.timestamp {
                text.push_str(&format!("{}\n", jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S")));
            }
            text.push_str(&list::render(&cluster, args.format, args.extended));
        }
        let Some(pause) = turn(&mut clusters, pause, &text)? else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn topology(place: &PlaceArgs, args: &TopologyArgs) -> Outcome {
    let pause = args.watch.pause()?;
    let mut clusters = open_all(place, &args.clusters).await?;
    loop {
        let mut text = String::new();
        for ctl in &mut clusters {
            if let Some(cluster) = read(ctl, pause, &mut text).await? {
                text.push_str(&list::tree(&cluster));
            }
        }
        let Some(pause) = turn(&mut clusters, pause, &text)? else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

/// The cluster; while watching, what is wrong takes its place, and the watch goes on.
async fn read(
    ctl: &mut Ctl,
    watched: Option<Duration>,
    text: &mut String,
) -> Outcome<Option<Cluster>> {
    match ctl.read().await {
        Ok(cluster) => Ok(Some(cluster)),
        Err(Failure::Failed(error)) if watched.is_some() => {
            text.push_str(&format!("{}: {error:#}\n", ctl.keys.scope()));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Prints one turn; returns how long until the next.
fn turn(clusters: &mut [Ctl], pause: Option<Duration>, text: &str) -> Outcome<Option<Duration>> {
    if let Some(ctl) = clusters.first_mut() {
        clear(ctl, pause)?;
        ctl.printer.raw(text)?;
    }
    Ok(pause)
}

async fn open_all(place: &PlaceArgs, args: &ClustersArg) -> Outcome<Vec<Ctl>> {
    if args.clusters.is_empty() {
        return Ok(vec![Ctl::open(place, None).await?]);
    }
    let mut clusters = Vec::new();
    for name in &args.clusters {
        clusters.push(Ctl::open(place, Some(name)).await?);
    }
    Ok(clusters)
}

/// On a terminal a repeated table takes the place of the last one.
pub(super) fn clear(ctl: &mut Ctl, pause: Option<Duration>) -> Outcome {
    if pause.is_some() && ctl.printer.terminal {
        ctl.printer.raw("\x1b[2J\x1b[H")?;
    }
    Ok(())
}

const HISTORY: [(&str, Align); 5] = [
    ("TL", Align::Right),
    ("LSN", Align::Right),
    ("Reason", Align::Left),
    ("Timestamp", Align::Left),
    ("New Leader", Align::Left),
];

pub(super) async fn history(mut ctl: Ctl, args: &HistoryArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let history = cluster.history();
    let lines: Vec<&Vec<Value>> =
        history.as_array().into_iter().flatten().filter_map(Value::as_array).collect();
    let text = match args.format {
        Format::Pretty => {
            let mut table = Table::new(None);
            HISTORY.iter().for_each(|(name, align)| table.column(name, *align));
            for line in &lines {
                table.row((0..HISTORY.len()).map(|i| word(line.get(i))).collect());
            }
            table.draw()
        }
        Format::Tsv => {
            let names = HISTORY.map(|(name, _)| name).join("\t");
            let row = |line: &&Vec<Value>| {
                let cells: Vec<String> = (0..HISTORY.len()).map(|i| word(line.get(i))).collect();
                cells.join("\t") + "\n"
            };
            names + "\n" + &lines.iter().map(row).collect::<String>()
        }
        Format::Json => pgherd_api::json::spaced(&objects(&lines)).unwrap_or_default() + "\n",
        Format::Yaml => crate::yaml_text::block(&Value::Array(objects(&lines))) + "\n",
    };
    Ok(ctl.printer.raw(text)?)
}

fn objects(lines: &[&Vec<Value>]) -> Vec<Value> {
    let object = |line: &&Vec<Value>| {
        let cells = HISTORY.iter().zip(line.iter());
        let cells = cells.map(|((name, _), value)| ((*name).to_owned(), value.clone()));
        Value::Object(cells.collect::<Map<_, _>>())
    };
    lines.iter().map(object).collect()
}

fn word(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(super) async fn dsn(mut ctl: Ctl, args: &DsnArgs) -> Outcome {
    let cluster = ctl.read().await?;
    let role = args.role.unwrap_or(Role::Leader);
    let fits = |info: &&MemberInfo| match &args.member {
        Some(name) => info.name.as_str() == name,
        None => has_role(&cluster, info, role),
    };
    let found = cluster.members().values().find(fits);
    let address = found.and_then(|m| Some((m.host.as_deref()?, m.port?)));
    let Some((host, port)) = address else {
        return Err(failed("Can not find a suitable member"));
    };
    Ok(ctl.printer.line(format_args!("host={host} port={port}"))?)
}
