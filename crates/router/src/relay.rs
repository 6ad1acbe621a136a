//! The data plane: moves bytes between the two sockets of a session until both sides are done.
//! Knows nothing of routes or the protocol; whoever hands it a pair of sockets may replace it by a
//! thread with its own epoll loop, since all it shares is the `Session` (counters, close handle).
//!
//! Memory: bytes go through one scratch buffer per thread and are written at once; only what the
//! other side doesn't take is kept, on the heap, until it does. An idle session owns no buffer.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::registry::{Closed, Session, Side};
use crate::socket::finish;

/// Large enough that bulk transfers need few system calls, small enough for the L2 cache.
const SCRATCH_LEN: usize = 64 * 1024;
/// PostgreSQL never closes only one direction: a client that has got everything and keeps its own
/// direction open for longer isn't looking (a pool's idle connection), and would hold a slot for ever.
const LINGER: Duration = Duration::from_secs(10);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice());
}

/// Looks at bytes before they are passed on.
type Look<'a> = &'a mut dyn FnMut(&[u8]);

/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// This side closed first, in order.
    Finished(Side),
    /// This side broke off.
    Aborted(Side),
    /// The router ended it. Both sides get FIN and nothing more: whether the stream stands at a
    /// message boundary is unknown, so that an ErrorResponse could land in the middle of a row.
    Closed(Closed),
}

/// Two sockets joined.
pub(crate) struct Relay {
    client: TcpStream,
    server: TcpStream,
    up: Flow,
    down: Flow,
    session: Arc<Session>,
    first: Option<Ending>,
    linger: Option<Pin<Box<Sleep>>>,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What was read and not yet taken by the receiver; `sent` of it is gone already.
    rest: Vec<u8>,
    sent: usize,
    state: FlowState,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum FlowState {
    #[default]
    Open,
    /// The source ended; the rest, then FIN, is still to be delivered.
    Ended,
    Done,
}

/// What made a flow stop reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Eof,
    ReadError,
    WriteError,
}

impl Relay {
    /// Joins two sockets. Bytes that were read from the client already are the caller's to forward.
    pub(crate) fn new(client: TcpStream, server: TcpStream, session: Arc<Session>) -> Self {
        let (up, down) = (Flow::default(), Flow::default());
        Self { client, server, up, down, session, first: None, linger: None }
    }

    /// Relays until `watch` has seen enough of what the server sends (`None`), or the session
    /// ended. `watch` sees bytes before the client gets them.
    pub(crate) async fn run_watched(
        &mut self,
        mut watch: impl FnMut(&[u8]) -> bool + Send,
    ) -> Option<Ending> {
        let mut enough = false;
        poll_fn(|cx| match self.poll_run(cx, &mut |bytes| enough = enough || watch(bytes)) {
            Poll::Ready(ending) => Poll::Ready(Some(ending)),
            Poll::Pending if enough => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Relays until the session ends.
    pub(crate) async fn run(&mut self) -> Ending {
        poll_fn(|cx| self.poll_run(cx, &mut |_| {})).await
    }

    fn poll_run(&mut self, cx: &mut Context<'_>, look: Look<'_>) -> Poll<Ending> {
        if let Poll::Ready(why) = self.session.poll_closed(cx) {
            finish(&self.client);
            finish(&self.server);
            return Poll::Ready(Ending::Closed(why));
        }
        if !self.session.passes() {
            return Poll::Pending;
        }
        let (bytes_in, bytes_out) = (&self.session.bytes_in, &self.session.bytes_out);
        let (client, server) = (&mut self.client, &mut self.server);
        let up = self.up.poll(cx, client, server, bytes_in, &mut |_| {});
        let down = self.down.poll(cx, server, client, bytes_out, look);
        if let Poll::Ready(Some(stop)) = up {
            self.note(stop, Side::Client);
        }
        if let Poll::Ready(Some(stop)) = down {
            self.note(stop, Side::Server);
        }
        match (self.up.state, self.down.state) {
            (FlowState::Done, FlowState::Done) => Poll::Ready(self.ending()),
            (_, FlowState::Done) => {
                let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
                linger.as_mut().poll(cx).map(|()| self.ending())
            }
            _ => Poll::Pending,
        }
    }

    fn ending(&self) -> Ending {
        self.first.unwrap_or(Ending::Finished(Side::Client))
    }

    /// A flow out of `source` has stopped. A socket that fails to read is dead both ways. One that
    /// fails to be written may still hold a last word, so the opposite flow goes on until its end.
    fn note(&mut self, stop: Stop, source: Side) {
        let other = match source {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        self.first.get_or_insert(match stop {
            Stop::Eof => Ending::Finished(source),
            Stop::ReadError => Ending::Aborted(source),
            Stop::WriteError => Ending::Aborted(other),
        });
        if stop == Stop::ReadError {
            match source {
                Side::Client => self.down.give_up(),
                Side::Server => self.up.give_up(),
            }
        }
    }
}

impl Flow {
    fn give_up(&mut self) {
        self.rest = Vec::new();
        self.state = FlowState::Done;
    }

    /// Moves what can be moved. Ready with a reason each time the flow changes its state for good,
    /// and with `None` when there is nothing left to do.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        counter: &AtomicU64,
        look: Look<'_>,
    ) -> Poll<Option<Stop>> {
        let mut stop = None;
        loop {
            match self.state {
                FlowState::Done => return Poll::Ready(stop),
                FlowState::Ended => match self.poll_flush(cx, to) {
                    Poll::Ready(Ok(())) => {
                        finish(to);
                        self.give_up();
                    }
                    Poll::Ready(Err(_)) => {
                        self.give_up();
                        stop = stop.or(Some(Stop::WriteError));
                    }
                    // The stop was not reported yet; the waker is registered.
                    Poll::Pending if stop.is_some() => return Poll::Ready(stop),
                    Poll::Pending => return Poll::Pending,
                },
                FlowState::Open => {
                    if ready!(self.poll_flush(cx, to)).is_err() {
                        self.give_up();
                        return Poll::Ready(Some(Stop::WriteError));
                    }
                    match ready!(self.poll_move(cx, from, to, counter, look)) {
                        None => {}
                        Some(Stop::WriteError) => {
                            self.give_up();
                            return Poll::Ready(Some(Stop::WriteError));
                        }
                        ended => {
                            self.state = FlowState::Ended;
                            stop = ended;
                        }
                    }
                }
            }
        }
    }

    /// One read into the scratch buffer and as many writes as the receiver takes at once.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        counter: &AtomicU64,
        look: Look<'_>,
    ) -> Poll<Option<Stop>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            if ready!(Pin::new(from).poll_read(cx, &mut buf)).is_err() {
                return Poll::Ready(Some(Stop::ReadError));
            }
            let bytes = buf.filled();
            if bytes.is_empty() {
                return Poll::Ready(Some(Stop::Eof));
            }
            counter.fetch_add(bytes.len() as u64, Relaxed);
            look(bytes);
            let mut sent = 0;
            while sent < bytes.len() {
                match Pin::new(&mut *to).poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Some(Stop::WriteError)),
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Pending => {
                        self.rest = bytes[sent..].to_vec();
                        self.sent = 0;
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(None)
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<()>> {
        while self.sent < self.rest.len() {
            let left = &self.rest[self.sent..];
            match ready!(Pin::new(&mut *to).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if !self.rest.is_empty() {
            self.rest = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }
}
