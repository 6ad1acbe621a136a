//! A record of what a node was given, so that every decision can be taken again: the node as it was,
//! then each input with its time and the actions that followed. Each line begins with a sum over
//! itself and all before it. Leaves files, and JSON, to who writes and who reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Action, Decision, Input, Node, Time};

/// Of what is written; another one is not read.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first of a file.
    Head {
        /// [`FORMAT`].
        format: u32,
        /// Of the program that wrote it: another core may decide otherwise.
        version: String,
        /// The node before the first turn: its configuration, what it has on disk, what it knows.
        node: Box<Node>,
    },
    /// What was given, and what came of it.
    Turn {
        /// On the node's clock.
        at: Time,
        /// What happened.
        input: Box<Input>,
        /// What was wanted done then, in order, each as its `Debug` text.
        actions: Vec<String>,
    },
}

/// The sum over all lines so far (FNV-1a, 64 bits): against damage and careless edits, not malice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain(u64);

impl Default for Chain {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Chain {
    /// `SUM JSON`, and the sum goes on.
    pub fn seal(&mut self, json: &str) -> String {
        self.add(json);
        format!("{:016x} {json}\n", self.0)
    }

    /// The JSON of a line, when its sum is right.
    fn open<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let (sum, json) = line.split_once(' ')?;
        self.add(json);
        (u64::from_str_radix(sum, 16).ok()? == self.0).then_some(json)
    }

    fn add(&mut self, json: &str) {
        for byte in json.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// How the actions stand in a record.
#[must_use]
pub fn words(actions: &[Action]) -> Vec<String> {
    actions.iter().map(|action| format!("{action:?}")).collect()
}

/// Why a record can't be taken at its word.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    /// There is nothing in it.
    #[error("the record is empty")]
    Empty,
    /// It does not begin with a node.
    #[error("line 1 is no head of a record: expected the node as it was; give the whole file")]
    NoHead,
    /// A sum is wrong.
    #[error("line {line} was changed or damaged after it was written: its sum is another")]
    Changed {
        /// Counted from 1.
        line: usize,
    },
    /// The sum is right, and yet.
    #[error("line {line} can't be read: {why}")]
    Unreadable {
        /// Counted from 1.
        line: usize,
        /// The decoder's words.
        why: String,
    },
    /// Written in another way.
    #[error(
        "the record has format {found}, expected {FORMAT}: replay it with pgherd {version}, which wrote it"
    )]
    Format {
        /// The record's.
        found: u32,
        /// Who wrote it.
        version: String,
    },
    /// The same inputs gave something else.
    #[error(
        "line {line}: the node decides otherwise than it did (recorded by {version})\n  \
         recorded  {recorded}\n  replayed  {replayed}"
    )]
    Differs {
        /// Counted from 1.
        line: usize,
        /// Who wrote it.
        version: String,
        /// The first action that is another, as it was.
        recorded: String,
        /// And as it is.
        replayed: String,
    },
}

/// What a replay found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Inputs.
    pub turns: usize,
    /// Actions, all as recorded.
    pub actions: usize,
    /// The node's clock at the first and the last turn.
    pub span: Option<(Time, Time)>,
    /// The last line was cut off: the agent ended while it wrote.
    pub cut: bool,
    /// Who wrote it.
    pub version: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { turns, actions, span, cut, version } = self;
        let over = span.map_or_else(String::new, |(from, to)| format!(" in {}", to.since(from)));
        write!(
            f,
            "{turns} inputs{over}, {actions} actions, all as pgherd {version} recorded them"
        )?;
        if *cut { f.write_str("; the last line is cut off") } else { Ok(()) }
    }
}

/// Takes every decision of a record again. `parse` reads a line's JSON; `tell` hears each decision
/// when it is taken.
///
/// # Errors
/// [`Flaw`]: the record was changed, or this core decides otherwise.
pub fn replay(
    text: &str,
    parse: impl Fn(&str) -> Result<Line, String>,
    mut tell: impl FnMut(&Decision),
) -> Result<Summary, Flaw> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let mut lines = text[..whole].lines().zip(1..);
    let mut chain = Chain::default();
    let mut read = |text: &str, line: usize| {
        let json = chain.open(text).ok_or(Flaw::Changed { line })?;
        parse(json).map_err(|why| Flaw::Unreadable { line, why })
    };
    let (first, line) = lines.next().ok_or(Flaw::Empty)?;
    let Line::Head { format, version, mut node } = read(first, line)? else {
        return Err(Flaw::NoHead);
    };
    if format != FORMAT {
        return Err(Flaw::Format { found: format, version });
    }
    let cut = whole < text.len();
    let mut sum = Summary { turns: 0, actions: 0, span: None, cut, version };
    tell(node.decision());
    for (text, line) in lines {
        let Line::Turn { at, input, actions } = read(text, line)? else {
            return Err(Flaw::NoHead);
        };
        node.handle(at, *input);
        let mut taken = Vec::new();
        while let Some(action) = node.poll_action() {
            if let Action::Decided(decision) = &action {
                tell(decision);
            }
            taken.push(action);
        }
        compare(line, &sum.version, &actions, &words(&taken))?;
        sum.turns += 1;
        sum.actions += taken.len();
        sum.span = Some((sum.span.map_or(at, |(from, _)| from), at));
    }
    Ok(sum)
}

fn compare(
    line: usize,
    version: &str,
    recorded: &[String],
    replayed: &[String],
) -> Result<(), Flaw> {
    let longer = recorded.len().max(replayed.len());
    let Some(at) = (0..longer).find(|&at| recorded.get(at) != replayed.get(at)) else {
        return Ok(());
    };
    let said = |all: &[String]| all.get(at).cloned().unwrap_or_else(|| "nothing more".to_owned());
    let (recorded, replayed) = (said(recorded), said(replayed));
    Err(Flaw::Differs { line, version: version.to_owned(), recorded, replayed })
}
