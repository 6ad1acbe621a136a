//! The record of a node's turns, for those who want to see later why it did what it did
//! (`pgherd replay`). Two files of half the size that is allowed: each begins with the whole node.
//! Writing may lag behind or fail; the node doesn't wait for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use pgherd_core::record::{Chain, FORMAT, Line, words};
use pgherd_core::{Action, Input, Node, Time};

/// The newer file, in the node's own directory.
const NAME: &str = "record";
/// The file before.
const BEFORE: &str = "record.1";
/// Lines that may wait for the disk: some seconds of a busy node.
const WAITING: usize = 1_024;

/// What goes to the writing thread.
enum Piece {
    /// Begins a new file.
    Begin(String),
    Line(String),
}

/// A node's record, while it is wanted and can be written.
pub(crate) struct Recorder {
    /// How large one file may get.
    limit: usize,
    sender: Option<SyncSender<Piece>>,
    chain: Chain,
    /// What was written to this file; `None`: a new one begins with the next turn.
    written: Option<usize>,
}

impl Recorder {
    /// `bytes` at most, in `run_dir`; none: nothing is recorded.
    pub(crate) fn start(run_dir: &Path, bytes: Option<u64>) -> Self {
        let sender = bytes.filter(|bytes| *bytes > 0).and_then(|_| {
            let (sender, receiver) = sync_channel(WAITING);
            let run_dir = run_dir.to_owned();
            let writer = move || {
                if let Err(error) = write(&run_dir, &receiver) {
                    tracing::warn!(%error, "the record can't be written; recording ends");
                }
            };
            // It ends with the sender, and holds nothing that must not be lost.
            let thread = std::thread::Builder::new().name("record".to_owned()).spawn(writer);
            thread.map(|_| sender).ok()
        });
        let limit = usize::try_from(bytes.unwrap_or(0) / 2).unwrap_or(usize::MAX);
        Self { limit, sender, chain: Chain::default(), written: None }
    }

    /// Before a turn: the node as it is, where a new file begins; and what the turn will be given.
    pub(crate) fn before(&mut self, node: &Node, input: &Input) -> Option<Input> {
        self.sender.as_ref()?;
        if self.written.is_none_or(|written| written > self.limit) {
            self.chain = Chain::default();
            self.written = Some(0);
            let node = serde_json::to_value(node).ok()?;
            // By hand, because `Line` owns the node.
            let head = serde_json::json!({
                "head": {"format": FORMAT, "version": env!("CARGO_PKG_VERSION"), "node": node}
            });
            self.send(&head.to_string(), Piece::Begin);
        }
        Some(input.clone())
    }

    /// After it.
    pub(crate) fn after(&mut self, at: Time, input: Input, actions: &[Action]) {
        if self.written.is_none() {
            return;
        }
        let turn = Line::Turn { at, input: Box::new(input), actions: words(actions) };
        match serde_json::to_string(&turn) {
            Ok(json) => self.send(&json, Piece::Line),
            Err(error) => {
                tracing::warn!(%error, "a turn can't be recorded");
                self.written = None;
            }
        }
    }

    fn send(&mut self, json: &str, piece: fn(String) -> Piece) {
        let line = self.chain.seal(json);
        let size = line.len();
        match self.sender.as_ref().map(|sender| sender.try_send(piece(line))) {
            Some(Ok(())) => self.written = self.written.map(|written| written + size),
            // The disk is slow: what was lost breaks this file, and a new one begins.
            Some(Err(TrySendError::Full(_))) => self.written = None,
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.sender = None;
                self.written = None;
            }
        }
    }
}

fn write(run_dir: &Path, pieces: &Receiver<Piece>) -> io::Result<()> {
    let mut file: Option<File> = None;
    while let Ok(piece) = pieces.recv() {
        match piece {
            Piece::Begin(line) => {
                let mut new = begin(run_dir)?;
                new.write_all(line.as_bytes())?;
                file = Some(new);
            }
            Piece::Line(line) => {
                if let Some(file) = &mut file {
                    file.write_all(line.as_bytes())?;
                }
            }
        }
    }
    Ok(())
}

fn begin(run_dir: &Path) -> io::Result<File> {
    let path: PathBuf = run_dir.join(NAME);
    match std::fs::rename(&path, run_dir.join(BEFORE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use std::time::Duration;

    use pgherd_core::record::{Flaw, Summary, replay};
    use pgherd_core::{Incarnation, NodeConfig, NodeName, Policy, RequestId, StoreOutcome, Tags};

    use super::*;

    fn node() -> Node {
        let config = NodeConfig {
            name: NodeName::new("n1").unwrap(),
            tags: Tags::default(),
            restores_alone: false,
            founding_policy: Policy::default(),
            may_found: true,
            repair: pgherd_core::Repair::default(),
            seed: u64::MAX,
            mutant: None,
        };
        Node::new(config, Incarnation(u64::MAX), pgherd_core::Durable::default(), Time(5))
    }

    fn turn(recorder: &mut Recorder, node: &mut Node, at: u64, input: Input) {
        let given = recorder.before(node, &input).unwrap();
        node.handle(Time(at), input);
        let actions: Vec<_> = std::iter::from_fn(|| node.poll_action()).collect();
        recorder.after(Time(at), given, &actions);
    }

    fn again(text: &str) -> Result<Summary, Flaw> {
        let parse = |json: &str| serde_json::from_str(json).map_err(|error| error.to_string());
        replay(text, parse, |_| {})
    }

    /// The thread writes when it gets to it.
    fn read(path: &Path, lines: usize) -> String {
        for _ in 0..500 {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= lines {
                return text;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("never {lines} lines in {}", path.display());
    }

    #[test]
    fn a_record_replays_from_each_file_and_a_changed_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::start(dir.path(), Some(1 << 20));
        let mut node = node();
        turn(&mut recorder, &mut node, 1_000, Input::Tick);
        let outcome = StoreOutcome::Granted(pgherd_core::LeaseId(i64::MAX));
        turn(&mut recorder, &mut node, 2_000, Input::Store { id: RequestId(1), outcome });
        turn(&mut recorder, &mut node, 200_000, Input::Tick);
        let text = read(&dir.path().join(NAME), 4);
        let summary = again(&text).unwrap();
        assert_eq!((summary.turns, summary.cut), (3, false));
        assert!(summary.actions > 0);
        assert!(again(&text[..text.len() - 3]).unwrap().cut);
        assert_eq!(again(&text.replacen("200000", "200001", 1)), Err(Flaw::Changed { line: 4 }));

        // The sums are right, and what is said to have been decided isn't.
        let mut chain = Chain::default();
        let json = text.lines().map(|line| line.split_once(' ').unwrap().1);
        let lied: String = json.map(|json| chain.seal(&json.replacen("ttl", "ttk", 1))).collect();
        assert!(matches!(again(&lied), Err(Flaw::Unreadable { .. } | Flaw::Differs { .. })));

        // The next file begins with the node as it is by then.
        recorder.written = Some(usize::MAX);
        turn(&mut recorder, &mut node, 400_000, Input::Tick);
        read(&dir.path().join(BEFORE), 4);
        let text = read(&dir.path().join(NAME), 2);
        assert_eq!(again(&text).unwrap().turns, 1);
    }
}
