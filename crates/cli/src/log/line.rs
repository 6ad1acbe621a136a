//! A line of the log out of what happened: a pure function of an event and the settings.

use std::fmt::{self, Write as _};

use jiff::{Timestamp, tz::TimeZone};
use pgherd_config::LogSettings;
use pgherd_config::log::{Attribute, LogForm, Piece};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// What a line looks like.
pub(super) struct Form {
    form: LogForm,
    times: Option<String>,
    zone: TimeZone,
}

/// What happened.
pub(super) struct Record {
    at: Timestamp,
    level: Level,
    target: String,
    file: &'static str,
    line: u32,
    fields: Fields,
}

#[derive(Default)]
struct Fields {
    message: String,
    /// In their order: as a person reads them, and as a program does.
    others: Vec<(&'static str, String, Value)>,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        Self {
            at: Timestamp::now(),
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            fields,
        }
    }

    /// What the log has to say of itself.
    pub(super) fn own(message: String) -> Self {
        let fields = Fields { message, others: Vec::new() };
        let (level, target) = (Level::WARN, "pgherd::log".to_owned());
        Self { at: Timestamp::now(), level, target, file: file!(), line: line!(), fields }
    }

    /// The message with its fields, for people.
    fn told(&self) -> String {
        let mut told = self.fields.message.clone();
        for (name, shown, _) in &self.fields.others {
            // Writing to a string can't fail.
            let _ = write!(told, "{}{name}={shown}", if told.is_empty() { "" } else { " " });
        }
        told
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field.name(), format!("{value:?}"), None);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let shown = if field.name() == "message" { value.to_owned() } else { format!("{value:?}") };
        self.note(field.name(), shown, Some(Value::from(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field.name(), value.to_string(), Some(Value::from(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field.name(), value.to_string(), Some(Value::from(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field.name(), value.to_string(), Some(Value::from(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field.name(), value.to_string(), Some(Value::from(value)));
    }
}

impl Fields {
    fn note(&mut self, name: &'static str, shown: String, value: Option<Value>) {
        if name == "message" {
            self.message = shown;
        } else {
            let value = value.unwrap_or_else(|| Value::from(shown.as_str()));
            self.others.push((name, shown, value));
        }
    }
}

impl Form {
    pub(super) fn of(settings: &LogSettings) -> Self {
        let (form, times) = (settings.form.clone(), settings.times.clone());
        Self { form, times, zone: TimeZone::system() }
    }

    /// The line, with its end.
    pub(super) fn line(&self, record: &Record) -> String {
        let mut line = match &self.form {
            LogForm::Own => {
                let time = match &self.times {
                    Some(_) => self.time(record.at),
                    None => format!("{:.6}", record.at),
                };
                let (level, target) = (record.level, &record.target);
                printable(&format!("{time} {level:>5} {target}: {}", record.told()))
            }
            LogForm::Plain(pieces) => {
                let pieces = pieces.iter().map(|piece| self.piece(piece, record));
                printable(&pieces.collect::<String>())
            }
            LogForm::Json { fields, fixed } => {
                let mut object = Map::new();
                for (name, what) in fields {
                    object.insert(name.clone(), self.value(*what, record));
                }
                for (name, _, value) in &record.fields.others {
                    object.entry(*name).or_insert_with(|| value.clone());
                }
                for (name, value) in fixed {
                    object.entry(name.clone()).or_insert_with(|| value.clone());
                }
                Value::Object(object).to_string()
            }
        };
        line.push('\n');
        line
    }

    fn piece(&self, piece: &Piece, record: &Record) -> String {
        match piece {
            Piece::Text(text) => text.clone(),
            Piece::Attribute { what: Attribute::Message, .. } => record.told(),
            Piece::Attribute { what, width, left } => {
                let value = self.value(*what, record);
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                if *left { format!("{text:<width$}") } else { format!("{text:>width$}") }
            }
        }
    }

    fn value(&self, what: Attribute, record: &Record) -> Value {
        match what {
            Attribute::Asctime => Value::from(self.time(record.at)),
            Attribute::Levelname => Value::from(levelname(record.level)),
            Attribute::Name => Value::from(record.target.as_str()),
            Attribute::Module => Value::from(record.target.rsplit("::").next().unwrap_or_default()),
            Attribute::Filename => Value::from(record.file.rsplit('/').next().unwrap_or_default()),
            Attribute::Lineno => Value::from(record.line),
            Attribute::Process => Value::from(std::process::id()),
            Attribute::Message => Value::from(record.fields.message.as_str()),
        }
    }

    /// `dateformat`, or Python's `2026-11-22 18:33:38,123`.
    fn time(&self, at: Timestamp) -> String {
        let local = at.to_zoned(self.zone.clone());
        let usual = || {
            let millis = local.subsec_nanosecond() / 1_000_000;
            format!("{},{millis:03}", local.strftime("%Y-%m-%d %H:%M:%S"))
        };
        let Some(times) = &self.times else { return usual() };
        let mut text = String::new();
        // Directives that don't fit together are found only here.
        if write!(text, "{}", local.strftime(times)).is_ok() { text } else { usual() }
    }
}

fn levelname(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// Neither colours nor bells from others' messages; an end of a line stays one.
fn printable(text: &str) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        return text.to_owned();
    }
    let shown = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use serde_json::json;

    use super::*;

    fn form(text: &str) -> Form {
        let document = pgherd_config::yaml::Node::parse(text).unwrap();
        let problems = std::cell::RefCell::new(Vec::new());
        let root = pgherd_config::section::Section::root(&document, &problems);
        let settings = pgherd_config::log::log(&root);
        assert!(problems.into_inner().is_empty(), "{text}");
        Form { zone: TimeZone::UTC, ..Form::of(&settings) }
    }

    fn record() -> Record {
        let others =
            vec![("term", "7".to_owned(), json!(7)), ("why", "\"a b\"".to_owned(), json!("a b"))];
        Record {
            at: "2026-11-22T18:33:38.1239Z".parse().unwrap(),
            level: Level::WARN,
            target: "pgherd_agent::store".to_owned(),
            file: "crates/agent/src/store.rs",
            line: 9,
            fields: Fields { message: "the \u{1b}[31mstore\nis away".to_owned(), others },
        }
    }

    #[test]
    fn our_own() {
        let expected = "2026-11-22T18:33:38.123900Z  WARN pgherd_agent::store: \
                        the \\u{1b}[31mstore\nis away term=7 why=\"a b\"\n";
        assert_eq!(form("{}").line(&record()), expected);
        let line = form("{dateformat: '%H:%M'}").line(&record());
        assert!(line.starts_with("18:33  WARN pgherd_agent::store: the"), "{line}");
    }

    #[test]
    fn pythons() {
        let format = "{format: '%(asctime)s %(levelname)-8s|%(module)7s %(filename)s:%(lineno)d: %(message)s'}";
        let expected = "2026-11-22 18:33:38,123 WARNING |  store store.rs:9: \
                        the \\u{1b}[31mstore\nis away term=7 why=\"a b\"\n";
        assert_eq!(form(format).line(&record()), expected);
    }

    #[test]
    fn json_is_one_line_with_fields_as_values() {
        let line = form("{type: json, static_fields: {app: db, term: no}}").line(&record());
        assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "asctime": "2026-11-22 18:33:38,123", "levelname": "WARNING",
            "message": "the \u{1b}[31mstore\nis away", "term": 7, "why": "a b", "app": "db"
        });
        assert_eq!(read, expected);
        let line = form("{type: json, format: [{message: msg}]}").line(&record());
        assert!(line.starts_with("{\"msg\":\"the "), "{line}");
    }
}
