//! A mistake in somebody's input: where it is, what was expected, what was found, what to write.
//! Leaves printing to `output`.

use std::fmt;

use crate::origin::Origin;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Nothing is done.
    Error,
    /// Said, and ignored.
    Warning,
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Where it was written, when it was.
    pub origin: Option<Origin>,
    /// The key with its sections (`postgresql.listen`), the flag, or the path; may be empty.
    pub place: String,
    /// What is wrong, and what to do.
    pub words: String,
}

impl Problem {
    /// A mistake that stops everything.
    pub fn error(
        origin: Option<Origin>,
        place: impl Into<String>,
        words: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Error, origin, place: place.into(), words: words.into() }
    }

    /// Something to know.
    pub fn warning(
        origin: Option<Origin>,
        place: impl Into<String>,
        words: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, origin, place: place.into(), words: words.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.words)
    }
}

/// The known word nearest to `word`, when it looks like a slip of the hand.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let reach = (word.len() / 3).clamp(1, 3);
    let scored = known.iter().map(|k| (distance(word, k), *k));
    scored.filter(|(d, _)| *d <= reach).min().map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["listen", "connect_address", "data_dir"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("conect_adress", &known), Some("connect_address"));
        assert_eq!(nearest("datadir", &known), Some("data_dir"));
        assert_eq!(nearest("callbacks", &known), None);
    }
}
