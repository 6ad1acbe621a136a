//! All sources of a node's local configuration as one value (contract 3.1): which count, and which
//! is stronger.
//! Leaves reading files and the environment to the caller.

use std::collections::BTreeMap;

use crate::environment;
use crate::local::Local;
use crate::problem::Problem;
use crate::spilo::{self, Machine};
use crate::yaml::Node;

/// What a process was given.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Names and texts of the files, the weaker first.
    pub files: Vec<(String, String)>,
    /// The environment, whole.
    pub environment: BTreeMap<String, String>,
    /// The machine.
    pub machine: Machine,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.files.iter().map(|(name, _)| name).collect();
        f.debug_struct("Sources").field("files", &names).finish_non_exhaustive()
    }
}

impl Sources {
    /// One file, and nothing else.
    #[must_use]
    pub fn file(name: &str, text: &str) -> Self {
        Self { files: vec![(name.to_owned(), text.to_owned())], ..Self::default() }
    }

    /// The layers, and what is wrong with the sources themselves.
    ///
    /// Files, then `PATRONI_*` over them. Without a file: `PATRONI_CONFIGURATION` alone; without
    /// that, `PATRONI_*` over Spilo's variables where those count.
    #[must_use]
    pub fn read(&self) -> (Local, Vec<Problem>) {
        let mut layers = Vec::new();
        let mut problems = Vec::new();
        for (name, text) in &self.files {
            match Node::parse_file(name, text) {
                Ok(node) => layers.push(node),
                Err(problem) => problems.push(problem),
            }
        }
        let whole = self.environment.get(environment::WHOLE).filter(|text| !text.is_empty());
        if let (true, Some(text)) = (self.files.is_empty(), whole) {
            match Node::parse_file(environment::WHOLE, text) {
                Ok(node) => layers.push(node),
                Err(problem) => problems.push(problem),
            }
            return (Local::new(layers), problems);
        }
        if self.files.is_empty() && spilo::applies(&self.environment) {
            let (spilo, said) = spilo::layers(&self.environment, &self.machine);
            layers.extend(spilo);
            problems.extend(said);
        }
        let (variables, said) = environment::layer(&self.environment);
        layers.push(variables);
        problems.extend(said);
        (Local::new(layers), problems)
    }

    /// Whether anything at all was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let named = |name: &String| name.starts_with("PATRONI_");
        self.files.is_empty()
            && !spilo::applies(&self.environment)
            && !self.environment.keys().any(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Sources {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        Sources {
            files: files.iter().map(own).collect(),
            environment: environment.iter().map(own).collect(),
            machine: Machine::default(),
        }
    }

    #[test]
    fn who_is_stronger() {
        const FILES: &[(&str, &str)] = &[("a.yml", "scope: a\nname: n\n"), ("b.yml", "scope: b\n")];
        type Pairs = &'static [(&'static str, &'static str)];
        // files, environment, the scope's value and place
        let cases: &[(Pairs, Pairs, &str, &str)] = &[
            (FILES, &[], "b", "b.yml:1"),
            (FILES, &[("PATRONI_SCOPE", "e")], "e", "environment variable PATRONI_SCOPE"),
            (FILES, &[("PATRONI_SCOPE", "")], "b", "b.yml:1"),
            (FILES, &[("PATRONI_CONFIGURATION", "scope: c")], "b", "b.yml:1"),
            (FILES, &[("SCOPE", "s")], "b", "b.yml:1"),
            (
                &[],
                &[("PATRONI_CONFIGURATION", "scope: c"), ("PATRONI_SCOPE", "e"), ("SCOPE", "s")],
                "c",
                "PATRONI_CONFIGURATION:1",
            ),
            (
                &[],
                &[("PATRONI_SCOPE", "e"), ("SCOPE", "s"), ("SPILO_CONFIGURATION", "scope: t")],
                "e",
                "environment variable PATRONI_SCOPE",
            ),
            (
                &[],
                &[("SCOPE", "s"), ("SPILO_CONFIGURATION", "a: 1")],
                "s",
                "container variable SCOPE",
            ),
            (
                &[],
                &[("SCOPE", "s"), ("SPILO_CONFIGURATION", "scope: t")],
                "t",
                "SPILO_CONFIGURATION:1",
            ),
        ];
        for (files, environment, value, place) in cases {
            let (local, _) = sources(files, environment).read();
            let scope = local.get(&["scope"]).unwrap();
            assert_eq!(scope.scalar().as_deref(), Some(*value), "{environment:?}");
            assert_eq!(scope.origin.to_string(), *place, "{environment:?}");
        }
        assert!(sources(&[], &[("PGDATA", "/x")]).is_empty());
        assert!(!sources(&[], &[("SCOPE", "x")]).is_empty());
    }
}
