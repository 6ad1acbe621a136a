//! Which questions are asked, and which series each answer is: data, and nothing else.
//! A query's first columns are the labels, the others the metrics, in the order listed; a NULL is
//! no sample. Names are those of postgres_exporter (its `collector/` and built-in queries); where a
//! server of 17 or newer keeps a number elsewhere, the query finds it under the name that it had.

mod activity;
mod replication;
mod storage;
mod tables;

use crate::page::Kind;

/// One question.
#[derive(Debug)]
pub(crate) struct Collector {
    /// The label `collector` of `pg_scrape_collector_success`.
    pub(crate) name: &'static str,
    /// Majors that it is for.
    pub(crate) versions: std::ops::RangeInclusive<u32>,
    /// What the metrics' names begin with.
    pub(crate) prefix: &'static str,
    /// Whether samples have the label `server`, as those of the built-in queries do.
    pub(crate) server: Server,
    pub(crate) query: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) metrics: &'static [Metric],
}

/// A column that is a number.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) suffix: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

/// Whether the label `server` is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Labelled,
    Plain,
}

const ANY: std::ops::RangeInclusive<u32> = 1..=u32::MAX;

const fn counter(suffix: &'static str, help: &'static str) -> Metric {
    Metric { suffix, kind: Kind::Counter, help }
}

const fn gauge(suffix: &'static str, help: &'static str) -> Metric {
    Metric { suffix, kind: Kind::Gauge, help }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Collector> {
    let parts =
        [activity::COLLECTORS, storage::COLLECTORS, replication::COLLECTORS, tables::COLLECTORS];
    parts.into_iter().flatten()
}

/// What can be left out, by name.
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = all().map(|collector| collector.name).collect();
    names.push("settings");
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_one_meaning_for_each_server() {
        for major in [13, 14, 15, 16, 17, 18] {
            let mut seen = std::collections::BTreeMap::new();
            for collector in all().filter(|it| it.versions.contains(&major)) {
                for metric in collector.metrics {
                    let name = format!("{}_{}", collector.prefix, metric.suffix);
                    let before = seen.insert(name.clone(), collector.name);
                    assert_eq!(before, None, "{name} twice on {major}");
                }
            }
            assert!(seen.len() > 60, "only {} on {major}", seen.len());
        }
    }
}
