//! Counts tests from the summary lines that runners print.
//! A test that was filtered out did not run, and counts for nothing.

use std::fmt;
use std::ops::{Add, AddAssign};

/// What ran and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// One check that passed or failed as a whole.
    pub(crate) fn check(succeeded: bool) -> Self {
        Self { passed: u64::from(succeeded), failed: u64::from(!succeeded), skipped: 0 }
    }

    /// These counts beside the exit status: a command that counted nothing is one check, and one
    /// that failed without a failed test (it did not compile, say) has one failure.
    pub(crate) fn settled(self, succeeded: bool) -> Self {
        match (self, succeeded) {
            (Self { passed: 0, failed: 0, skipped }, _) => {
                Self { skipped, ..Self::check(succeeded) }
            }
            (Self { failed: 0, .. }, false) => Self { failed: 1, ..self },
            (counts, _) => counts,
        }
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What a line of a runner's output adds: nothing, unless it is a summary of cargo test, of
/// nextest, or the plain `N passed, N failed`.
pub(crate) fn from_line(line: &str) -> Counts {
    let line = without_colours(line);
    // Indented, it is in the output of a test that nextest shows, and counts itself.
    if let Some(summary) = line.strip_prefix("test result: ") {
        return numbers(summary, "ignored");
    }
    let line = line.trim();
    if let Some((_, summary)) =
        line.strip_prefix("Summary [").and_then(|rest| rest.split_once("run:"))
    {
        // What nextest calls skipped was filtered out.
        return Counts { skipped: 0, ..numbers(summary, "skipped") };
    }
    let is_plain = line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" passed, ");
    if is_plain { numbers(line, "skipped") } else { Counts::default() }
}

/// Adds up `NUMBER WORD` pairs.
fn numbers(text: &str, skipped_word: &str) -> Counts {
    let tokens: Vec<&str> =
        text.split_whitespace().map(|t| t.trim_matches([',', ';', '.'])).collect();
    let mut counts = Counts::default();
    for pair in tokens.windows(2) {
        let Ok(number) = pair[0].parse::<u64>() else { continue };
        match pair[1] {
            "passed" => counts.passed += number,
            // nextest: "2 timed out", "1 exec failed".
            "failed" | "timed" | "exec" => counts.failed += number,
            word if word == skipped_word => counts.skipped += number,
            _ => {}
        }
    }
    counts
}

/// The line without terminal escapes.
fn without_colours(line: &str) -> String {
    let mut rest = line.split('\u{1b}');
    let mut plain = rest.next().unwrap_or_default().to_owned();
    for part in rest {
        plain.push_str(part.split_once('m').map_or("", |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn cargo_test_is_counted() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; \
                    finished in 0.01s";
        assert_eq!(from_line(line), counts(5, 2, 1));
        assert_eq!(from_line(&format!("    {line}")), Counts::default());
    }

    #[test]
    fn nextest_is_counted_in_colour_and_without() {
        let plain = "     Summary [   0.512s] 9 tests run: 5 passed (1 slow), 3 failed, 1 timed out, \
                     4 skipped";
        assert_eq!(from_line(plain), counts(5, 4, 0));
        let coloured = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.1s] \u{1b}[1m2\u{1b}[0m tests run: \
                        \u{1b}[1m2\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, 0 skipped";
        assert_eq!(from_line(coloured), counts(2, 0, 0));
    }

    #[test]
    fn the_plain_line_is_counted_and_other_lines_are_not() {
        assert_eq!(from_line("20 passed, 1 failed, 2 skipped"), counts(20, 1, 2));
        assert_eq!(from_line("we saw 20 passed, 1 failed"), Counts::default());
        assert_eq!(from_line("   Compiling serde v1.0"), Counts::default());
    }

    #[test]
    fn an_exit_status_is_never_hidden_by_counts() {
        assert_eq!(Counts::default().settled(true), counts(1, 0, 0));
        assert_eq!(Counts::default().settled(false), counts(0, 1, 0));
        assert_eq!(counts(9, 0, 0).settled(false), counts(9, 1, 0));
        assert_eq!(counts(9, 2, 0).settled(false), counts(9, 2, 0));
        assert_eq!(counts(9, 0, 3).settled(true), counts(9, 0, 3));
    }
}
