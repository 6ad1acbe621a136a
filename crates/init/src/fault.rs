//! What can go wrong, in sentences that say where and what to do.

use std::path::PathBuf;

/// A mistake in a file: nothing was run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub words: String,
}

/// Why the job ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The directory or a file of it can't be read.
    #[error("{path} can't be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Files with mistakes; all of them, before anything ran.
    #[error("{}", mistakes(.0))]
    Mistakes(Vec<(String, Mistake)>),
    /// Nobody accepted writes in time.
    #[error(
        "no server accepted writes within {waited} s, last: {last}; see 'pgherd ctl list' and \
         whether {server} is the router's write port"
    )]
    Deadline {
        /// Seconds.
        waited: u64,
        /// Where.
        server: String,
        /// What happened at the last try.
        last: String,
    },
    /// The server refuses us for good: a wrong password, no such database.
    #[error("{server} refuses the connection to database {database}: {words}")]
    Refused {
        /// Where.
        server: String,
        /// To which database.
        database: String,
        /// The server's words.
        words: String,
    },
    /// A statement failed.
    #[error("{file}, line {line}: {words}\n  {statement}\n{undone}")]
    Statement {
        /// The file.
        file: String,
        /// Where the statement begins, or the place in it that the server named.
        line: usize,
        /// The server's words, without values of variables.
        words: String,
        /// The statement as the file has it, perhaps shortened.
        statement: String,
        /// What became of the statements before it.
        undone: String,
    },
    /// A file was changed after a part of it had run.
    #[error(
        "{file}, line {line}: this part ran in another form before; put the old text back, or move \
         what is new to a new file"
    )]
    ChangedHalfway {
        /// The file.
        file: String,
        /// Where the part begins.
        line: usize,
    },
    /// A file that ran was changed, and that was to be a failure.
    #[error("{0} was changed after it had run, and runs once only; put what is new in a new file")]
    Changed(String),
    /// The record can't be kept.
    #[error("the record of what ran (schema pgherd in {database}) can't be used: {words}")]
    Record {
        /// Where.
        database: String,
        /// Why.
        words: String,
    },
}

impl Fault {
    /// Whether it was bad input, and nothing was changed.
    #[must_use]
    pub fn is_input(&self) -> bool {
        match self {
            Self::Unreadable { .. } | Self::Mistakes(_) | Self::ChangedHalfway { .. } => true,
            Self::Deadline { .. }
            | Self::Refused { .. }
            | Self::Statement { .. }
            | Self::Changed(_)
            | Self::Record { .. } => false,
        }
    }
}

fn mistakes(all: &[(String, Mistake)]) -> String {
    let lines = all.iter().map(|(file, it)| format!("{file}, line {}: {}", it.line, it.words));
    lines.collect::<Vec<_>>().join("\n")
}
