//! libpq's words about security: taken out of a connection string, completed from the environment.
//! Leaves what they mean to `security`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

/// Each word, and the variable that says it where a connection string doesn't (libpq-envars).
const WORDS: [(&str, Option<&str>); 11] = [
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslpassword", None),
    ("sslcrl", Some("PGSSLCRL")),
    ("sslcrldir", Some("PGSSLCRLDIR")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("krbsrvname", Some("PGKRBSRVNAME")),
];

/// What was said about security.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words {
    said: BTreeMap<&'static str, String>,
    /// Where libpq looks for files that nobody names: `~/.postgresql`.
    pub(crate) home: Option<PathBuf>,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |(name, value): (&&'static str, &String)| {
            let value = if *name == "sslpassword" { "***".to_owned() } else { value.clone() };
            (*name, value)
        };
        f.debug_map().entries(self.said.iter().map(hidden)).finish()
    }
}

impl Words {
    /// From names and values; names that are no such word are left out.
    pub fn of<'a>(said: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut words = Self::default();
        for (name, value) in said {
            words.set(name, value);
        }
        words
    }

    /// Takes the words out of a connection string; what is left says host, user and so on. A text that
    /// is none is left as it is, for who reads the rest to refuse.
    #[must_use]
    pub fn split(text: &str) -> (String, Self) {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Self::split_uri(text);
        }
        Self::split_pairs(text).unwrap_or_else(|| (text.to_owned(), Self::default()))
    }

    /// What nobody said, from the variables that libpq reads, and the files that it looks for.
    #[must_use]
    pub fn or_environment(mut self, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        for (name, from) in WORDS {
            let found = from.and_then(variable).filter(|value| !value.is_empty());
            if let (Some(value), false) = (found, self.said.contains_key(name)) {
                self.said.insert(name, value);
            }
        }
        self.home = variable("HOME").map(|home| PathBuf::from(home).join(".postgresql"));
        self
    }

    /// What was said; an empty text is nothing said.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.said.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn set(&mut self, name: &str, value: &str) -> bool {
        // libpq takes JDBC's word as well.
        if name == "ssl" && value == "true" {
            self.said.insert("sslmode", "require".to_owned());
            return true;
        }
        let known = WORDS.iter().find(|(known, _)| *known == name);
        if let Some((known, _)) = known {
            self.said.insert(known, value.to_owned());
        }
        known.is_some()
    }

    fn split_uri(text: &str) -> (String, Self) {
        let mut words = Self::default();
        let Some((base, query)) = text.split_once('?') else { return (text.to_owned(), words) };
        let mut kept = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            if !words.set(&plain(name), &plain(value)) {
                kept.push(pair);
            }
        }
        let rest =
            if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        (rest, words)
    }

    /// `name = value name = 'a value'`, as libpq's conninfo_parse reads it.
    fn split_pairs(text: &str) -> Option<(String, Self)> {
        let mut words = Self::default();
        let mut kept = String::new();
        let mut letters = text.chars().peekable();
        loop {
            while letters.next_if(|c| c.is_whitespace()).is_some() {}
            if letters.peek().is_none() {
                return Some((kept.trim_end().to_owned(), words));
            }
            let mut name = String::new();
            while let Some(c) = letters.next_if(|c| *c != '=' && !c.is_whitespace()) {
                name.push(c);
            }
            while letters.next_if(|c| c.is_whitespace()).is_some() {}
            letters.next_if_eq(&'=')?;
            while letters.next_if(|c| c.is_whitespace()).is_some() {}
            let value = value(&mut letters)?;
            if !words.set(&name, &value) {
                let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
                kept.push_str(&format!("{name}='{escaped}' "));
            }
        }
    }
}

/// One value, quoted or not; a backslash takes the next letter as it is.
fn value(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let quoted = letters.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match letters.peek().copied() {
            None => return (!quoted).then_some(value),
            Some('\'') if quoted => {
                letters.next();
                return Some(value);
            }
            Some(c) if c.is_whitespace() && !quoted => return Some(value),
            Some('\\') => {
                letters.next();
                value.extend(letters.next());
            }
            Some(c) => {
                letters.next();
                value.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_lose_their_words() {
        let (rest, words) = Words::split(
            "postgresql://me:p%20w@db:1/x?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fca.pem",
        );
        assert_eq!(rest, "postgresql://me:p%20w@db:1/x?connect_timeout=3");
        assert_eq!(words.get("sslmode"), Some("verify-full"));
        assert_eq!(words.get("sslrootcert"), Some("/ca.pem"));
        let (rest, words) = Words::split("host = db password='it\\'s \\\\' sslmode=allow dbname=x");
        assert_eq!(rest, "host='db' password='it\\'s \\\\' dbname='x'");
        assert_eq!(words.get("sslmode"), Some("allow"));
        assert_eq!(Words::split("no string").0, "no string");
        assert_eq!(Words::split("postgres://db?ssl=true").1.get("sslmode"), Some("require"));
    }

    #[test]
    fn the_environment_fills_gaps_only_and_secrets_are_not_shown() {
        let variable = |name: &str| (name == "PGSSLMODE").then(|| "disable".to_owned());
        let said = Words::of([("sslmode", "require"), ("sslpassword", "geheim"), ("host", "no")]);
        let words = said.or_environment(&variable);
        assert_eq!(words.get("sslmode"), Some("require"));
        assert!(!format!("{words:?}").contains("geheim"));
        assert_eq!(Words::default().or_environment(&variable).get("sslmode"), Some("disable"));
    }
}
