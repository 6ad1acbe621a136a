//! Dependencies that nobody uses: in the workspace's list, and in each crate's.
//! Looks for a name in the sources; does not resolve paths.

use super::manifest::{self, Tables};
use super::{Finding, Source};

/// A version that the workspace fixes is some crate's dependency.
pub(crate) fn workspace_dependencies(sources: &[Source]) -> Vec<Finding> {
    let Some(root) = sources.iter().find(|source| source.path == "Cargo.toml") else {
        return Vec::new();
    };
    let used: Vec<String> = sources
        .iter()
        .filter(|source| source.path.ends_with("/Cargo.toml"))
        .flat_map(|manifest| manifest::dependencies(manifest, Tables::All))
        .map(|dependency| dependency.name)
        .collect();
    manifest::dependencies(root, Tables::Workspace)
        .into_iter()
        .filter(|dependency| !used.contains(&dependency.name))
        .map(|dependency| {
            let remedy = format!("no crate uses {}: drop the line", dependency.name);
            root.finding(dependency.line, "unused-dependency", remedy)
        })
        .collect()
}

/// A crate's dependency is named in the crate's sources.
pub(crate) fn crate_dependencies(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in sources {
        let Some(directory) = manifest.path.strip_suffix("Cargo.toml") else { continue };
        if directory.is_empty() {
            continue;
        }
        let rust = || sources.iter().filter(|s| s.is_rust() && s.path.starts_with(directory));
        for dependency in manifest::dependencies(manifest, Tables::All) {
            let identifier = dependency.name.replace('-', "_");
            if !rust().any(|source| contains_identifier(&source.text, &identifier)) {
                let remedy = format!("{} is not used here: drop the line", dependency.name);
                findings.push(manifest.finding(dependency.line, "unused-dependency", remedy));
            }
        }
    }
    findings
}

fn contains_identifier(text: &str, identifier: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(identifier).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + identifier.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn an_unused_version_of_the_workspace_is_found() {
        let root = source("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\nrand = \"1\"\n");
        let member = source("crates/a/Cargo.toml", "[dev-dependencies]\nserde.workspace = true\n");
        let found = workspace_dependencies(&[root, member]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
    }

    #[test]
    fn an_unused_dependency_of_a_crate_is_found() {
        let manifest = "[dependencies]\nserde-json = \"1\"\nrand = \"1\"\n";
        let sources = [
            source("crates/a/Cargo.toml", manifest),
            source("crates/a/src/lib.rs", "//! A.\nuse serde_json::Value;\nlet operand = 1;\n"),
        ];
        let found = crate_dependencies(&sources);
        assert_eq!(found.len(), 1);
        assert!(found[0].remedy.starts_with("rand"));
    }
}
