//! Relative links in Markdown, and documents named in comments, lead to files that exist.
//! Links to the web are not followed.

use std::path::{Component, Path, PathBuf};

use super::{Finding, Source};

/// Every `[text](path)` of a Markdown file names a file or directory of the tree.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        for (index, line) in source.text.lines().enumerate() {
            for target in targets(line) {
                let path = resolve(&source.path, target);
                if !exists(sources, &path) {
                    let remedy = format!("nothing at {}: correct the link", path.display());
                    findings.push(source.finding(index + 1, "link", remedy));
                }
            }
        }
    }
    findings
}

/// Every document below `docs` that a comment or string of a Rust file names is there.
pub(crate) fn mentions(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        let lines = source.text.lines().take(source.lines_without_tests());
        for (index, line) in lines.enumerate() {
            for (start, _) in line.match_indices("docs/") {
                let path =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
                let end = line[start..].find(|c| !path(c)).map_or(line.len(), |end| start + end);
                let named = line[start..end].trim_end_matches('.');
                if named.ends_with(".md") && !exists(sources, Path::new(named)) {
                    let remedy = format!("nothing at {named}: write it, or say where it is");
                    findings.push(source.finding(index + 1, "link", remedy));
                }
            }
        }
    }
    findings
}

/// The relative targets of a line, without their anchors.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', '#', ' ']).next()?;
        let elsewhere = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !elsewhere).then_some(target)
    })
}

/// The path below the root that `target` means in the file `from`.
fn resolve(from: &str, target: &str) -> PathBuf {
    let mut path = Path::new(from).parent().map(PathBuf::from).unwrap_or_default();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

fn exists(sources: &[Source], path: &Path) -> bool {
    path.as_os_str().is_empty() || sources.iter().any(|s| Path::new(&s.path).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn links_are_resolved_from_their_own_file() {
        let sources = [
            source("docs/a.md", "[up](../README.md#top) [gone](b.md) [web](https://example.org)\n"),
            source("README.md", "[a](docs/a.md) [folder](docs/)\n"),
        ];
        let found = check(&sources);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remedy, "nothing at docs/b.md: correct the link");
    }

    #[test]
    fn documents_named_in_comments_exist() {
        let sources = [
            source("docs/a.md", "# A\n"),
            source("crates/a/src/lib.rs", "//! A (docs/a.md).\n//! Keys: see docs/gone.md.\n"),
        ];
        let found = mentions(&sources);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 2);
    }
}
