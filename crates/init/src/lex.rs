//! SQL as psql reads it, in tokens: enough to know where a statement ends and where a variable
//! stands. Every byte of the text is in exactly one token. Settings that change how text is read
//! (`standard_conforming_strings = off`) are not known here.

use std::ops::Range;

/// A piece of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: Range<usize>,
}

/// What a piece is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Blanks and comments.
    Blank,
    /// A keyword or an identifier without quotes.
    Word,
    /// Text with quotes around it, or a part of such text beside a variable.
    Quoted,
    /// A reference to a variable, and what surrounds it.
    Variable {
        name: String,
        place: Place,
    },
    Semicolon,
    Open,
    Close,
    /// A backslash command up to the end of its line.
    Command,
    Other,
}

/// Where a variable stands, which says how its value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// `:name`: as it is, when there is such a variable.
    Colon,
    /// `${name}` outside quotes.
    Bare,
    /// `:'name'`: becomes a literal.
    Literal,
    /// `:"name"`: becomes an identifier.
    Identifier,
    /// `${name}` between single quotes.
    InLiteral,
    /// The same, in an `E''` literal.
    InEscaped,
    /// `${name}` between double quotes.
    InIdentifier,
    /// `${name}` between dollar quotes.
    InDollars,
}

/// Text that doesn't end, and where it began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unfinished {
    pub(crate) what: &'static str,
    pub(crate) at: usize,
}

/// Cuts a text into tokens.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Unfinished> {
    let mut lexer = Lexer { text, at: 0, out: Vec::new() };
    while lexer.at < text.len() {
        lexer.token()?;
    }
    Ok(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    out: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// The next `length` bytes are one token.
    fn push(&mut self, kind: Kind, length: usize) {
        self.out.push(Token { kind, at: self.at..self.at + length });
        self.at += length;
    }

    fn token(&mut self) -> Result<(), Unfinished> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(()) };
        let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
        if blanks > 0 {
            self.push(Kind::Blank, blanks);
        } else if rest.starts_with("--") {
            let length = rest.find('\n').unwrap_or(rest.len());
            self.push(Kind::Blank, length);
        } else if rest.starts_with("/*") {
            let length = self.comment()?;
            self.push(Kind::Blank, length);
        } else if let Some((name, place, length)) = variable(rest) {
            self.push(Kind::Variable { name, place }, length);
        } else if let Some(delimiter) = dollar_quote(rest).map(str::to_owned) {
            self.quoted(delimiter.len(), Place::InDollars, &delimiter)?;
        } else if is_word_start(first) {
            self.word()?;
        } else {
            self.sign(first)?;
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), Unfinished> {
        let rest = self.rest();
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let quoted = after.starts_with('\'');
        if quoted && word.eq_ignore_ascii_case("e") {
            return self.quoted(length + 1, Place::InEscaped, "'");
        }
        // N'', B'', X'' and U&'' end where any other literal ends.
        self.push(Kind::Word, length);
        Ok(())
    }

    fn sign(&mut self, first: char) -> Result<(), Unfinished> {
        let kind = match first {
            '\'' => return self.quoted(1, Place::InLiteral, "'"),
            '"' => return self.quoted(1, Place::InIdentifier, "\""),
            '\\' => {
                let length = self.rest().find('\n').unwrap_or(self.rest().len());
                self.push(Kind::Command, length);
                return Ok(());
            }
            ';' => Kind::Semicolon,
            '(' => Kind::Open,
            ')' => Kind::Close,
            _ => Kind::Other,
        };
        // `::` is a cast, and its second colon no variable.
        let length = if self.rest().starts_with("::") { 2 } else { first.len_utf8() };
        self.push(kind, length);
        Ok(())
    }

    /// A comment with those inside it.
    fn comment(&self) -> Result<usize, Unfinished> {
        let rest = self.rest();
        let (mut depth, mut at) = (0_usize, 0);
        loop {
            if rest[at..].starts_with("/*") {
                depth += 1;
                at += 2;
            } else if rest[at..].starts_with("*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            } else {
                let Some(next) = rest[at..].chars().next() else {
                    return Err(Unfinished { what: "a comment", at: self.at });
                };
                at += next.len_utf8();
            }
        }
    }

    /// Quoted text after an opening of `open` bytes, with the variables in it.
    fn quoted(&mut self, open: usize, place: Place, close: &str) -> Result<(), Unfinished> {
        let began = self.at;
        let what = match place {
            Place::InIdentifier => "a quoted name",
            Place::InDollars => "a dollar-quoted text",
            Place::Colon
            | Place::Bare
            | Place::Literal
            | Place::Identifier
            | Place::InLiteral
            | Place::InEscaped => "a quoted text",
        };
        let mut length = open;
        loop {
            let inside = &self.rest()[length..];
            if let Some((name, _, size)) = braced(inside) {
                self.push(Kind::Quoted, length);
                self.push(Kind::Variable { name, place }, size);
                length = 0;
            } else if inside.starts_with(close) {
                let doubled = place != Place::InDollars && inside[1..].starts_with(close);
                length += close.len() * if doubled { 2 } else { 1 };
                if !doubled {
                    self.push(Kind::Quoted, length);
                    return Ok(());
                }
            } else {
                let mut left = inside.chars();
                let Some(next) = left.next() else {
                    return Err(Unfinished { what, at: began });
                };
                length += next.len_utf8();
                if next == '\\' && place == Place::InEscaped {
                    length += left.next().map_or(0, char::len_utf8);
                }
            }
        }
    }
}

/// `:name`, `:'name'`, `:"name"` or `${name}` at the beginning of a text, with its length.
fn variable(rest: &str) -> Option<(String, Place, usize)> {
    if let Some(found) = braced(rest) {
        return Some(found);
    }
    let after = rest.strip_prefix(':')?;
    let (place, quote) = match after.chars().next()? {
        '\'' => (Place::Literal, 1),
        '"' => (Place::Identifier, 1),
        _ => (Place::Colon, 0),
    };
    let inside = &after[quote..];
    let length = inside.find(|c: char| !is_name(c)).unwrap_or(inside.len());
    let (name, end) = inside.split_at(length);
    let closed = quote == 0 || end.starts_with(&after[..1]);
    let whole = closed && name.starts_with(is_word_start);
    whole.then(|| (name.to_owned(), place, 1 + quote + length + quote))
}

/// `${name}` at the beginning of a text.
fn braced(rest: &str) -> Option<(String, Place, usize)> {
    let (name, _) = rest.strip_prefix("${")?.split_once('}')?;
    let whole = name.starts_with(is_word_start) && name.chars().all(is_name);
    whole.then(|| (name.to_owned(), Place::Bare, name.len() + 3))
}

/// `$$` or `$tag$` at the beginning of a text.
fn dollar_quote(rest: &str) -> Option<&str> {
    let tag = rest.strip_prefix('$')?.split('$').next()?;
    let whole = tag.is_empty() || (tag.starts_with(is_word_start) && tag.chars().all(is_word));
    let length = tag.len() + 2;
    (whole && rest.len() >= length).then(|| &rest[..length])
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}' | '\u{b}' | '\u{feff}')
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

/// Characters of a variable's name.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
