//! Everything that the program prints goes through here: one place that knows about broken pipes,
//! terminals and colour, and the exit codes.
//! Leaves what to say to the commands.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::settings::problem::{Problem, Severity};

/// How a command ended badly.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad input or a bad place: nothing was changed. Exit code 2.
    Refused {
        /// Where the problems are, a file's name or nothing.
        place: String,
        /// All of them.
        problems: Vec<Problem>,
    },
    /// It was tried and did not work. Exit code 1.
    Failed(anyhow::Error),
    /// It was tried and did not work, and the command has said so in full. Exit code 1.
    Told,
    /// Somebody answered no, or pressed Ctrl-C at a prompt. Exit code 1.
    Aborted,
    /// Bad input, of which everything has been said already. Exit code 2.
    Wrong,
    /// Whoever read our output has gone: that is success.
    NobodyListens,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// One problem that stops everything.
    pub(crate) fn refused(place: impl Into<String>, words: impl Into<String>) -> Self {
        let problems = vec![Problem::error(None, place, words)];
        Self::Refused { place: String::new(), problems }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::NobodyListens
        } else {
            Self::Failed(error.into())
        }
    }
}

/// Says how it ended, and with which code.
pub(crate) fn finish(outcome: Outcome) -> ExitCode {
    let mut printer = Printer::new();
    let (words, code) = match outcome {
        Ok(()) | Err(Failure::NobodyListens) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Wrong) => return ExitCode::from(2),
        Err(Failure::Aborted) => ("Aborted!".to_owned(), 1),
        Err(Failure::Failed(error)) => (format!("{} {error:#}", printer.red("Error:")), 1),
        Err(Failure::Refused { place, problems }) => {
            warn(&mut printer, &place, &problems);
            (refusal(&printer, &place, &problems), 2)
        }
    };
    // A broken standard error leaves nobody to tell.
    let _ = printer.error(format_args!("{words}"));
    ExitCode::from(code)
}

fn refusal(printer: &Printer, place: &str, problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|p| p.severity == Severity::Error);
    let prefix = if place.is_empty() { String::new() } else { format!("{place}: ") };
    let lines = errors.map(|p| {
        let prefix = if names_its_place(p) { "" } else { &prefix };
        format!("{} {prefix}{p}", printer.red("Error:"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a reader finds the mistake without being told which file it is in.
fn names_its_place(problem: &Problem) -> bool {
    problem.origin.as_ref().is_some_and(pgherd_config::Origin::is_complete)
}

/// Prints the warnings among `problems`.
pub(crate) fn warn(printer: &mut Printer, place: &str, problems: &[Problem]) {
    for problem in problems.iter().filter(|p| p.severity == Severity::Warning) {
        let prefix = if names_its_place(problem) || place.is_empty() {
            String::new()
        } else {
            format!("{place}: ")
        };
        let words = format!("{} {prefix}{problem}", printer.yellow("Warning:"));
        let _ = printer.error(format_args!("{words}"));
    }
}

/// Standard output and standard error.
#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) terminal: bool,
    colour: bool,
    colour_errors: bool,
}

impl Printer {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let terminal = io::stdout().is_terminal();
        let colour_errors = wanted && io::stderr().is_terminal();
        Self { terminal, colour: wanted && terminal, colour_errors }
    }

    /// One line of output.
    pub(crate) fn line(&mut self, words: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{words}")
    }

    /// Output as it stands, shown at once.
    pub(crate) fn raw(&mut self, words: impl fmt::Display) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{words}")?;
        out.flush()
    }

    /// One line on standard error.
    pub(crate) fn error(&mut self, words: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stderr().lock(), "{words}")
    }

    pub(crate) fn green(&self, words: &str) -> String {
        paint(self.colour, "32", words)
    }

    pub(crate) fn dim(&self, words: &str) -> String {
        paint(self.colour, "2", words)
    }

    pub(crate) fn bold(&self, words: &str) -> String {
        paint(self.colour, "1", words)
    }

    pub(crate) fn red(&self, words: &str) -> String {
        paint(self.colour_errors, "31", words)
    }

    /// Red on standard output.
    pub(crate) fn red_output(&self, words: &str) -> String {
        paint(self.colour, "31", words)
    }

    pub(crate) fn yellow(&self, words: &str) -> String {
        paint(self.colour_errors, "33", words)
    }
}

fn paint(wanted: bool, code: &str, words: &str) -> String {
    if wanted { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() }
}

/// Asks a question; the answer may come through a pipe. Where nobody answers, `instead` says what to
/// pass on the command line.
pub(crate) fn ask(question: &str, instead: &str) -> Outcome<String> {
    let mut printer = Printer::new();
    printer.raw(format_args!("{question}: "))?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? > 0 {
        return Ok(answer.trim().to_owned());
    }
    printer.line("")?;
    if io::stdin().is_terminal() {
        return Err(Failure::Aborted);
    }
    Err(Failure::refused("standard input", format!("nobody is there to answer: {instead}")))
}

/// The same with an answer for those who only press Enter.
pub(crate) fn ask_or(question: &str, default: &str, instead: &str) -> Outcome<String> {
    let answer = ask(&format!("{question} [{default}]"), instead)?;
    Ok(if answer.is_empty() { default.to_owned() } else { answer })
}

/// Asks for yes or no; anything but yes aborts.
pub(crate) fn confirm(question: &str) -> Outcome {
    let answer = ask(&format!("{question} [y/N]"), "with --force nothing is asked")?;
    match answer.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Aborted),
    }
}
