//! Rules about whole files: their bytes, their first lines, their length, their permissions.

use super::{Finding, Source};

/// A Rust file has at most this many lines, tests aside. A longer one holds two ideas.
const LINES_MAX: usize = 600;

/// Files that are longer all the same, with the length that they must not exceed.
/// A ratchet: entries get smaller or go, none is added without a reason beside it.
const LINES_RATCHET: &[(&str, usize)] = &[];

/// Where a tab is part of the format.
const TABS_BELONG: &[&str] = &[".tsv", "Makefile", ".gitmodules"];

/// Terminal recordings and texts that others wrote, kept as they are.
const VERBATIM: &[&str] = &[".cast", ".svg", "LICENSE", "Cargo.lock"];

/// Tabs, trailing blanks, foreign line endings, and the newline at the end.
pub(crate) fn whitespace(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !ends_with_any(source, VERBATIM)) {
        for (index, line) in source.text.split('\n').enumerate() {
            let mut report = |rule, remedy| findings.push(source.finding(index + 1, rule, remedy));
            if line.ends_with('\r') {
                report("line-ending", "end lines with LF alone");
            } else if line.ends_with([' ', '\t']) {
                report("trailing-blank", "remove the blanks at the end of the line");
            }
            if line.contains('\t') && !ends_with_any(source, TABS_BELONG) {
                report("tab", "indent with spaces; in a string write \\t");
            }
        }
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            let last = source.text.lines().count();
            findings.push(source.finding(last, "final-newline", "end the file with a newline"));
        }
    }
    findings
}

/// Every Rust file says first what it is and what it leaves to others.
pub(crate) fn headers(sources: &[Source]) -> Vec<Finding> {
    let remedy = "begin the file with `//!`: what it is, and what it deliberately does not do";
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.text.starts_with("//! "))
        .map(|source| source.finding(1, "header", remedy))
        .collect()
}

/// Files stay short enough to be read in one go. Functions are clippy's `too_many_lines`.
pub(crate) fn lengths(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && !source.is_test()) {
        let lines = source.lines_without_tests();
        let allowed = LINES_RATCHET.iter().find(|(path, _)| *path == source.path);
        let limit = allowed.map_or(LINES_MAX, |(_, limit)| *limit);
        if lines > limit {
            let remedy = format!("{lines} lines without tests, {limit} allowed: split by idea");
            findings.push(source.finding(limit + 1, "length", remedy));
        } else if allowed.is_some() && lines < limit {
            let remedy = format!("now {lines} lines: lower its entry in LINES_RATCHET, or drop it");
            findings.push(source.finding(1, "length-ratchet", remedy));
        }
    }
    findings
}

/// What can be run can be run; shell scripts stop at the first error.
pub(crate) fn scripts(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let starts_as_script = source.text.starts_with("#!/");
        let in_place = source.path.starts_with("scripts/") || source.path.starts_with(".ci/");
        if starts_as_script && !source.executable {
            findings.push(source.finding(1, "executable", "a script: chmod +x"));
        }
        if source.executable && !starts_as_script {
            findings.push(source.finding(1, "executable", "not a script: chmod -x"));
        }
        let is_bash = source.text.starts_with("#!") && first_line(source).ends_with("bash");
        if is_bash && in_place && !source.text.contains("\nset -euo pipefail\n") {
            findings.push(source.finding(
                2,
                "strict-shell",
                "write `set -euo pipefail` near the top",
            ));
        }
    }
    findings
}

/// A scenario says what it shows before it shows it.
pub(crate) fn scenarios(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| source.path.starts_with("scenarios/") && source.path.ends_with(".txt"))
        .filter(|source| !source.text.starts_with("# ") || first_line(source).len() < 12)
        .map(|source| source.finding(1, "scenario", "begin with `# ` and what the scenario shows"))
        .collect()
}

/// A crate's own clippy.toml repeats the workspace's settings: clippy reads only one of them.
pub(crate) fn lint_settings(sources: &[Source]) -> Vec<Finding> {
    let Some(root) = sources.iter().find(|source| source.path == "clippy.toml") else {
        return Vec::new();
    };
    let is_setting = |line: &&str| line.contains(" = ") && !line.starts_with([' ', '#', 'd']);
    let mut findings = Vec::new();
    for local in sources.iter().filter(|source| source.path.ends_with("/clippy.toml")) {
        for setting in root.text.lines().filter(is_setting) {
            if !local.text.lines().any(|line| line == setting) {
                let remedy = format!("repeat the workspace's `{setting}`");
                findings.push(local.finding(1, "lint-settings", remedy));
            }
        }
    }
    findings
}

fn first_line(source: &Source) -> &str {
    source.text.lines().next().unwrap_or_default()
}

fn ends_with_any(source: &Source, endings: &[&str]) -> bool {
    endings.iter().any(|ending| source.path.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    fn rules(findings: &[Finding]) -> Vec<(&'static str, usize)> {
        findings.iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn whitespace_is_reported_where_it_stands() {
        let found = whitespace(&[source("a.md", "one \ntwo\r\n\tthree\nfour")]);
        let expected =
            [("trailing-blank", 1), ("line-ending", 2), ("tab", 3), ("final-newline", 4)];
        assert_eq!(rules(&found), expected);
        assert_eq!(whitespace(&[source("a.tsv", "a\tb\n"), source("empty", "")]), []);
    }

    #[test]
    fn a_rust_file_begins_with_its_purpose() {
        let found = headers(&[source("a.rs", "//! A.\n"), source("b.rs", "use a;\n")]);
        assert_eq!(rules(&found), [("header", 1)]);
        assert_eq!(found[0].path, "b.rs");
    }

    #[test]
    fn a_long_file_is_found_but_long_tests_are_not() {
        let long = format!("//! A.\n{}", "// line\n".repeat(LINES_MAX));
        let found = lengths(&[source("a/src/a.rs", &long), source("a/tests/it/a.rs", &long)]);
        assert_eq!(rules(&found), [("length", LINES_MAX + 1)]);
    }

    #[test]
    fn scripts_can_be_run_and_are_strict() {
        let script = source("scripts/start", "#!/usr/bin/env bash\necho hello\n");
        assert_eq!(rules(&scripts(&[script])), [("executable", 1), ("strict-shell", 2)]);
    }

    #[test]
    fn lint_settings_do_not_drift_apart() {
        let root = source("clippy.toml", "# a = b\nlines = 70\ndisallowed-types = []\n");
        let same = source("crates/a/clippy.toml", "lines = 70\n");
        let other = source("crates/b/clippy.toml", "lines = 90\n");
        let found = lint_settings(&[root, same, other]);
        assert_eq!(rules(&found), [("lint-settings", 1)]);
        assert_eq!(found[0].path, "crates/b/clippy.toml");
    }

    #[test]
    fn a_scenario_says_what_it_shows() {
        let silent = source("scenarios/a.txt", "cluster 3\n");
        let speaking = source("scenarios/b.txt", "# A crash of the primary promotes a replica.\n");
        assert_eq!(rules(&scenarios(&[silent, speaking])), [("scenario", 1)]);
    }
}
