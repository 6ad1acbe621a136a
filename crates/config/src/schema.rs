//! Every key once: what it is, what it is when nobody writes it, who may say it, and what it does.
//! Checks, explanations and `docs/configuration.md` are made from this.
//! Leaves reading values to `parse`, and PostgreSQL's parameters to `guc`.

mod cluster;
mod node;
mod postgresql;
mod router;

use crate::parse;
use crate::yaml::{Node, Value};

/// What a key's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A text.
    Text,
    /// A text that is never shown.
    Secret,
    /// On or off, in any of Patroni's spellings.
    Switch,
    /// A whole number from this on.
    Whole(i64),
    /// Seconds, or with a unit; at least so many seconds.
    Span(u64),
    /// Bytes, or with a unit.
    Bytes,
    /// Bytes or -1.
    BytesOrOff,
    /// A list, or values with commas.
    List,
    /// Keys of their own; see those below it.
    Section,
    /// Keys that people make up.
    Free,
    /// Names and values, as a map or a list.
    Options,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `off`, `on` or `quorum`.
    SyncMode,
    /// `HOST:PORT`.
    HostPort,
    /// `HOST:PORT`, `*:PORT` to listen on.
    Listen,
    /// `HOST[,HOST...][:PORT]`.
    PgListen,
    /// An absolute path.
    Path,
    /// Anything.
    Any,
}

/// Which source is heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// This node's file and environment.
    Local,
    /// The store's `config`, which is one for the cluster.
    Dynamic,
    /// Both; the node's wins.
    Both,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// With its sections, dotted.
    pub path: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds when nobody writes it; empty: nothing.
    pub default: &'static str,
    /// Who may say it.
    pub scope: Scope,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// Why it has no effect, when it has none.
    pub unused: Option<&'static str>,
    /// It may not be missing.
    pub required: bool,
    /// Another name, old or mistaken, that means the same.
    pub instead_of: Option<&'static str>,
    /// A reload is not enough: the agent has to start again.
    pub fixed: bool,
}

impl Key {
    const fn new(
        path: &'static str,
        kind: Kind,
        default: &'static str,
        scope: Scope,
        about: &'static str,
    ) -> Self {
        Self {
            path,
            kind,
            default,
            scope,
            about,
            unused: None,
            required: false,
            instead_of: None,
            fixed: false,
        }
    }

    const fn unused(self, why: &'static str) -> Self {
        Self { unused: Some(why), ..self }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn also(self, other: &'static str) -> Self {
        Self { instead_of: Some(other), ..self }
    }

    const fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    /// The last word of the path.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// The sections above it, dotted; empty at the root.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }
}

const fn local(p: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key::new(p, kind, default, Scope::Local, about)
}

const fn dynamic(p: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key::new(p, kind, default, Scope::Dynamic, about)
}

const fn both(p: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key::new(p, kind, default, Scope::Both, about)
}

/// Every key, in the order of the documentation.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    node::KEYS.iter().chain(postgresql::KEYS).chain(cluster::KEYS)
}

/// The key at a path, by its name or another one for it.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    keys().find(|key| {
        let other = key.instead_of.is_some_and(|other| {
            let section = key.section();
            if section.is_empty() { path == other } else { path == format!("{section}.{other}") }
        });
        key.path == path || other
    })
}

/// The keys at the root of a router's file; its sections `log`, `etcd3` and `ctl` are a node's.
#[must_use]
pub fn of_router() -> &'static [Key] {
    router::KEYS
}

/// The keys directly below a section; the root is the empty path.
pub fn below(section: &str) -> impl Iterator<Item = &'static Key> {
    keys().filter(move |key| key.section() == section)
}

impl Kind {
    /// Whether a value can be read as this; the error says what was expected.
    ///
    /// # Errors
    /// It can't.
    pub fn check(self, node: &Node) -> Result<(), String> {
        let text = || node.scalar().ok_or_else(|| self.describe());
        let one = |parse: fn(&str) -> Result<(), String>| text().and_then(|text| parse(&text));
        match self {
            Self::Text | Self::Secret => text().map(drop),
            Self::Switch => one(|text| parse::boolean(text).map(drop)),
            Self::Whole(least) => {
                let number = parse::integer(&text()?).map_err(|_| self.describe())?;
                if number >= least { Ok(()) } else { Err(self.describe()) }
            }
            Self::Span(least) => {
                let span = parse::span(&text()?).map_err(|_| self.describe())?;
                if span.0 >= least * 1_000_000 { Ok(()) } else { Err(self.describe()) }
            }
            Self::Bytes => one(|text| parse::bytes(text).map(drop)),
            Self::BytesOrOff => {
                let text = text()?;
                let off = parse::integer(&text).is_ok_and(|n| n < 0);
                if off { Ok(()) } else { parse::bytes(&text).map(drop) }
            }
            Self::List => match &node.value {
                Value::List(_) => Ok(()),
                Value::Null
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::Map(_) => text().map(drop),
            },
            Self::Section | Self::Free => match node.value {
                Value::Map(_) | Value::Null => Ok(()),
                Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::List(_) => Err(self.describe()),
            },
            Self::Choice(words) => {
                let text = text()?;
                let known = words.iter().any(|word| word.eq_ignore_ascii_case(&text));
                if known { Ok(()) } else { Err(self.describe()) }
            }
            Self::SyncMode => {
                let text = text()?;
                let known = text.eq_ignore_ascii_case("quorum") || parse::boolean(&text).is_ok();
                if known { Ok(()) } else { Err(self.describe()) }
            }
            Self::HostPort => one(|text| parse::host_port(text).map(drop)),
            Self::Listen => one(|text| parse::listen_parts(text).map(drop)),
            Self::PgListen => one(|text| parse::pg_listen(text).map(drop)),
            Self::Path => one(|text| parse::absolute(text).map(drop)),
            Self::Any | Self::Options => Ok(()),
        }
    }

    /// What may be written, in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Text | Self::Secret => "one value".to_owned(),
            Self::Switch => "on or off".to_owned(),
            Self::Whole(i64::MIN) => "a whole number".to_owned(),
            Self::Whole(least) => format!("a whole number, {least} or more"),
            Self::Span(0) => "a number of seconds, or one with a unit (ms s min h d)".to_owned(),
            Self::Span(least) => {
                format!("a number of seconds, or one with a unit (ms s min h d), {least} s or more")
            }
            Self::Bytes => "a number of bytes, or one with a unit (kB MB GB TB)".to_owned(),
            Self::BytesOrOff => {
                "a number of bytes, or one with a unit (kB MB GB TB), or -1".to_owned()
            }
            Self::List => "a list, or values with commas".to_owned(),
            Self::Section | Self::Free => "a section of keys".to_owned(),
            Self::Options => "a list or a section of options".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::SyncMode => "off, on or quorum".to_owned(),
            Self::HostPort => "HOST:PORT like 10.0.0.5:5432".to_owned(),
            Self::Listen => "an address to listen on like 127.0.0.1:8008 or *:8008".to_owned(),
            Self::PgListen => "HOST[,HOST...]:PORT like 127.0.0.1:5432 or *:5432".to_owned(),
            Self::Path => "an absolute path".to_owned(),
            Self::Any => "anything".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_there_once_below_a_section_and_its_default_is_legal() {
        let mut seen = std::collections::BTreeSet::new();
        for key in keys().chain(of_router().iter().filter(|key| find(key.path).is_none())) {
            assert!(seen.insert(key.path), "{} twice", key.path);
            let section = key.section();
            if !section.is_empty() {
                let above = find(section).unwrap_or_else(|| panic!("{} is nowhere", key.path));
                assert_eq!(above.kind, Kind::Section, "{}", key.path);
            }
            if !key.default.is_empty() {
                let node = Node::parse(key.default).unwrap();
                assert_eq!(key.kind.check(&node), Ok(()), "{}", key.path);
            }
            assert!(key.about.ends_with('.'), "{}", key.path);
        }
    }

    #[test]
    fn every_environment_variable_sets_a_key_that_is_known() {
        for variable in crate::environment::variables() {
            let path = variable.path.join(".");
            // Named only to be refused.
            if path.starts_with("etcd.") {
                continue;
            }
            assert!(find(&path).is_some(), "{} sets {path}", variable.name);
        }
    }
}
