//! Tidy: the rules of this repository that neither rustc nor clippy knows.
//! Each rule is one file and a function from the tree to findings; nothing here changes a file.

mod arrows;
mod covers;
mod files;
mod links;
mod manifest;
mod usage;
mod words;

use std::fmt;
use std::path::Path;
use std::process::Command;

/// A file of the tree, read once for all rules.
pub(crate) struct Source {
    /// The path below the workspace's root, with `/`.
    pub(crate) path: String,
    /// The text; empty for a file that holds none, such as a picture.
    pub(crate) text: String,
    /// Whether somebody may execute it.
    pub(crate) executable: bool,
}

/// One breach of one rule, with what to do about it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.remedy)
    }
}

type Rule = fn(&[Source]) -> Vec<Finding>;

/// Every rule. `check` runs them all.
const RULES: &[Rule] = &[
    files::whitespace,
    files::headers,
    files::lengths,
    files::scripts,
    files::scenarios,
    files::lint_settings,
    words::banned,
    words::reasons,
    arrows::check,
    usage::workspace_dependencies,
    usage::crate_dependencies,
    links::check,
    links::mentions,
    covers::check,
];

/// Checks the tree and prints what it found; true when there is nothing.
pub(crate) fn run(root: &Path) -> bool {
    let sources = match read_tree(root) {
        Ok(sources) => sources,
        Err(problem) => {
            println!("tidy: {problem}");
            return false;
        }
    };
    let findings = check(&sources);
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} files, {} findings", sources.len(), findings.len());
    findings.is_empty()
}

/// The findings of all rules, in the order of the files.
fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(sources)).collect();
    findings.sort();
    findings
}

/// Reads every file that git tracks or would track.
fn read_tree(root: &Path) -> Result<Vec<Source>, String> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("can't run git, which lists the files: {error}"))?;
    if !listing.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listing.stderr).trim()));
    }
    let names = String::from_utf8_lossy(&listing.stdout);
    let mut paths: Vec<&str> = names.split('\0').filter(|path| !path.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    Ok(paths.into_iter().filter_map(|path| read_source(root, path)).collect())
}

/// One file; nothing when it is gone from the work tree, or is a link.
fn read_source(root: &Path, path: &str) -> Option<Source> {
    use std::os::unix::fs::PermissionsExt;
    let full = root.join(path);
    let metadata = full.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
    let bytes = std::fs::read(&full).ok()?;
    let text = if bytes.contains(&0) { "".into() } else { String::from_utf8_lossy(&bytes) };
    Some(Source {
        path: path.to_owned(),
        text: text.into_owned(),
        executable: metadata.permissions().mode() & 0o111 != 0,
    })
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is tests, by its place or name.
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The number of lines before the tests at the end of a file.
    fn lines_without_tests(&self) -> usize {
        let tests = self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..tests].lines().count()
    }

    fn finding(&self, line: usize, rule: &'static str, remedy: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule, remedy: remedy.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source for the tests of the rules.
    pub(crate) fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), executable: false }
    }

    #[test]
    fn the_tree_is_tidy() {
        let sources = read_tree(&crate::root()).expect("git lists the files");
        assert!(sources.iter().any(|source| source.path == "xtask/src/tidy.rs"));
        let findings: Vec<String> = check(&sources).iter().map(Finding::to_string).collect();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }

    #[test]
    fn a_finding_reads_like_a_compiler_message() {
        let finding = source("a/b.rs", "").finding(3, "header", "begin the file with `//!`");
        assert_eq!(finding.to_string(), "a/b.rs:3: [header] begin the file with `//!`");
    }

    #[test]
    fn tests_at_the_end_do_not_count_as_lines() {
        let file =
            source("a.rs", "//! A.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    // long\n}\n");
        assert_eq!(file.lines_without_tests(), 2);
    }
}
