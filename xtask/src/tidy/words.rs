//! Words that this repository does not use, each with what is used instead.
//! This file and the glossary name the words themselves, and are left out.

use super::{Finding, Source};

/// Files that name banned words in order to ban them.
const LEFT_OUT: &[&str] = &["xtask/src/tidy/words.rs", "docs/glossary.md"];

/// The crates all of whose code shares its threads with other tasks.
const ASYNC_CRATES: &[&str] = &["agent", "api", "postgres", "router", "store"];

/// Where a banned word is looked for.
enum Where {
    /// In Rust files.
    Rust,
    /// In Rust files that are not tests.
    RustWithoutTests,
    /// In Rust files of the crates that run on an async runtime, tests aside.
    Async,
    /// In every file.
    Everywhere,
}

struct Word {
    word: &'static str,
    place: Where,
    instead: &'static str,
}

const fn word(word: &'static str, place: Where, instead: &'static str) -> Word {
    Word { word, place, instead }
}

const BANNED: &[Word] = &[
    word("dbg!(", Where::Rust, "use tracing with fields, or an assertion"),
    word("todo!(", Where::Rust, "return an error that says what is missing, or leave it out"),
    word("unimplemented!(", Where::Rust, "return an error that says what is missing"),
    word("XXX", Where::Rust, "do it, or write an issue and say here why it can wait"),
    word("FIXME", Where::Rust, "do it, or write an issue and say here why it can wait"),
    word(
        "#[ignore",
        Where::Rust,
        "a test runs, or prints SKIPPED and why; it is never switched off",
    ),
    word("#[allow(", Where::RustWithoutTests, "write #[expect(..., reason = \"...\")]"),
    word("#![allow(", Where::RustWithoutTests, "write #![expect(..., reason = \"...\")]"),
    word("std::thread::sleep(", Where::Async, "it stops every task of the thread; await a timer"),
    word("slave", Where::Everywhere, "say replica (PostgreSQL) or member (the store)"),
    word("whitelist", Where::Everywhere, "say allow-list"),
    word("blacklist", Where::Everywhere, "say deny-list"),
    word("/home/", Where::Everywhere, "a path of one machine: write it relative to the root"),
    word("/root/", Where::Everywhere, "a path of one machine: write ~ or a path below a directory"),
];

/// The home of PostgreSQL's user in container images, which is the same everywhere.
const IN_IMAGES: &str = "/home/postgres";

/// On the line of a sleep: it stops a thread that is there to be stopped.
const BLOCKING: &str = "// blocking thread";

/// The banned words.
pub(crate) fn banned(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !LEFT_OUT.contains(&source.path.as_str())) {
        for (index, line) in source.text.lines().enumerate() {
            for banned in BANNED.iter().filter(|banned| banned.place.covers(source, index)) {
                let allowed = line.contains(BLOCKING) || line.contains(IN_IMAGES);
                if contains_word(line, banned.word) && !allowed {
                    let remedy = format!("`{}`: {}", banned.word, banned.instead);
                    findings.push(source.finding(index + 1, "word", remedy));
                }
            }
        }
    }
    findings
}

/// A silenced lint says why.
pub(crate) fn reasons(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && !LEFT_OUT.contains(&source.path.as_str()))
    {
        for (start, _) in source.text.match_indices("[expect(") {
            let attribute = &source.text[start..];
            let attribute = attribute.find(")]").map_or(attribute, |end| &attribute[..end]);
            if !attribute.contains("reason = ") {
                let line = source.text[..start].lines().count().max(1);
                findings.push(source.finding(line, "reason", "add reason = \"...\" to the expect"));
            }
        }
    }
    findings
}

impl Where {
    fn covers(&self, source: &Source, line_index: usize) -> bool {
        let shipped = || !source.is_test() && line_index < source.lines_without_tests();
        match self {
            Self::Rust => source.is_rust(),
            Self::RustWithoutTests => source.is_rust() && shipped(),
            Self::Async => {
                let runs_async = |name| source.path.starts_with(&format!("crates/{name}/"));
                source.is_rust() && ASYNC_CRATES.iter().any(runs_async) && shipped()
            }
            Self::Everywhere => !source.path.ends_with(".lock"),
        }
    }
}

/// Whether `word` occurs in `line` and is not the end of a longer word or path.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '*' | '~'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn a_banned_word_is_found_with_its_replacement() {
        let found = banned(&[source("a.rs", "//! A.\nfn a() { todo!() }\n")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 2);
        assert!(found[0].remedy.contains("return an error"));
    }

    #[test]
    fn words_are_words_and_places_are_places() {
        assert!(!contains_word("my_dbg!(x)", "dbg!("));
        assert!(!contains_word("docs/home/plan", "/home/"));
        assert!(contains_word("cd /home/here", "/home/"));
        assert_eq!(banned(&[source("a/tests/it/a.rs", "#[allow(dead_code)]\n")]), []);
        assert_eq!(banned(&[source("a/src/a.rs", "#[allow(dead_code)]\n")]).len(), 1);
    }

    #[test]
    fn an_expectation_needs_its_reason() {
        let bare = source("a.rs", "\n#[expect(clippy::panic)]\nfn a() {}\n");
        let found = reasons(&[bare]);
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
        let with =
            source("a.rs", "#[expect(\n    clippy::panic,\n    reason = \"impossible\"\n)]\n");
        assert_eq!(reasons(&[with]), []);
    }
}
