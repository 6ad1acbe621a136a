//! YAML as patronictl writes it (PyYAML's `safe_dump`: sorted keys, block style, lines of up to 200
//! columns), so that scripts and diffs that know the one read the other.
//! Leaves reading YAML to `settings::yaml`.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// After this column a text is broken at its next blank.
const WIDTH: usize = 200;

/// A whole document in block style, ending in a line break.
pub(crate) fn block(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut text, map, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            leaf(&mut text, value, 0);
            text.push('\n');
        }
    }
    text
}

/// A value on one line: `{foo: bar}`.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs = sorted(map).into_iter();
            let pairs = pairs.map(|(key, value)| format!("{}: {}", word(key, true), flow(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => word(text, true),
        Value::Null | Value::Bool(_) | Value::Number(_) => plain(value),
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by_key(|(key, _)| *key);
    pairs
}

fn mapping(text: &mut String, map: &Map<String, Value>, indent: usize) {
    for (index, (key, value)) in sorted(map).into_iter().enumerate() {
        // The first key of a mapping in a list stands behind the list's dash.
        if index > 0 || !text.ends_with("- ") {
            pad(text, indent);
        }
        text.push_str(&word(key, false));
        text.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push('\n');
                mapping(text, map, indent + 2);
            }
            // Lists stand as far left as the key that they belong to.
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                sequence(text, items, indent);
            }
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                text.push(' ');
                leaf(text, value, indent + 2);
                text.push('\n');
            }
        }
    }
}

fn sequence(text: &mut String, items: &[Value], indent: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !text.ends_with("- ") {
            pad(text, indent);
        }
        text.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(text, map, indent + 2),
            Value::Array(items) if !items.is_empty() => sequence(text, items, indent + 2),
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                leaf(text, item, indent + 2);
                text.push('\n');
            }
        }
    }
}

fn pad(text: &mut String, indent: usize) {
    text.push_str(&" ".repeat(indent));
}

/// A scalar or an empty collection; long texts go on in the next lines at `indent`.
fn leaf(text: &mut String, value: &Value, indent: usize) {
    let Value::String(words) = value else {
        text.push_str(&flow(value));
        return;
    };
    let column = text.chars().rev().take_while(|c| *c != '\n').count();
    let written = match style(words, false) {
        Style::Plain => folded(words, column, indent),
        Style::Single => {
            let inner = words.replace('\'', "''");
            format!("'{}'", folded(&inner, column + 1, indent))
        }
        Style::Double => double(words),
    };
    text.push_str(&written);
}

/// Breaks at single blanks beyond the width, and doubles line breaks, as folding takes one away.
fn folded(words: &str, mut column: usize, indent: usize) -> String {
    let mut text = String::new();
    let letters: Vec<char> = words.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let neighbours = [at.checked_sub(1).and_then(|i| letters.get(i)), letters.get(at + 1)];
        let alone = neighbours.iter().all(|n| n.is_some_and(|c| !matches!(c, ' ' | '\n')));
        match letter {
            ' ' if column > WIDTH && alone => {
                text.push('\n');
                pad(&mut text, indent);
                column = indent;
            }
            '\n' => {
                let before = at.checked_sub(1).and_then(|i| letters.get(i));
                text.push_str(if before == Some(&'\n') { "\n" } else { "\n\n" });
                if letters.get(at + 1) != Some(&'\n') {
                    pad(&mut text, indent);
                }
                column = indent;
            }
            other => {
                text.push(*other);
                column += 1;
            }
        }
    }
    text
}

/// A text on one line: a key, or part of a flow.
fn word(words: &str, in_flow: bool) -> String {
    match style(words, in_flow) {
        Style::Plain => words.to_owned(),
        Style::Single if !words.contains('\n') => format!("'{}'", words.replace('\'', "''")),
        Style::Single | Style::Double => double(words),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Number(number) => number_text(number),
        Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// YAML 1.1 wants a point in a mantissa before an exponent, whose sign is written: `1.0e+20`.
fn number_text(number: &Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { '-' } else { '+' };
    format!("{mantissa}{point}e{sign}{:0>2}", exponent.trim_start_matches(['-', '+']))
}

fn double(words: &str) -> String {
    let mut text = String::from("\"");
    for letter in words.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            '\u{1b}' => text.push_str("\\e"),
            '\0' => text.push_str("\\0"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            control if control.is_control() => {
                // Writing to a String can't fail.
                let _ = write!(text, "\\x{:02X}", u32::from(control));
            }
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

enum Style {
    Plain,
    Single,
    Double,
}

/// How a text must be written to be read as that text again.
fn style(words: &str, in_flow: bool) -> Style {
    if words.is_empty() {
        return Style::Single;
    }
    let strange = |c: char| c != '\n' && c.is_control();
    let broken_blank = words.contains(" \n") || words.contains("\n ");
    if words.chars().any(strange) || broken_blank {
        return Style::Double;
    }
    let edge = words.starts_with([' ', '\n']) || words.ends_with([' ', '\n']);
    if edge || words.contains('\n') || indicates(words, in_flow) || means_something_else(words) {
        return Style::Single;
    }
    Style::Plain
}

/// Letters that YAML reads as signs where they stand.
fn indicates(words: &str, in_flow: bool) -> bool {
    let blank = |c: Option<char>| c.is_none_or(|c| c == ' ' || c == '\t');
    let mut letters = words.chars();
    let (first, second) = (letters.next(), letters.next());
    let at_start = match first {
        Some(
            '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
            | '@' | '`',
        ) => true,
        Some('?' | ':') => in_flow || blank(second),
        Some('-') => blank(second),
        Some(_) | None => false,
    };
    let document = words.starts_with("---") || words.starts_with("...");
    let in_a_flow = in_flow && words.chars().skip(1).any(|c| ",?[]{}:".contains(c));
    let within = words.contains(": ") || words.ends_with(':') || words.contains(" #");
    at_start || document || in_a_flow || within
}

/// Words that YAML 1.1 reads as a boolean, nothing, a number or a moment.
fn means_something_else(words: &str) -> bool {
    let lower = words.to_ascii_lowercase();
    let cased = words == lower
        || words == words.to_ascii_uppercase()
        || (words[..1] == words[..1].to_ascii_uppercase() && words[1..] == lower[1..]);
    let keyword = matches!(
        lower.as_str(),
        "yes" | "no" | "true" | "false" | "on" | "off" | "null" | "~" | "=" | "<<"
    );
    (keyword && cased) || is_integer(words) || is_float(words) || is_moment(words)
}

fn unsigned(words: &str) -> &str {
    words.strip_prefix(['-', '+']).unwrap_or(words)
}

fn all(words: &str, fits: impl Fn(char) -> bool) -> bool {
    !words.is_empty() && words.chars().all(fits)
}

fn is_integer(words: &str) -> bool {
    let words = unsigned(words);
    let digit = |c: char| c.is_ascii_digit() || c == '_';
    if let Some(bits) = words.strip_prefix("0b") {
        return all(bits, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(hex) = words.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if let Some(octal) = words.strip_prefix('0') {
        return octal.is_empty() || octal.chars().all(|c| matches!(c, '0'..='7' | '_'));
    }
    if !words.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let mut parts = words.split(':');
    let first = parts.next().is_some_and(|part| all(part, digit));
    first && parts.all(sixtieth)
}

/// A part of a sexagesimal number.
fn sixtieth(part: &str) -> bool {
    match part.as_bytes() {
        [a] => a.is_ascii_digit(),
        [b'0'..=b'5', b] => b.is_ascii_digit(),
        _ => false,
    }
}

fn is_float(words: &str) -> bool {
    let lower = words.to_ascii_lowercase();
    let body = unsigned(words);
    if lower == ".nan" || unsigned(&lower) == ".inf" {
        return true;
    }
    let digit = |c: char| c.is_ascii_digit() || c == '_';
    let Some((whole, rest)) = body.split_once('.') else { return false };
    if let Some((first, last)) = whole.rsplit_once(':') {
        return all(first, |c| digit(c) || c == ':')
            && sixtieth(last)
            && (rest.is_empty() || all(rest, digit));
    }
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    let signed = |e: &str| e.starts_with(['-', '+']) && all(&e[1..], |c| c.is_ascii_digit());
    let whole_fits = if whole.is_empty() {
        !fraction.is_empty() && words == body
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit()) && all(whole, digit)
    };
    whole_fits && fraction.chars().all(digit) && exponent.is_none_or(signed)
}

/// `2026-11-22`, or the same with a time.
fn is_moment(words: &str) -> bool {
    let digits = |part: &str, sizes: &[usize]| {
        sizes.contains(&part.len()) && part.chars().all(|c| c.is_ascii_digit())
    };
    let mut parts = words.splitn(3, '-');
    let (Some(year), Some(month), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    if !digits(year, &[4]) || !digits(month, &[1, 2]) {
        return false;
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (day, time) = rest.split_at(end);
    if time.is_empty() {
        return digits(day, &[2]) && digits(month, &[2]);
    }
    let time = time.trim_start_matches(['T', 't', ' ']);
    digits(day, &[1, 2])
        && time.split(':').count() >= 3
        && time.starts_with(|c: char| c.is_ascii_digit())
}
