//! Prometheus' text format: families of samples, each with its help and type once.
//! Leaves which families there are to the collectors.

use std::collections::BTreeSet;
use std::fmt::Write;

/// How a value behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Untyped,
}

/// A page in the making.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

/// Samples of one name, written below each other whatever order they come in.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) help: String,
    samples: String,
    seen: BTreeSet<String>,
}

impl Family {
    pub(crate) fn new(name: impl Into<String>, kind: Kind, help: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            help: help.into(),
            samples: String::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Adds a sample; `value` is written as it stands. A second one with the same labels is left
    /// out: Prometheus would refuse the whole page.
    pub(crate) fn put<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: impl std::fmt::Display,
    ) {
        let labels: Vec<String> = labels
            .into_iter()
            .map(|(name, text)| format!("{name}=\"{}\"", escaped(text)))
            .collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a text can't fail.
        if !self.seen.contains(&labels) {
            let _ = writeln!(self.samples, "{}{labels} {value}", self.name);
            self.seen.insert(labels);
        }
    }
}

impl Page {
    /// Adds a family, unless it has no sample.
    pub(crate) fn family(&mut self, family: &Family) {
        if family.samples.is_empty() {
            return;
        }
        let Family { name, help, samples, kind, seen: _ } = family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Untyped => "untyped",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
    }

    /// Adds a family of one sample.
    pub(crate) fn one(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        value: impl std::fmt::Display,
    ) {
        let mut family = Family::new(name, kind, help);
        family.put([], value);
        self.family(&family);
    }

    /// Adds what somebody else has written in this format.
    pub(crate) fn foreign(&mut self, text: &str) {
        self.text.push_str(text);
        if !text.ends_with('\n') && !text.is_empty() {
            self.text.push('\n');
        }
    }

    /// The whole page.
    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// A label's value as it stands between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_once_with_their_samples_below() {
        let mut family = Family::new("pg_locks_count", Kind::Gauge, "Number of locks");
        family.put([("datname", "a\"b\\c\nd"), ("mode", "x")], 3);
        family.put([("datname", "a\"b\\c\nd"), ("mode", "x")], 4);
        family.put([], "NaN");
        let mut page = Page::default();
        page.family(&family);
        page.family(&Family::new("empty", Kind::Counter, "nothing"));
        page.foreign("other 1");
        let expected = "# HELP pg_locks_count Number of locks\n# TYPE pg_locks_count gauge\n\
                        pg_locks_count{datname=\"a\\\"b\\\\c\\nd\",mode=\"x\"} 3\npg_locks_count NaN\n\
                        other 1\n";
        assert_eq!(page.finish(), expected);
    }
}
