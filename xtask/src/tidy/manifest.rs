//! Reads the names of dependencies from a Cargo.toml: `name = ...`, `name.workspace = true` and
//! `[dependencies.name]`. Not a TOML parser: cargo itself has accepted the file already.

use super::Source;

/// A dependency and the line that declares it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) line: usize,
}

/// Which tables to read.
#[derive(Clone, Copy)]
pub(crate) enum Tables {
    /// What the crate itself is built from and with: normal and build dependencies.
    Shipped,
    /// Those, and what only its tests use.
    All,
    /// The versions that the workspace fixes for everybody.
    Workspace,
}

/// The dependencies that `source` declares in `tables`.
pub(crate) fn dependencies(source: &Source, tables: Tables) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = tables.include(header);
            if let Some((table, name)) = header.rsplit_once('.')
                && tables.include(table)
            {
                found.push(Dependency { name: name.to_owned(), line: index + 1 });
            }
        } else if inside && let Some(name) = declared_name(line) {
            found.push(Dependency { name: name.to_owned(), line: index + 1 });
        }
    }
    found
}

impl Tables {
    fn include(self, header: &str) -> bool {
        let last = header.rsplit('.').next().unwrap_or_default();
        let normal = matches!(last, "dependencies" | "build-dependencies");
        let of_workspace = header == "workspace.dependencies";
        match self {
            Self::Shipped => normal && !of_workspace,
            Self::All => (normal || last == "dev-dependencies") && !of_workspace,
            Self::Workspace => of_workspace,
        }
    }
}

/// The name before `=` or `.`, of a line that declares something.
fn declared_name(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('=')?;
    let name = name.split('.').next()?.trim();
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    (is_name && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    const MANIFEST: &str = "\
[package]
name = \"a\"

[dependencies]
serde.workspace = true
# a comment = not a dependency
tokio = { version = \"1\" }

[target.'cfg(unix)'.dependencies]
libc = \"0.2\"

[dependencies.long]
version = \"1\"

[dev-dependencies]
proptest.workspace = true
";

    fn names(tables: Tables) -> Vec<String> {
        let found = dependencies(&source("crates/a/Cargo.toml", MANIFEST), tables);
        found.into_iter().map(|dependency| dependency.name).collect()
    }

    #[test]
    fn every_way_to_declare_a_dependency_is_read() {
        assert_eq!(names(Tables::All), ["serde", "tokio", "libc", "long", "proptest"]);
        assert_eq!(names(Tables::Workspace), [""; 0]);
    }

    #[test]
    fn what_only_tests_use_is_not_shipped() {
        // `[dependencies.long]` opens a table of its own: its keys are not dependencies.
        assert_eq!(names(Tables::Shipped), ["serde", "tokio", "libc", "long"]);
    }

    #[test]
    fn the_workspace_is_read_apart() {
        let root = source("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n");
        assert_eq!(dependencies(&root, Tables::Workspace).len(), 1);
        assert_eq!(dependencies(&root, Tables::All), []);
    }
}
