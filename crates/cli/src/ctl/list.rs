//! `ctl list` and `ctl topology`: the members as patronictl shows them (contract 5.2, 5.3).
//! Leaves reading the cluster to the caller.

#[cfg(test)]
mod tests;

use pgherd_api::Cluster;
use pgherd_api::rest::{ClusterBody, ClusterMember, Lag, Positions};
use pgherd_core::cluster::Initialize;
use serde_json::{Map, Value};

use crate::args::Format;
use crate::table::{Align, Table};
use crate::yaml_text;

/// One printed column: its name in tables, its name in data, how it stands.
struct Column {
    title: &'static str,
    name: &'static str,
    align: Align,
}

const fn column(title: &'static str, name: &'static str, align: Align) -> Column {
    Column { title, name, align }
}

const COLUMNS: [Column; 9] = [
    column("Member", "Member", Align::Left),
    column("Host", "Host", Align::Left),
    column("Role", "Role", Align::Left),
    column("State", "State", Align::Left),
    column("TL", "TL", Align::Right),
    column("Receive LSN", "Receive LSN", Align::Right),
    column("Lag", "Receive Lag", Align::Right),
    column("Replay LSN", "Replay LSN", Align::Right),
    column("Lag", "Replay Lag", Align::Right),
];

/// Columns that are there only when some member has something to say, or all are wanted.
const OPTIONAL: [Column; 4] = [
    column("Pending restart", "Pending restart", Align::Left),
    column("Pending restart reason", "Pending restart reason", Align::Left),
    column("Scheduled restart", "Scheduled restart", Align::Left),
    column("Tags", "Tags", Align::Left),
];

/// The members in the form that was asked for, each line with its break.
pub(crate) fn render(cluster: &Cluster, format: Format, extended: bool) -> String {
    let body = ClusterBody::new(cluster);
    let rows = rows(&body, if format == Format::Pretty { Kind::Block } else { Kind::Data });
    match format {
        Format::Pretty => pretty(cluster, &rows, extended),
        Format::Tsv => tsv(&rows, extended),
        Format::Json => {
            let json = Value::Array(rows.iter().map(data).collect());
            pgherd_api::json::spaced(&json).unwrap_or_default() + "\n"
        }
        Format::Yaml => {
            let json = Value::Array(rows.iter().map(data).collect());
            yaml_text::block(&json) + "\n"
        }
    }
}

/// The members as a tree of who streams from whom.
pub(crate) fn tree(cluster: &Cluster) -> String {
    let mut body = ClusterBody::new(cluster);
    let leader = body.members.iter().position(|m| m.role.ends_with("leader"));
    let leader = leader.map(|index| body.members.remove(index));
    let mut ordered = Vec::new();
    let mut rest = std::mem::take(&mut body.members);
    if let Some(leader) = leader {
        let name = leader.name.clone();
        ordered.push((0, leader));
        below(&name, true, 1, &mut rest, &mut ordered);
    }
    // Without a leader, or in a circle: nobody is left out.
    ordered.extend(rest.into_iter().map(|member| (0, member)));
    body.members = ordered
        .into_iter()
        .map(|(depth, mut member)| {
            if depth > 0 {
                member.name = format!("{}+ {}", "  ".repeat(depth - 1), member.name);
            }
            member
        })
        .collect();
    pretty(cluster, &rows(&body, Kind::Tree), false)
}

fn below(
    parent: &str,
    is_leader: bool,
    depth: usize,
    rest: &mut Vec<ClusterMember>,
    ordered: &mut Vec<(usize, ClusterMember)>,
) {
    let upstream = |member: &ClusterMember, rest: &[ClusterMember]| {
        let named = member.tags.get("replicatefrom").and_then(Value::as_str);
        let named = named.filter(|name| *name == parent || rest.iter().any(|m| m.name == *name));
        named.map_or(is_leader, |name| name == parent)
    };
    let children: Vec<ClusterMember> = rest.iter().filter(|m| upstream(m, rest)).cloned().collect();
    rest.retain(|m| !children.iter().any(|c| c.name == m.name));
    for child in children {
        let name = child.name.clone();
        ordered.push((depth, child));
        below(&name, false, depth + 1, rest, ordered);
    }
}

/// One member's cells, in the order of all columns; data keeps numbers.
type Row = Vec<Value>;

/// What the rows are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A table with one tag per line.
    Block,
    /// A table with all tags in one line.
    Tree,
    /// No table: nothing is shortened.
    Data,
}

fn rows(body: &ClusterBody, kind: Kind) -> Vec<Row> {
    let show_port = body.members.iter().any(|m| m.port != Some(5432)) || hosts_repeat(body);
    let row = |member: &ClusterMember| {
        let host = member.host.clone().unwrap_or_default();
        let host = match member.port {
            Some(port) if show_port => format!("{host}:{port}"),
            _ => host,
        };
        let positions = member.positions.as_ref();
        let streaming = member.state == "streaming";
        let shown = positions.map(|positions| shown_positions(positions, streaming));
        let (receive, replay) = shown.unwrap_or_default();
        vec![
            Value::from(body.scope.as_str()),
            Value::from(member.name.as_str()),
            Value::from(host),
            Value::from(title_case(&member.role)),
            Value::from(member.state.as_str()),
            member.timeline.map_or(Value::Null, |tl| Value::from(tl.0)),
            receive.0,
            receive.1,
            replay.0,
            replay.1,
            if member.pending_restart { Value::from("*") } else { Value::Null },
            member.pending_restart_reason.as_ref().map_or(Value::Null, |it| reasons(it, kind)),
            member.scheduled_restart.as_ref().map_or(Value::Null, planned),
            tags(&member.tags, kind),
        ]
    };
    body.members.iter().map(row).collect()
}

fn hosts_repeat(body: &ClusterBody) -> bool {
    let mut hosts: Vec<_> = body.members.iter().map(|m| m.host.as_deref()).collect();
    hosts.sort_unstable();
    hosts.windows(2).any(|pair| pair[0] == pair[1])
}

/// A position and its distance, as two cells.
type Shown = (Value, Value);

/// Received and replayed. Old agents publish one position only: it is received by who streams, and
/// replayed by who doesn't.
fn shown_positions(positions: &Positions, streaming: bool) -> (Shown, Shown) {
    let shown = |lsn: &str, lag| (Value::from(lsn), megabytes(lag));
    let (receive, replay) = (&*positions.receive_lsn, &*positions.replay_lsn);
    if receive == "unknown" && replay == "unknown" && positions.lsn != "unknown" {
        let known = shown(&positions.lsn, positions.lag);
        let unknown = shown(receive, Lag::Unknown);
        return if streaming { (known, unknown) } else { (unknown, known) };
    }
    (shown(receive, positions.receive_lag), shown(replay, positions.replay_lag))
}

/// Rounded to even at a half, as Python rounds.
fn megabytes(lag: Lag) -> Value {
    match lag {
        Lag::Bytes(bytes) => {
            let (whole, rest) = (bytes >> 20, bytes & 0xf_ffff);
            let up = rest > 1 << 19 || (rest == 1 << 19 && whole % 2 == 1);
            Value::from(whole + u64::from(up))
        }
        Lag::Unknown => Value::Null,
    }
}

/// `max_connections: 100->101`, one line each; in tables long ones are hidden.
fn reasons(reasons: &Value, kind: Kind) -> Value {
    const LONGEST: usize = 50;
    let line = |(name, values): (&String, &Value)| {
        let value = |key: &str| values[key].as_str().unwrap_or_default().to_owned();
        let line = format!("{name}: {}->{}", value("old_value"), value("new_value"));
        if kind != Kind::Data && line.chars().count() > LONGEST {
            return format!("{name}: [hidden - too long]");
        }
        line
    };
    let lines: Vec<String> = reasons.as_object().into_iter().flatten().map(line).collect();
    if lines.is_empty() { Value::Null } else { Value::from(lines.join("\n")) }
}

/// When, and under which condition.
fn planned(restart: &Value) -> Value {
    let mut text = restart["schedule"].as_str().unwrap_or_default().to_owned();
    if let Some(version) = restart["postgres_version"].as_str() {
        text.push_str(&format!(" if version < {version}"));
    }
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

fn title_case(role: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    role.split('_').map(word).collect::<Vec<_>>().join(" ")
}

fn tags(tags: &Map<String, Value>, kind: Kind) -> Value {
    match (tags.is_empty(), kind) {
        (true, _) => Value::Null,
        (false, Kind::Tree) => Value::from(yaml_text::flow(&Value::Object(tags.clone()))),
        (false, Kind::Block | Kind::Data) => Value::Object(tags.clone()),
    }
}

/// A value as a table's cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(_) => yaml_text::block(value).trim_end().to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
    }
}

/// Which optional columns are shown.
fn shown(rows: &[Row], extended: bool) -> Vec<usize> {
    let first = 1 + COLUMNS.len();
    let used = |index: usize| rows.iter().any(|row| !row[index].is_null());
    (first..first + OPTIONAL.len()).filter(|index| extended || used(*index)).collect()
}

fn pretty(cluster: &Cluster, rows: &[Row], extended: bool) -> String {
    let mut table = Table::new(Some(title(cluster)));
    let optional = shown(rows, extended);
    for column in &COLUMNS {
        table.column(column.title, column.align);
    }
    for index in &optional {
        let column = &OPTIONAL[index - 1 - COLUMNS.len()];
        table.column(column.title, column.align);
    }
    for row in rows {
        let fixed = row[1..=COLUMNS.len()].iter();
        table.row(fixed.chain(optional.iter().map(|i| &row[*i])).map(cell).collect());
    }
    table.draw() + &footer(&ClusterBody::new(cluster))
}

/// `Cluster: demo (7711057973605780227)`.
pub(crate) fn title(cluster: &Cluster) -> String {
    let id = match cluster.view().initialize.as_ref().map(|key| key.value) {
        None => "uninitialized".to_owned(),
        Some(Initialize::Bootstrapping) => "initializing".to_owned(),
        Some(Initialize::Done(id)) => id.to_string(),
    };
    format!("Cluster: {} ({id})", cluster.keys().scope())
}

fn footer(body: &ClusterBody) -> String {
    let mut text = String::new();
    if body.pause {
        text.push_str(" Maintenance mode: on\n");
    }
    if let Some(planned) = &body.scheduled_switchover {
        text.push_str(&format!(" Switchover scheduled at: {}\n", planned.at));
        for (word, name) in [("from", &planned.from), ("to", &planned.to)] {
            if let Some(name) = name {
                text.push_str(&format!("{word:>24}: {name}\n"));
            }
        }
    }
    text
}

fn tsv(rows: &[Row], extended: bool) -> String {
    let optional = shown(rows, extended);
    let names = COLUMNS.iter().map(|c| c.name);
    let names = std::iter::once("Cluster").chain(names);
    let more = optional.iter().map(|i| OPTIONAL[i - 1 - COLUMNS.len()].name);
    let mut text = names.chain(more).collect::<Vec<_>>().join("\t") + "\n";
    for row in rows {
        let cells = row[..=COLUMNS.len()].iter().chain(optional.iter().map(|i| &row[*i]));
        let flow = |value: &Value| {
            if value.is_object() { yaml_text::flow(value) } else { cell(value) }
        };
        let cells = cells.map(flow);
        text.push_str(&cells.collect::<Vec<_>>().join("\t"));
        text.push('\n');
    }
    text
}

/// A row as an object; what is empty is left out.
fn data(row: &Row) -> Value {
    let names = COLUMNS.iter().chain(&OPTIONAL).map(|c| c.name);
    let names = std::iter::once("Cluster").chain(names);
    let pairs = names.zip(row).filter(|(_, value)| !value.is_null());
    Value::Object(pairs.map(|(name, value)| (name.to_owned(), value.clone())).collect())
}
