//! A file as statements and backslash commands, each with its line.
//! Leaves how text is cut to `lex`, and what belongs together to `plan`.

use crate::fault::Mistake;
use crate::lex::{self, Kind, Token};
use crate::variables::{Shown, Variables};

/// One file, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
}

/// One thing that the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Statement(Statement),
    /// `\connect NAME`: what follows is for another database.
    Connect {
        database: String,
    },
}

/// A statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Statement {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// As the file has it, without the semicolon: for people and checksums.
    pub(crate) source: String,
    /// What the server gets, with the variables' values: for nobody else.
    pub(crate) sql: Shown,
    /// Its first words, in upper case.
    pub(crate) words: Vec<String>,
    /// `\gexec`: every cell of the result is a statement to be run.
    pub(crate) gexec: bool,
}

/// How many words say what a statement is.
const WORDS: usize = 8;

/// Commands that only change how psql shows things.
const COSMETIC: &[&str] =
    &["echo", "qecho", "warn", "pset", "timing", "x", "a", "t", "restrict", "unrestrict"];

/// Reads a file's text. All mistakes are returned together.
pub(crate) fn read(text: &str, variables: &Variables) -> Result<Script, Vec<Mistake>> {
    let tokens = lex::tokens(text).map_err(|unfinished| {
        let words = format!("{} begins here and never ends", unfinished.what);
        vec![Mistake { line: line_of(text, unfinished.at), words }]
    })?;
    let mut reader = Reader {
        text,
        variables: variables.clone(),
        steps: Vec::new(),
        mistakes: Vec::new(),
        pending: Vec::new(),
        depth: Depth::default(),
    };
    for token in tokens {
        reader.take(token);
    }
    reader.finish(false);
    if reader.mistakes.is_empty() {
        Ok(Script { steps: reader.steps })
    } else {
        Err(reader.mistakes)
    }
}

struct Reader<'a> {
    text: &'a str,
    variables: Variables,
    steps: Vec<Step>,
    mistakes: Vec<Mistake>,
    pending: Vec<Token>,
    depth: Depth,
}

/// What a semicolon doesn't end: parentheses, and the body of an SQL function (`BEGIN ATOMIC`).
#[derive(Default)]
struct Depth {
    parens: usize,
    body: usize,
    words: Vec<String>,
}

impl Depth {
    fn word(&mut self, word: &str) {
        let word = word.to_ascii_uppercase();
        if self.parens == 0 && self.makes_a_routine() {
            match word.as_str() {
                "BEGIN" => self.body += 1,
                "CASE" if self.body > 0 => self.body += 1,
                "END" => self.body = self.body.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < WORDS {
            self.words.push(word);
        }
    }

    fn makes_a_routine(&self) -> bool {
        let mut words = self.words.iter().map(String::as_str);
        if words.next() != Some("CREATE") {
            return false;
        }
        match words.next() {
            Some("FUNCTION" | "PROCEDURE") => true,
            Some("OR") => matches!(words.nth(1), Some("FUNCTION" | "PROCEDURE")),
            Some(_) | None => false,
        }
    }
}

impl Reader<'_> {
    fn take(&mut self, token: Token) {
        let text = &self.text[token.at.clone()];
        match &token.kind {
            Kind::Blank if self.pending.is_empty() => return,
            Kind::Blank | Kind::Quoted | Kind::Variable { .. } | Kind::Other => {}
            Kind::Word => self.depth.word(text),
            Kind::Open => self.depth.parens += 1,
            Kind::Close => self.depth.parens = self.depth.parens.saturating_sub(1),
            Kind::Semicolon if self.depth.parens == 0 && self.depth.body == 0 => {
                return self.finish(false);
            }
            Kind::Semicolon => {}
            Kind::Command => return self.command(text.trim_end(), token.at.start),
        }
        self.pending.push(token);
    }

    /// What was gathered is a statement, unless it is nothing.
    fn finish(&mut self, gexec: bool) {
        let mut tokens = std::mem::take(&mut self.pending);
        let words = std::mem::take(&mut self.depth).words;
        while tokens.last().is_some_and(|token| token.kind == Kind::Blank) {
            tokens.pop();
        }
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return };
        let line = line_of(self.text, first.at.start);
        let source = self.text[first.at.start..last.at.end].to_owned();
        let copies = words.first().is_some_and(|word| word == "COPY");
        if copies && words.windows(2).any(|pair| pair == ["FROM", "STDIN"]) {
            let words = "COPY FROM STDIN is not for these files; use INSERT (pg_dump --inserts)";
            return self.mistake(first.at.start, words);
        }
        let mut sql = Shown::default();
        for token in &tokens {
            let text = &self.text[token.at.clone()];
            let Kind::Variable { name, place } = &token.kind else {
                sql.push(text);
                continue;
            };
            if let Err(words) = self.variables.write(&mut sql, name, *place, text) {
                self.mistake(token.at.start, words);
            }
        }
        self.steps.push(Step::Statement(Statement { line, source, sql, words, gexec }));
    }

    fn mistake(&mut self, at: usize, words: impl Into<String>) {
        self.mistakes.push(Mistake { line: line_of(self.text, at), words: words.into() });
    }

    fn command(&mut self, text: &str, at: usize) {
        let mut words = text[1..].split_whitespace().map(unquoted);
        let name = words.next().unwrap_or_default();
        if name == "gexec" || name == "g" {
            return self.finish(name == "gexec");
        }
        if !self.pending.is_empty() {
            let words = format!("\\{name} in the middle of a statement; a semicolon is missing");
            return self.mistake(at, words);
        }
        match (name, words.next()) {
            ("connect" | "c", Some(database)) if database != "-" => self.connect(database, at),
            ("set", Some("ON_ERROR_STOP" | "ON_ERROR_ROLLBACK" | "QUIET" | "ECHO")) => {}
            ("set", Some(variable)) => {
                let value = text.split_once(variable).map_or("", |(_, value)| value.trim());
                self.variables.set(variable, unquoted(value).replace("''", "'"));
            }
            (name, _) if COSMETIC.contains(&name) => {}
            (name, _) => self.mistake(
                at,
                format!("\\{name} is not known here, only \\connect, \\gexec, \\g, \\set, \\echo"),
            ),
        }
    }

    fn connect(&mut self, word: &str, at: usize) {
        let name = word.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        let name = name.or_else(|| word.strip_prefix(':').map(unquoted));
        let database = match name.map(|name| self.variables.get(name)) {
            None => word.to_owned(),
            Some(Ok(value)) => value,
            Some(Err(words)) => return self.mistake(at, words),
        };
        self.steps.push(Step::Connect { database });
    }
}

fn unquoted(word: &str) -> &str {
    let inner =
        ['\'', '"'].into_iter().find_map(|quote| word.strip_prefix(quote)?.strip_suffix(quote));
    inner.unwrap_or(word)
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

#[cfg(test)]
mod tests;
