//! The job: reads every file before anything runs, waits for a server that takes writes, runs what
//! hasn't run, and goes on after a failover where the record says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

use crate::fault::{Fault, Mistake};
use crate::plan::{self, Kind, Part, checksum};
use crate::record::{self, Key, Known};
use crate::script::{self, Statement};
use crate::session::{Refusal, Say, Session, Trouble, Way};
use crate::variables::Variables;

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to connect to the router's write port.
    pub config: Config,
    /// How connections are secured.
    pub security: pgherd_connect::Security,
    /// The same in words, like `pg-router:5432`.
    pub server: String,
    /// The database of files that name none, which has the record of whole files.
    pub database: String,
    /// Where the files are.
    pub directory: PathBuf,
    /// What the files may ask for.
    pub variables: Variables,
    /// How long to wait for a server that takes writes, each time there is none.
    pub patience: Duration,
    /// Whether a file that changed after it ran is a failure.
    pub changes_fail: bool,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Files that ran now.
    pub ran: Vec<String>,
    /// Files that had run before.
    pub skipped: Vec<String>,
    /// Those of them that have changed since.
    pub changed: Vec<String>,
}

struct File {
    name: String,
    checksum: String,
    parts: Vec<Part>,
}

/// Runs what has not run yet; `say` hears what happens.
///
/// # Errors
/// [`Fault`], with the record telling what ran.
pub async fn run(settings: &Settings, say: &mut (dyn FnMut(&str) + Send)) -> Result<Report, Fault> {
    let files = read(&settings.directory, &settings.variables, say)?;
    let way = Way {
        config: settings.config.clone(),
        security: settings.security.clone(),
        server: settings.server.clone(),
        patience: settings.patience,
    };
    let mut job = Job { way, home: &settings.database, session: None };
    let mut report = Report::default();
    for file in &files {
        let before = job.finished(file, say).await?;
        match before {
            None => {
                job.file(file, say).await?;
                report.ran.push(file.name.clone());
            }
            Some(before) => {
                if before.checksum == file.checksum {
                    say(&format!("{}: ran before ({})", file.name, before.at));
                } else if settings.changes_fail {
                    return Err(Fault::Changed(file.name.clone()));
                } else {
                    say(&format!(
                        "WARNING: {}: changed after it had run ({}), and not run again; put what \
                         is new in a new file",
                        file.name, before.at
                    ));
                    report.changed.push(file.name.clone());
                }
                report.skipped.push(file.name.clone());
            }
        }
    }
    Ok(report)
}

/// All files of the directory, or all mistakes in them.
fn read(directory: &Path, variables: &Variables, say: Say<'_>) -> Result<Vec<File>, Fault> {
    let unreadable = |path: &Path, source| Fault::Unreadable { path: path.to_owned(), source };
    let entries = std::fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(directory, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") {
            names.push(name);
        } else if !name.starts_with('.') && !name.ends_with(".example") {
            say(&format!("{name}: not run, only *.sql is"));
        }
    }
    names.sort_unstable();
    let (mut files, mut mistakes): (_, Vec<(String, Mistake)>) = (Vec::new(), Vec::new());
    for name in names {
        let path = directory.join(&name);
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        match script::read(&text, variables).and_then(plan::parts) {
            Ok(parts) => {
                files.push(File { checksum: checksum([text.as_str()].into_iter()), parts, name });
            }
            Err(found) => mistakes.extend(found.into_iter().map(|it| (name.clone(), it))),
        }
    }
    if mistakes.is_empty() { Ok(files) } else { Err(Fault::Mistakes(mistakes)) }
}

struct Job<'a> {
    way: Way,
    home: &'a str,
    session: Option<(String, Session)>,
}

/// One part to be run, and where.
#[derive(Clone, Copy)]
struct Work<'a> {
    file: &'a File,
    index: usize,
    database: &'a str,
}

impl<'a> Work<'a> {
    fn part(&self) -> &'a Part {
        &self.file.parts[self.index]
    }

    fn key(&self) -> Key<'a> {
        Key { file: &self.file.name, part: self.index }
    }
}

/// How a part ended.
enum Ended {
    Done,
    /// To be tried again, when a server takes writes.
    Lost(String),
}

impl Job<'_> {
    async fn finished(
        &mut self,
        file: &File,
        say: Say<'_>,
    ) -> Result<Option<record::Finished>, Fault> {
        loop {
            let session = self.session(self.home, &[], say).await?;
            match record::finished(session, &file.name).await {
                Ok(found) => return Ok(found),
                Err(trouble) => self.after(trouble, self.home, say)?,
            }
        }
    }

    async fn file(&mut self, file: &File, say: Say<'_>) -> Result<(), Fault> {
        // As with psql -f, what one file has SET is nothing to the next.
        self.session = None;
        for part in 0..file.parts.len() {
            self.part(file, part, say).await?;
        }
        loop {
            let session = self.session(self.home, &[], say).await?;
            match record::finish(session, &file.name, &file.checksum).await {
                Ok(()) => break,
                Err(trouble) => self.after(trouble, self.home, say)?,
            }
        }
        let statements: usize = file.parts.iter().map(|part| part.statements.len()).sum();
        let plural = if statements == 1 { "" } else { "s" };
        say(&format!("{}: done, {statements} statement{plural}", file.name));
        self.session = None;
        Ok(())
    }

    async fn part(&mut self, file: &File, index: usize, say: Say<'_>) -> Result<(), Fault> {
        let part = &file.parts[index];
        let database = part.database.as_deref().unwrap_or(self.home).to_owned();
        let earlier = &file.parts[..index];
        let work = Work { file, index, database: &database };
        loop {
            let session = self.session(&database, earlier, say).await?;
            let ended = match part.kind {
                Kind::Transaction => transaction(session, work).await?,
                Kind::Alone => alone(session, work, say).await?,
            };
            match ended {
                Ended::Done => return Ok(()),
                Ended::Lost(words) => self.lost(&words, say),
            }
        }
    }

    /// A connection to that database, on which what earlier parts have SET is so.
    async fn session(
        &mut self,
        database: &str,
        earlier: &[Part],
        say: Say<'_>,
    ) -> Result<&Session, Fault> {
        while self.session.as_ref().is_none_or(|(name, _)| name != database) {
            self.session = None;
            let session = Session::open(&self.way, database, say).await?;
            let same = |part: &&Part| part.database.as_deref().unwrap_or(self.home) == database;
            match settle(&session, earlier.iter().filter(same)).await {
                Ok(()) => self.session = Some((database.to_owned(), session)),
                Err(trouble) => self.after(trouble, database, say)?,
            }
        }
        match &self.session {
            Some((_, session)) => Ok(session),
            None => unreachable!("the loop ends with a session"),
        }
    }

    /// What to do when the record can't be read or written.
    fn after(&mut self, trouble: Trouble, database: &str, say: Say<'_>) -> Result<(), Fault> {
        match trouble {
            Trouble::Passing(words) => {
                self.lost(&words, say);
                Ok(())
            }
            Trouble::Lasting(refusal) => Err(unrecorded(database, *refusal)),
        }
    }

    fn lost(&mut self, words: &str, say: Say<'_>) {
        say(&format!("the connection is lost ({words}); going on where the record says"));
        self.session = None;
    }
}

fn unrecorded(database: &str, refusal: Refusal) -> Fault {
    Fault::Record { database: database.to_owned(), words: refusal.words }
}

/// Makes the record's tables, and repeats the settings of parts that ran on another connection.
async fn settle<'a>(
    session: &Session,
    earlier: impl Iterator<Item = &'a Part>,
) -> Result<(), Trouble> {
    record::prepare(session).await?;
    for statement in earlier.flat_map(|part| &part.statements) {
        if is_setting(statement) {
            session.run(statement.sql.reveal()).await?;
        }
    }
    Ok(())
}

fn is_setting(statement: &Statement) -> bool {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["SET", "LOCAL" | "TRANSACTION" | "CONSTRAINTS", ..] => false,
        ["SET" | "RESET", ..] => true,
        ["SELECT", rest @ ..] => rest.contains(&"SET_CONFIG"),
        _ => false,
    }
}

/// All of a part with its record, or nothing of it.
async fn transaction(session: &Session, work: Work<'_>) -> Result<Ended, Fault> {
    let Work { file, index, database } = work;
    let (key, part) = (work.key(), work.part());
    let sum = part.checksum();
    if let Some(ended) = settled(record::known(session, key).await, &sum, work)? {
        return Ok(ended);
    }
    let begun = async {
        session.run("BEGIN").await?;
        record::note(session, key, &sum, part.line(), true).await
    };
    if let Err(trouble) = begun.await {
        return lost_or(trouble, |refusal| unrecorded(database, refusal));
    }
    for statement in &part.statements {
        if let Err(trouble) = session.run(statement.sql.reveal()).await {
            return lost_or(trouble, |refusal| {
                let undone = if index == 0 {
                    "nothing of this file was kept; correct it and start again".to_owned()
                } else {
                    format!(
                        "what is before line {} of this file ran and is recorded, the rest was not \
                         kept; correct it and start again",
                        part.line()
                    )
                };
                failed(file, statement, &refusal, undone)
            });
        }
    }
    // An answer that doesn't come is an unknown outcome; the record knows it.
    match session.run("COMMIT").await {
        Ok(_) => Ok(Ended::Done),
        Err(trouble) => lost_or(trouble, |refusal| {
            let last = part.statements.last();
            let words = "nothing of this part was kept; correct it and start again".to_owned();
            match last {
                Some(last) => failed(file, last, &refusal, words),
                None => unrecorded(database, refusal),
            }
        }),
    }
}

/// One statement that can't be in a transaction: noted before, and again after.
async fn alone(session: &Session, work: Work<'_>, say: Say<'_>) -> Result<Ended, Fault> {
    let Work { file, database, .. } = work;
    let (key, part) = (work.key(), work.part());
    let sum = part.checksum();
    let known = record::known(session, key).await;
    let tried = matches!(known, Ok(Known::Started { .. }));
    if let Some(ended) = settled(known, &sum, work)? {
        return Ok(ended);
    }
    if let Err(trouble) = record::note(session, key, &sum, part.line(), false).await {
        return lost_or(trouble, |refusal| unrecorded(database, refusal));
    }
    for statement in &part.statements {
        match send(session, statement).await {
            Ok(()) => {}
            Err(Trouble::Lasting(refusal)) if tried && is_there_already(&refusal.code) => {
                say(&format!(
                    "{}, line {}: had happened before the connection was lost",
                    file.name, statement.line
                ));
            }
            Err(Trouble::Passing(words)) => return Ok(Ended::Lost(words)),
            Err(Trouble::Lasting(refusal)) => {
                // If this fails, the note stays as one of a statement that may have happened.
                let _ = record::forget(session, key).await;
                let undone = "what came before it in this file ran and is recorded; correct it \
                              and start again";
                return Err(failed(file, statement, &refusal, undone.to_owned()));
            }
        }
    }
    match record::note(session, key, &sum, part.line(), true).await {
        Ok(()) => Ok(Ended::Done),
        Err(trouble) => lost_or(trouble, |refusal| unrecorded(database, refusal)),
    }
}

/// Sends a statement, and with `\gexec` every statement that its result is.
async fn send(session: &Session, statement: &Statement) -> Result<(), Trouble> {
    let rows = session.run(statement.sql.reveal()).await?;
    if statement.gexec {
        for sql in rows.into_iter().flatten().flatten() {
            session.run(&sql).await?;
        }
    }
    Ok(())
}

/// Whether the record settles the matter already.
fn settled(
    known: Result<Known, Trouble>,
    sum: &str,
    work: Work<'_>,
) -> Result<Option<Ended>, Fault> {
    match known {
        Ok(Known::Nothing) => Ok(None),
        Ok(Known::Started { checksum } | Known::Done { checksum }) if checksum != sum => {
            let (file, line) = (work.file.name.clone(), work.part().line());
            Err(Fault::ChangedHalfway { file, line })
        }
        Ok(Known::Started { .. }) => Ok(None),
        Ok(Known::Done { .. }) => Ok(Some(Ended::Done)),
        Err(trouble) => lost_or(trouble, |refusal| unrecorded(work.database, refusal)).map(Some),
    }
}

fn lost_or(trouble: Trouble, fault: impl FnOnce(Refusal) -> Fault) -> Result<Ended, Fault> {
    match trouble {
        Trouble::Passing(words) => Ok(Ended::Lost(words)),
        Trouble::Lasting(refusal) => Err(fault(*refusal)),
    }
}

/// What a statement says that did happen already.
fn is_there_already(code: &SqlState) -> bool {
    [
        SqlState::DUPLICATE_DATABASE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_TABLE,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::UNDEFINED_OBJECT,
    ]
    .contains(code)
}

/// The most of a statement that is shown.
const SHOWN: usize = 300;

fn failed(file: &File, statement: &Statement, refusal: &Refusal, undone: String) -> Fault {
    // Values have other lengths than their names: the server's position is good for a line as long
    // as no value stands before it, and values have no line breaks.
    let before = statement.sql.reveal().chars().take(refusal.position.unwrap_or(1).max(1) - 1);
    let line = statement.line + before.filter(|c| *c == '\n').count();
    let mut shown: String = statement.source.chars().take(SHOWN).collect();
    if shown.len() < statement.source.len() {
        shown.push_str(" ...");
    }
    Fault::Statement {
        file: file.name.clone(),
        line,
        words: statement.sql.hide(&refusal.words),
        statement: shown.replace('\n', "\n  "),
        undone,
    }
}
