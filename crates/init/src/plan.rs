//! Which statements belong into one transaction: all that follow each other in one database, except
//! those that PostgreSQL runs outside transactions only.
//! A pure function of a script; leaves running to `job`.

use sha2::{Digest, Sha256};

use crate::fault::Mistake;
use crate::script::{Script, Statement, Step};

/// Statements that become true together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// `None` is the database that the job connects to.
    pub(crate) database: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) statements: Vec<Statement>,
}

/// How a part runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// In one transaction, together with the record of it.
    Transaction,
    /// One statement by itself.
    Alone,
}

impl Part {
    /// Where it begins.
    pub(crate) fn line(&self) -> usize {
        self.statements.first().map_or(1, |statement| statement.line)
    }

    /// Of its text, not of the values in it: a new password is no other file.
    pub(crate) fn checksum(&self) -> String {
        checksum(self.statements.iter().map(|statement| statement.source.as_str()))
    }
}

/// SHA-256, in hexadecimal digits.
pub(crate) fn checksum<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a script.
pub(crate) fn parts(script: Script) -> Result<Vec<Part>, Vec<Mistake>> {
    let (mut parts, mut mistakes): (Vec<Part>, _) = (Vec::new(), Vec::new());
    let mut database = None;
    let mut open = false;
    for step in script.steps {
        let statement = match step {
            Step::Connect { database: name } => {
                database = Some(name);
                open = false;
                continue;
            }
            Step::Statement(statement) => statement,
        };
        let kind = match Role::of(&statement) {
            Role::Ordinary => Kind::Transaction,
            Role::Alone => Kind::Alone,
            // The part is a transaction; a new one begins after these.
            Role::Edge => {
                open = false;
                continue;
            }
            Role::Refused(words) => {
                mistakes.push(Mistake { line: statement.line, words: words.to_owned() });
                continue;
            }
        };
        match parts.last_mut() {
            Some(last) if open && kind == Kind::Transaction => last.statements.push(statement),
            Some(_) | None => {
                parts.push(Part { database: database.clone(), kind, statements: vec![statement] });
            }
        }
        open = kind == Kind::Transaction;
    }
    if mistakes.is_empty() { Ok(parts) } else { Err(mistakes) }
}

/// What a statement means for transactions.
enum Role {
    Ordinary,
    /// PostgreSQL runs it outside transactions only.
    Alone,
    /// BEGIN and COMMIT.
    Edge,
    Refused(&'static str),
}

impl Role {
    fn of(statement: &Statement) -> Self {
        if statement.gexec {
            return Self::Alone;
        }
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        let concurrently = words.contains(&"CONCURRENTLY");
        match words.as_slice() {
            ["BEGIN" | "COMMIT" | "END"]
            | ["BEGIN" | "COMMIT" | "END", "WORK" | "TRANSACTION"]
            | ["START", "TRANSACTION"] => Self::Edge,
            ["BEGIN" | "START" | "COMMIT" | "END", ..] => {
                Self::Refused("only plain BEGIN and COMMIT are known here, without options")
            }
            ["ABORT", ..] | ["ROLLBACK"] | ["ROLLBACK", "WORK" | "TRANSACTION"] => {
                Self::Refused("a file can't take back its own statements; leave them out")
            }
            ["PREPARE", "TRANSACTION", ..] => Self::Refused("prepared transactions are not run"),
            ["CREATE" | "DROP", "DATABASE" | "TABLESPACE" | "SUBSCRIPTION", ..]
            | ["ALTER", "SYSTEM" | "SUBSCRIPTION", ..]
            | ["VACUUM" | "CLUSTER", ..]
            | ["DISCARD", "ALL"]
            | ["REINDEX", "DATABASE" | "SYSTEM", ..] => Self::Alone,
            ["ALTER", "DATABASE", ..] if words.windows(2).any(|w| w == ["SET", "TABLESPACE"]) => {
                Self::Alone
            }
            ["CREATE" | "DROP" | "REINDEX" | "REFRESH" | "ALTER", ..] if concurrently => {
                Self::Alone
            }
            _ => Self::Ordinary,
        }
    }
}
