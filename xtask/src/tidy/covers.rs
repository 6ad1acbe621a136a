//! The page of failure modes: each mode once and in order, and what covers it exists.
//! Whether a test looks at what the page says is for its readers.

use super::{Finding, Source};

const PAGE: &str = "docs/failure-modes.md";
/// The modes of each part.
const PARTS: [(char, usize); 7] =
    [('A', 16), ('B', 21), ('C', 20), ('D', 9), ('E', 6), ('F', 11), ('G', 12)];
const NONE: &str = "**not covered**";

/// Every mode has a row, and every row a test that is there, or says that it has none.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(page) = sources.iter().find(|source| source.path == PAGE) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut wanted = PARTS.iter().flat_map(|(part, last)| (1..=*last).map(move |n| (*part, n)));
    let mut last = 0;
    for (index, line) in page.text.lines().enumerate() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let number = cells[0].trim_start_matches("| ");
        if !number.starts_with(|c: char| c.is_ascii_uppercase()) || cells.len() < 4 {
            continue;
        }
        last = index + 1;
        let expected = wanted.next().map(|(part, n)| format!("{part}{n}"));
        if expected.as_deref() != Some(number) {
            let remedy = format!("{number} is not in its place: {expected:?} comes here");
            findings.push(page.finding(last, "failure-modes", remedy));
            return findings;
        }
        let named = cells[cells.len() - 1].trim_end_matches(" |");
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if names.is_empty() != (named == NONE) {
            let remedy = format!("name tests, or write {NONE}");
            findings.push(page.finding(last, "failure-modes", remedy));
        }
        for name in names.into_iter().filter(|name| !exists(sources, name)) {
            let remedy = format!("nothing is called {name}: name what covers {number} now");
            findings.push(page.finding(last, "failure-modes", remedy));
        }
    }
    if let Some((part, number)) = wanted.next() {
        let remedy = format!("{part}{number} is missing");
        findings.push(page.finding(last, "failure-modes", remedy));
    }
    findings
}

fn exists(sources: &[Source], name: &str) -> bool {
    let file = |path: String| sources.iter().any(|source| source.path == path);
    if let Some((place, name)) = name.split_once("::") {
        let dir = match place {
            "e2e" | "stack" => format!("crates/cli/tests/{place}/"),
            krate => format!("crates/{krate}/"),
        };
        // A function that is a test, or the name under which a list of tests has it.
        let (function, text) = (format!("fn {name}("), format!("\"{name}\""));
        return sources.iter().any(|source| {
            let has = |words: &str| source.text.contains(words);
            source.is_rust() && source.path.starts_with(&dir) && (has(&function) || has(&text))
        });
    }
    match name.split_once('/') {
        Some(("lab", name)) => file(format!("scenarios/lab/{name}.txt")),
        Some(("scenario", name)) => file(format!("scenarios/{name}.txt")),
        Some(("seed", name)) => file(format!("crates/sim/src/invariants/{name}.rs")),
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn what_is_named_exists_and_each_mode_is_there() {
        let mut page = String::from("| # | what | does | covered by |\n");
        for (part, last) in PARTS {
            for number in 1..=last {
                let covers = match (part, number) {
                    ('A', 1) => "`lab/there`, `store::tested`",
                    ('A', 2) => "`lab/gone`",
                    ('A', 3) => "nothing",
                    _ => NONE,
                };
                page.push_str(&format!("| {part}{number} | a | b | {covers} |\n"));
            }
        }
        let test = source("crates/store/src/a.rs", "fn tested() {}\n");
        let tree = |page: &str| {
            vec![
                source(PAGE, page),
                source("scenarios/lab/there.txt", "# A.\n"),
                source(&test.path, &test.text),
            ]
        };
        let found = check(&tree(&page));
        let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [3, 4]);
        let short = page.replace("| G12 | a | b | **not covered** |\n", "");
        let found = check(&tree(&short));
        assert_eq!(found.last().map(|finding| finding.remedy.as_str()), Some("G12 is missing"));
    }
}
