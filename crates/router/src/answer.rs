//! The time before a server's first word: a session that got none is bound to no server, and goes to
//! another one when its own falls away. Leaves finding that one to `connect`, and remembering what
//! the client has sent to `session`.
//!
//! What is sent again is what a client says before anybody has answered it: a request for encryption,
//! a start-up packet, a TLS hello. None of it does anything at a server, and none is meant for one
//! server rather than another. A password isn't among it, nor a statement: both answer a message of the
//! server (AuthenticationRequest, ReadyForQuery), and with the first byte that the client gets from there
//! the session is bound. A client that sends more without having been answered may have sent
//! a statement, to a server that asks for no password: it is bound, too. `N`, the answer that there is no
//! encryption, binds nobody: what follows is a start-up packet, which every server takes unasked.
//! A server that lets in without a password may have logged the client in, and run a login trigger: so it
//! does for who connects again, which is all that the client could do instead.

use std::future::poll_fn;
use std::task::Poll;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::registry::{Closed, Session};

/// To how many servers that broke off a session may be sent, all in all: one whose start-up packet itself
/// ends the server must not be handed on and on.
const FAILURES_MAX: usize = 3;

/// How a session lost its server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// The router ended it.
    Ended(Closed),
    /// The server broke off.
    Failed,
}

/// Whether a session is bound to its server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bond {
    /// No: the client got nothing from there, and sent nothing that does anything.
    Free,
    /// Yes.
    Bound,
}

/// What becomes of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// It looks for another server.
    Move,
    /// It ends, for this reason.
    End(Closed),
    /// It is refused.
    Refuse,
}

/// What becomes of a session that lost its server; `failures` servers broke off before.
pub(crate) const fn after(loss: Loss, bond: Bond, failures: usize) -> Next {
    match (loss, bond) {
        (Loss::Ended(why), Bond::Free) if why.lets_move() => Next::Move,
        (Loss::Ended(why), Bond::Free | Bond::Bound) => Next::End(why),
        (Loss::Failed, Bond::Free) if failures + 1 < FAILURES_MAX => Next::Move,
        (Loss::Failed, Bond::Free | Bond::Bound) => Next::Refuse,
    }
}

/// What ended the wait for a server's first word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// There is something to relay, from either side: the session is to be bound.
    Something,
    /// The server broke off.
    Failure,
}

/// Waits until there is something to relay, and takes none of it. What may not pass is not there:
/// a word that is held back can still turn out to be one of a reign that is over.
pub(crate) async fn first_word(client: &TcpStream, server: &TcpStream, session: &Session) -> Heard {
    poll_fn(|cx| {
        let (mut here, mut there) = ([0], [0]);
        // Also its end, which is the relay's to hand on.
        if client.poll_peek(cx, &mut ReadBuf::new(&mut here)).is_ready() {
            return Poll::Ready(Heard::Something);
        }
        match server.poll_peek(cx, &mut ReadBuf::new(&mut there)) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Heard::Failure),
            // Woken when they pass again, or when the session ends.
            Poll::Ready(Ok(_)) if !session.passes() => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Heard::Something),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lost_a_reign_or_a_member_moves_and_a_router_that_stops_ends_all() {
        for why in [Closed::LeaderChanged, Closed::MemberGone, Closed::Unconfirmed] {
            // However many servers failed before: each reign ends once.
            for failures in [0, FAILURES_MAX] {
                assert_eq!(after(Loss::Ended(why), Bond::Free, failures), Next::Move);
            }
        }
        let stops = after(Loss::Ended(Closed::Shutdown), Bond::Free, 0);
        assert_eq!(stops, Next::End(Closed::Shutdown));
    }

    #[test]
    fn who_is_bound_never_moves() {
        for why in
            [Closed::LeaderChanged, Closed::MemberGone, Closed::Unconfirmed, Closed::Shutdown]
        {
            assert_eq!(after(Loss::Ended(why), Bond::Bound, 0), Next::End(why));
        }
        assert_eq!(after(Loss::Failed, Bond::Bound, 0), Next::Refuse);
    }

    #[test]
    fn only_so_many_servers_break_off() {
        let mut asked = 1;
        while after(Loss::Failed, Bond::Free, asked - 1) == Next::Move {
            asked += 1;
        }
        assert_eq!(asked, FAILURES_MAX);
    }
}
