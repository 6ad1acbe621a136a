//! Commands that only look: list, topology, history, dsn.

use std::time::Duration;

use pgherd_api::MemberInfo;
use pgherd_api::words::parse_role;
use pgherd_core::cluster::MemberRole;
use serde_json::{Map, Value};

use super::{Ctl, leader_of, list, timestamp};
use crate::args::{DsnArgs, Format, HistoryArgs, ListArgs, Role, TopologyArgs, WatchArgs};
use crate::output::{Failure, Outcome};
use crate::table::{Align, Table};

impl WatchArgs {
    /// How long to wait before printing again; `None`: print once.
    fn pause(&self) -> Outcome<Option<Duration>> {
        let seconds = self.watch.or(self.watch_2.then_some(2.0));
        let pause = seconds.map(Duration::try_from_secs_f64).transpose();
        pause.map_err(|_| Failure::refused("--watch", "expected a number of seconds above 0"))
    }
}

pub(super) async fn list(mut ctl: Ctl, args: &ListArgs) -> Outcome {
    let pause = args.watch.pause()?;
    loop {
        let cluster = ctl.read().await?;
        clear(&mut ctl, pause)?;
        if args.timestamp {
            ctl.printer.line(timestamp())?;
        }
        ctl.printer.raw(list::render(&cluster, args.format, args.extended))?;
        let Some(pause) = pause else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn topology(mut ctl: Ctl, args: &TopologyArgs) -> Outcome {
    let pause = args.watch.pause()?;
    loop {
        let cluster = ctl.read().await?;
        clear(&mut ctl, pause)?;
        ctl.printer.raw(list::tree(&cluster))?;
        let Some(pause) = pause else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

/// On a terminal a repeated table takes the place of the last one.
fn clear(ctl: &mut Ctl, pause: Option<Duration>) -> Outcome {
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
        Format::Yaml => serde_saphyr::to_string(&objects(&lines)).unwrap_or_default(),
    };
    Ok(ctl.printer.raw(text)?)
}

fn objects(lines: &[&Vec<Value>]) -> Vec<Map<String, Value>> {
    let object = |line: &&Vec<Value>| {
        let cells = HISTORY.iter().zip(line.iter());
        cells.map(|((name, _), value)| ((*name).to_owned(), value.clone())).collect()
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
    let leader = leader_of(&cluster).map(|m| m.name.clone());
    let fits = |member: &&MemberInfo| {
        let leads = leader.as_ref() == Some(&member.name);
        match (&args.member, args.role) {
            (Some(name), _) => member.name.as_str() == name,
            (None, Some(Role::Any)) => true,
            (None, Some(Role::Replica | Role::Standby)) => !leads,
            (None, Some(Role::Primary)) => leads && parse_role(&member.role) == MemberRole::Primary,
            (None, Some(Role::Leader) | None) => leads,
        }
    };
    let found = cluster.members().values().find(fits);
    let address = found.and_then(|m| Some((m.host.as_deref()?, m.port?)));
    let Some((host, port)) = address else {
        return Err(Failure::Failed(anyhow::anyhow!("Can not find a suitable member")));
    };
    Ok(ctl.printer.line(format_args!("host={host} port={port}"))?)
}
