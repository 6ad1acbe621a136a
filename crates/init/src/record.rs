//! What ran, as the database itself remembers it: schema `pgherd`. A part is recorded in the
//! database that it is for and, where it is a transaction, by that same transaction; a whole file in
//! the database that the job connects to.

use crate::session::{Rows, Session, Trouble};

/// What is known of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    Nothing,
    /// It was sent, and nobody knows what became of it.
    Started {
        checksum: String,
    },
    Done {
        checksum: String,
    },
}

/// A file that ran whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finished {
    pub(crate) checksum: String,
    pub(crate) at: String,
}

/// A part's place: which of which file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) file: &'a str,
    pub(crate) part: usize,
}

const TABLES: &[&str] = &[
    "CREATE SCHEMA IF NOT EXISTS pgherd",
    "CREATE TABLE IF NOT EXISTS pgherd.init_parts (
        file text, part int, checksum text NOT NULL, line int NOT NULL, done bool NOT NULL,
        at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (file, part))",
    "CREATE TABLE IF NOT EXISTS pgherd.init_files (
        file text PRIMARY KEY, checksum text NOT NULL, at timestamptz NOT NULL DEFAULT now())",
];

/// Makes the tables where they aren't.
pub(crate) async fn prepare(session: &Session) -> Result<(), Trouble> {
    let there = "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
                 ON n.oid = c.relnamespace WHERE n.nspname = 'pgherd' AND c.relname = 'init_files'";
    if session.run(there).await?.is_empty() {
        for table in TABLES {
            session.run(table).await?;
        }
    }
    Ok(())
}

pub(crate) async fn finished(session: &Session, file: &str) -> Result<Option<Finished>, Trouble> {
    let query = format!(
        "SELECT checksum, date_trunc('second', at) FROM pgherd.init_files WHERE file = {}",
        literal(file)
    );
    let mut row = first(as_ourselves(session, &query).await?).into_iter();
    let (checksum, at) = (row.next().flatten(), row.next().flatten());
    Ok(checksum.zip(at).map(|(checksum, at)| Finished { checksum, at }))
}

pub(crate) async fn finish(session: &Session, file: &str, checksum: &str) -> Result<(), Trouble> {
    let (file, checksum) = (literal(file), literal(checksum));
    let insert = format!(
        "INSERT INTO pgherd.init_files (file, checksum) VALUES ({file}, {checksum})
         ON CONFLICT (file) DO NOTHING"
    );
    as_ourselves(session, &insert).await.map(drop)
}

pub(crate) async fn known(session: &Session, key: Key<'_>) -> Result<Known, Trouble> {
    let query = format!(
        "SELECT checksum, done FROM pgherd.init_parts WHERE file = {} AND part = {}",
        literal(key.file),
        key.part
    );
    let mut row = first(as_ourselves(session, &query).await?).into_iter();
    let Some(checksum) = row.next().flatten() else { return Ok(Known::Nothing) };
    let done = row.next().flatten().as_deref() == Some("t");
    Ok(if done { Known::Done { checksum } } else { Known::Started { checksum } })
}

/// Notes a part: as done within its own transaction, or as started before it is sent.
pub(crate) async fn note(
    session: &Session,
    key: Key<'_>,
    checksum: &str,
    line: usize,
    done: bool,
) -> Result<(), Trouble> {
    let insert = format!(
        "INSERT INTO pgherd.init_parts (file, part, checksum, line, done)
         VALUES ({file}, {part}, {checksum}, {line}, {done})
         ON CONFLICT (file, part) DO UPDATE SET done = excluded.done, at = now()",
        file = literal(key.file),
        part = key.part,
        checksum = literal(checksum),
    );
    as_ourselves(session, &insert).await.map(drop)
}

/// Takes a note back: the statement failed, so it didn't happen.
pub(crate) async fn forget(session: &Session, key: Key<'_>) -> Result<(), Trouble> {
    let (file, part) = (literal(key.file), key.part);
    let delete = format!("DELETE FROM pgherd.init_parts WHERE file = {file} AND part = {part}");
    as_ourselves(session, &delete).await.map(drop)
}

/// Runs it as the user who logged in, whatever role the file has taken on.
async fn as_ourselves(session: &Session, sql: &str) -> Result<Rows, Trouble> {
    let role = first(session.run("SELECT pg_catalog.current_setting('role')").await?);
    let role = role.into_iter().next().flatten().unwrap_or_default();
    if role == "none" {
        return session.run(sql).await;
    }
    session.run("SET ROLE NONE").await?;
    let outcome = session.run(sql).await;
    session.run(&format!("SET ROLE \"{}\"", role.replace('"', "\"\""))).await?;
    outcome
}

fn first(rows: Rows) -> Vec<Option<String>> {
    rows.into_iter().next().unwrap_or_default()
}

/// A text as an SQL literal.
fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
