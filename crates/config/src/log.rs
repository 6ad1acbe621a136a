//! `log` (contract 3.3): what is told, in which form, and where. For agents and routers alike.
//! Leaves writing lines to the binary.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::parse;
use crate::problem::Problem;
use crate::section::Section;
use crate::yaml::{Node, Value};

/// What `log` says.
#[derive(Clone, PartialEq, Debug)]
pub struct LogSettings {
    /// The least level that is told.
    pub level: Level,
    /// The same for single modules, by their paths.
    pub loggers: Vec<(String, Level)>,
    /// What a line looks like.
    pub form: LogForm,
    /// What a time looks like, in strftime's words.
    pub times: Option<String>,
    /// So many lines wait to be written; more are lost.
    pub queue: usize,
    /// A file instead of standard error.
    pub file: Option<LogFile>,
}

/// How urgent, in Python's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// ERROR and CRITICAL.
    Error,
    /// WARNING.
    Warning,
    /// INFO.
    Info,
    /// DEBUG.
    Debug,
    /// NOTSET: everything.
    All,
}

/// What a line looks like.
#[derive(Clone, PartialEq, Debug)]
pub enum LogForm {
    /// pgherd's own: time, level, module, message, fields.
    Own,
    /// `log.format`.
    Plain(Vec<Piece>),
    /// An object.
    Json {
        /// Names and what stands under them.
        fields: Vec<(String, Attribute)>,
        /// The same in every line.
        fixed: Vec<(String, Json)>,
    },
}

/// A part of a plain line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// Something of the line's.
    Attribute {
        /// What.
        what: Attribute,
        /// At least so many characters.
        width: usize,
        /// The spaces follow.
        left: bool,
    },
}

/// What is known of a line; the names are Python's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// The time.
    Asctime,
    /// The level's name.
    Levelname,
    /// The module's path.
    Name,
    /// The last word of it.
    Module,
    /// The source's file.
    Filename,
    /// The line in it.
    Lineno,
    /// The process's number.
    Process,
    /// What happened.
    Message,
}

/// A log file, and those before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFile {
    /// In which directory.
    pub dir: PathBuf,
    /// The file's permissions.
    pub mode: u32,
    /// From this length on the next file begins.
    pub size: u64,
    /// How many old ones are kept; 0: there is only one, of any length.
    pub keep: u32,
}

impl Default for LogSettings {
    fn default() -> Self {
        let (loggers, file) = (Vec::new(), None);
        Self { level: Level::Info, loggers, form: LogForm::Own, times: None, queue: 1_000, file }
    }
}

/// The directives of strftime that mean the same everywhere.
const DIRECTIVES: &str = "aAbBdHIjmMpSyYzZf%FTDeGuVUwW";
/// What a line of type json has where nobody says anything (Patroni's, contract 3.3).
const JSON_FIELDS: [(&str, Attribute); 3] = [
    ("asctime", Attribute::Asctime),
    ("levelname", Attribute::Levelname),
    ("message", Attribute::Message),
];

/// Reads the section.
pub fn log(section: &Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let json = section.optional("type", |text| match text.to_ascii_lowercase().as_str() {
        "plain" => Ok(false),
        "json" => Ok(true),
        _ => Err("plain or json".to_owned()),
    });
    let format = section.take("format");
    let fixed = section.section("static_fields");
    let fixed = fixed.entries().map(|entry| (entry.key.clone(), entry.node.to_json())).collect();
    let form = match (json.unwrap_or(false), format) {
        (true, format) => LogForm::Json { fields: fields(section, format), fixed },
        (false, None) => LogForm::Own,
        (false, Some(node)) => plain(section, node),
    };
    let times = section.optional("dateformat", |text| {
        if legal_times(text) {
            Ok(text.to_owned())
        } else {
            Err(format!("strftime's words, of which %{DIRECTIVES} are known"))
        }
    });
    let positive = |text: &str| match text.parse::<usize>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("a whole number, 1 or more".to_owned()),
    };
    LogSettings {
        level: section.optional("level", level).unwrap_or(default.level),
        loggers: loggers(section),
        form,
        times,
        queue: section.optional("max_queue_size", positive).unwrap_or(default.queue),
        file: file(section),
    }
}

fn file(section: &Section<'_>) -> Option<LogFile> {
    let mode = |text: &str| {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        // Without quotes YAML may have made another number of it, whose owner has fewer rights.
        let legal = |mode: &u32| *mode <= 0o777 && mode & 0o600 == 0o600;
        let mode = u32::from_str_radix(digits, 8).ok().filter(legal);
        mode.ok_or_else(|| "a file's mode in octal digits and quotes like '0640'".to_owned())
    };
    // All of it is read, that every mistake is said.
    let mode = section.optional("mode", mode).unwrap_or(0o644);
    let size = section.optional("file_size", parse::bytes).unwrap_or(25_000_000);
    let keep = section.optional("file_num", parse::count).unwrap_or(4);
    let dir = section.optional("dir", parse::absolute)?;
    Some(LogFile { dir, mode, size, keep })
}

fn loggers(section: &Section<'_>) -> Vec<(String, Level)> {
    let loggers = section.section("loggers");
    let read = |name: &str, node: &Node| {
        let read = node.scalar().ok_or_else(String::new).and_then(|text| level(&text));
        let Ok(level) = read else {
            loggers.wrong(name, node, "a level: ERROR, WARNING, INFO, DEBUG");
            return None;
        };
        let Some(path) = module(name) else {
            let place = loggers.place(name);
            let words = "there is no module of this name; pgherd's are pgherd.agent, \
                         pgherd.postgres, pgherd.store, pgherd.router and those below them";
            section.note(Problem::warning(Some(node.origin.clone()), place, words));
            return None;
        };
        Some((path, level))
    };
    loggers.entries().filter_map(|entry| read(&entry.key, &entry.node)).collect()
}

/// `pgherd.agent.http` as the program calls it: `pgherd_agent::http`. A module of a library keeps its
/// name; Patroni's are not there.
fn module(name: &str) -> Option<String> {
    let path = name.replace("::", ".");
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let foreign = ["patroni", "urllib3", "etcd", "kazoo", "consul"];
    if path.is_empty()
        || !path.chars().all(legal)
        || foreign.contains(&path.split('.').next().unwrap_or_default())
    {
        return None;
    }
    // Each of pgherd's crates but the program's own has a name in two words.
    let crates = ["agent", "api", "config", "exporter", "init", "postgres", "router", "store"];
    let below = path.strip_prefix("pgherd.");
    let of_crate =
        below.filter(|rest| crates.contains(&rest.split('.').next().unwrap_or_default()));
    let path = of_crate.map_or(path.clone(), |rest| format!("pgherd_{rest}"));
    Some(path.replace('.', "::"))
}

fn level(text: &str) -> Result<Level, String> {
    match text.to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" | "ERROR" | "50" | "40" => Ok(Level::Error),
        "WARNING" | "WARN" | "30" => Ok(Level::Warning),
        "INFO" | "20" => Ok(Level::Info),
        "DEBUG" | "10" => Ok(Level::Debug),
        "NOTSET" | "0" => Ok(Level::All),
        _ => Err("ERROR, WARNING, INFO or DEBUG".to_owned()),
    }
}

fn legal_times(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '%' && !chars.next().is_some_and(|c| DIRECTIVES.contains(c)) {
            return false;
        }
    }
    !text.is_empty()
}

fn plain(section: &Section<'_>, node: &Node) -> LogForm {
    match node.scalar().map(|text| pieces(&text)) {
        Some(Ok(pieces)) => LogForm::Plain(pieces),
        Some(Err(words)) => {
            section.wrong("format", node, &words);
            LogForm::Own
        }
        None => {
            section.wrong("format", node, "one text like '%(asctime)s %(levelname)s: %(message)s'");
            LogForm::Own
        }
    }
}

/// `%(asctime)s %(levelname)-8s: %(message)s`.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        pieces.push(Piece::Text(before.to_owned()));
        if let Some(after) = after.strip_prefix('%') {
            pieces.push(Piece::Text("%".to_owned()));
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        let (name, after) = named.ok_or("'%(NAME)s', or %% for a percent sign")?;
        let end = after.find(['s', 'd']).ok_or("an 's' or 'd' behind '%(NAME)'")?;
        let (flags, after) = after.split_at(end);
        let left = flags.starts_with('-');
        let digits = flags.trim_start_matches('-');
        let width = if digits.is_empty() { Ok(0) } else { digits.parse() };
        let width = width.ok().filter(|width| *width <= 200);
        let width = width.ok_or("only a width between '%(NAME)' and its 's'")?;
        pieces.push(Piece::Attribute { what: attribute(name)?, width, left });
        rest = &after[1..];
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces.retain(|piece| *piece != Piece::Text(String::new()));
    Ok(pieces)
}

fn attribute(name: &str) -> Result<Attribute, String> {
    Ok(match name {
        "asctime" => Attribute::Asctime,
        "levelname" => Attribute::Levelname,
        "name" => Attribute::Name,
        "module" => Attribute::Module,
        "filename" => Attribute::Filename,
        "lineno" => Attribute::Lineno,
        "process" => Attribute::Process,
        "message" => Attribute::Message,
        _ => {
            return Err(
                "the names asctime, levelname, name, module, filename, lineno, process and \
                        message"
                    .to_owned(),
            );
        }
    })
}

/// A text as for plain lines, a list of names, or of `{name: other}`.
fn fields(section: &Section<'_>, format: Option<&Node>) -> Vec<(String, Attribute)> {
    let usual = || JSON_FIELDS.map(|(name, what)| (name.to_owned(), what)).to_vec();
    let Some(node) = format else { return usual() };
    let read = match &node.value {
        Value::List(items) => items.iter().map(field).collect::<Result<Vec<_>, _>>(),
        Value::Map(_) => field(node).map(|one| vec![one]),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {
            let text = node.scalar().unwrap_or_default();
            pieces(&text).map(|pieces| pieces.iter().map(named).collect())
        }
    };
    match read {
        Ok(fields) => fields.into_iter().flatten().collect(),
        Err(words) => {
            section.wrong("format", node, &words);
            usual()
        }
    }
}

type Field = Result<Vec<(String, Attribute)>, String>;

fn field(node: &Node) -> Field {
    if let Some(name) = node.scalar() {
        return Ok(vec![(name.clone(), attribute(&name)?)]);
    }
    let Value::Map(entries) = &node.value else {
        return Err("names, or '{name: other name}'".to_owned());
    };
    let one = |entry: &crate::yaml::Entry| {
        let shown = entry.node.scalar().ok_or("'{name: other name}'")?;
        Ok((shown, attribute(&entry.key)?))
    };
    entries.iter().map(one).collect()
}

fn named(piece: &Piece) -> Vec<(String, Attribute)> {
    let known = |what: &Attribute| match what {
        Attribute::Asctime => "asctime",
        Attribute::Levelname => "levelname",
        Attribute::Name => "name",
        Attribute::Module => "module",
        Attribute::Filename => "filename",
        Attribute::Lineno => "lineno",
        Attribute::Process => "process",
        Attribute::Message => "message",
    };
    match piece {
        Piece::Text(_) => Vec::new(),
        Piece::Attribute { what, .. } => vec![(known(what).to_owned(), *what)],
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn read(text: &str) -> (LogSettings, Vec<String>) {
        let document = Node::parse(text).unwrap();
        let problems = RefCell::new(Vec::new());
        let read = log(&Section::root(&document, &problems));
        (read, problems.into_inner().iter().map(ToString::to_string).collect())
    }

    fn good(text: &str) -> LogSettings {
        let (read, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        read
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(good("{}"), LogSettings::default());
    }

    #[test]
    fn a_file_with_its_limits() {
        for mode in ["'0640'", "'0o640'", "'640'", "640"] {
            let log = good(&format!("{{dir: /log, mode: {mode}, file_num: 2, file_size: 1MB}}"));
            let dir = PathBuf::from("/log");
            let expected = LogFile { dir, mode: 0o640, size: 1_048_576, keep: 2 };
            assert_eq!(log.file, Some(expected), "{mode}");
        }
        assert_eq!(read("{mode: 0o640}").1.len(), 1);
        assert_eq!(read("{mode: rwx, dir: log, max_queue_size: 0}").1.len(), 3);
    }

    #[test]
    fn formats_in_pythons_words() {
        let log = good("{format: '%(levelname)-8s %(message)s 100%%'}");
        let attribute = |what, width, left| Piece::Attribute { what, width, left };
        let text = |text: &str| Piece::Text(text.to_owned());
        let expected = [
            attribute(Attribute::Levelname, 8, true),
            text(" "),
            attribute(Attribute::Message, 0, false),
            text(" 100"),
            text("%"),
        ];
        assert_eq!(log.form, LogForm::Plain(expected.to_vec()));
        for bad in ["%(levelno)s", "%s", "%(message)", "%(message)_s", "%(message)9999s"] {
            assert_eq!(read(&format!("{{format: '{bad}'}}")).1.len(), 1, "{bad}");
        }
        let fields = |text: &str| match good(text).form {
            LogForm::Json { fields, .. } => {
                fields.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
            }
            LogForm::Own | LogForm::Plain(_) => Vec::new(),
        };
        assert_eq!(fields("{type: json}"), ["asctime", "levelname", "message"]);
        assert_eq!(fields("{type: json, format: [{message: msg}, process]}"), ["msg", "process"]);
        assert_eq!(fields("{type: json, format: '%(name)s: %(message)s'}"), ["name", "message"]);
        assert_eq!(read("{type: json, format: [levelno]}").1.len(), 1);
    }

    #[test]
    fn levels_of_modules() {
        let log = good("{level: warning, loggers: {pgherd.agent.http: DEBUG, pgherd.up: error}}");
        assert_eq!(log.level, Level::Warning);
        let expected = [
            ("pgherd_agent::http".to_owned(), Level::Debug),
            ("pgherd::up".to_owned(), Level::Error),
        ];
        assert_eq!(log.loggers, expected);
        let (log, problems) = read("{level: LOUD, loggers: {patroni.postmaster: DEBUG, h2: x}}");
        assert_eq!((log.loggers.len(), problems.len()), (0, 3), "{problems:?}");
    }

    #[test]
    fn times() {
        assert_eq!(
            good("{dateformat: '%Y-%m-%d %H:%M:%S'}").times.as_deref(),
            Some("%Y-%m-%d %H:%M:%S")
        );
        for bad in ["%Q", "%"] {
            assert_eq!(read(&format!("{{dateformat: '{bad}'}}")).1.len(), 1, "{bad}");
        }
    }
}
