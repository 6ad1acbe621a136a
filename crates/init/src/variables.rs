//! Values for the SQL, from the environment and secret files, and how each is written where it
//! stands. Values are never shown: [`Shown`] knows which parts of a statement they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::lex::Place;

/// Names and their values. `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Variables {
    set: BTreeMap<String, String>,
    secrets: Option<PathBuf>,
    environment: Option<fn(&str) -> Option<String>>,
}

/// A statement with values in it. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Shown {
    sql: String,
    values: Vec<String>,
}

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variables").field("set", &self.set.keys()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown(***)")
    }
}

impl Variables {
    /// The process's environment, `NAME_FILE` for files that it names, and the files of a directory
    /// like `/run/secrets`.
    #[must_use]
    pub fn of_process(secrets: PathBuf) -> Self {
        let environment = |name: &str| std::env::var(name).ok();
        Self { set: BTreeMap::new(), secrets: Some(secrets), environment: Some(environment) }
    }

    /// Sets one, over whatever the environment says.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.set.insert(name.to_owned(), value.into());
    }

    /// The value, or what to do to have one.
    pub(crate) fn get(&self, name: &str) -> Result<String, String> {
        let value = match self.find(name)? {
            Some(value) => value,
            None => {
                return Err(format!(
                    "the variable {name} is not set; set it in the environment, name its file in \
                     {name}_FILE, or make it a secret"
                ));
            }
        };
        if value.contains('\0') { Err(format!("{name} has a zero byte in it")) } else { Ok(value) }
    }

    fn find(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(value) = self.set.get(name) {
            return Ok(Some(value.clone()));
        }
        let environment = |name: &str| self.environment.and_then(|lookup| lookup(name));
        if let Some(value) = environment(name) {
            return Ok(Some(value));
        }
        if let Some(path) = environment(&format!("{name}_FILE")) {
            return first_line(Path::new(&path)).map(Some);
        }
        let Some(secrets) = &self.secrets else { return Ok(None) };
        for name in [name.to_owned(), name.to_lowercase()] {
            let path = secrets.join(name);
            if path.is_file() {
                return first_line(&path).map(Some);
            }
        }
        Ok(None)
    }

    /// Adds a variable's value to a statement, as its place asks. `source` is how the file has it.
    pub(crate) fn write(
        &self,
        sql: &mut Shown,
        name: &str,
        place: Place,
        source: &str,
    ) -> Result<(), String> {
        let value = match (self.get(name), place) {
            (Ok(value), _) => value,
            // A slice like [1:n] is no variable.
            (Err(_), Place::Colon) => {
                sql.push(source);
                return Ok(());
            }
            (Err(words), _) => return Err(words),
        };
        let written = match place {
            Place::Colon | Place::Bare => {
                let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
                if !value.chars().all(plain) {
                    return Err(format!(
                        "the value of {name} is not a plain word or number; write :'{name}' for \
                         text or :\"{name}\" for a name"
                    ));
                }
                value.clone()
            }
            Place::Literal if value.contains('\\') => {
                format!(" E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
            }
            Place::Literal => format!("'{}'", value.replace('\'', "''")),
            Place::Identifier => format!("\"{}\"", value.replace('"', "\"\"")),
            Place::InLiteral => value.replace('\'', "''"),
            Place::InEscaped => value.replace('\\', "\\\\").replace('\'', "''"),
            Place::InIdentifier => value.replace('"', "\"\""),
            Place::InDollars => {
                if value.contains(['\'', '"', '\\', '$']) {
                    return Err(format!(
                        "the value of {name} has a quote, backslash or dollar, which can't be \
                         written between dollar quotes; pass it with set_config and :'{name}'"
                    ));
                }
                value.clone()
            }
        };
        sql.push(&written);
        sql.values.push(value);
        sql.values.push(written);
        Ok(())
    }
}

fn first_line(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("{} can't be read: {error}", path.display())),
    }
}

impl Shown {
    pub(crate) fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    /// What the server gets.
    pub(crate) fn reveal(&self) -> &str {
        &self.sql
    }

    /// Somebody's words about the statement, without the values that are in it.
    pub(crate) fn hide(&self, words: &str) -> String {
        let mut words = words.to_owned();
        let mut values: Vec<&String> = self.values.iter().filter(|v| !v.is_empty()).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        for value in values {
            words = words.replace(value.as_str(), "***");
        }
        words
    }
}
