//! Which member is tried first: one on this machine, for it shares the machine's fate anyway, and the others by
//! chance, so that not everybody hangs on the same one when its machine freezes. Leaves connecting and
//! failover to the parent.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, Endpoint};

/// A name that isn't found in this time is another machine's.
const LOOKUP_LIMIT: Duration = Duration::from_millis(200);

/// When a member on this machine is tried again that was left: it may have been without a leader when everything
/// started at once, or frozen with this process.
const FIRST_RETURN: Duration = Duration::from_secs(2);
/// One that has to be left again and again is tried less and less often.
const LONGEST_RETURN: Duration = Duration::from_secs(60);
/// Who stayed for so many times the pause before is well again.
const WELL: u32 = 5;

/// How the member on this machine behaves.
#[derive(Debug)]
pub(super) struct Home {
    since: Option<Instant>,
    pause: Duration,
}

impl Default for Home {
    fn default() -> Self {
        Self { since: None, pause: FIRST_RETURN }
    }
}

impl Home {
    pub(super) fn left(&mut self, now: Instant) {
        let Some(since) = self.since.take() else { return };
        let well = now.saturating_duration_since(since) >= self.pause * WELL;
        self.pause = if well { FIRST_RETURN } else { (self.pause * 2).min(LONGEST_RETURN) };
    }
}

/// In which order members are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As they were given.
    #[default]
    Given,
    /// Those on this machine, then the others in turn, from any of them on.
    NearestFirst,
}

/// The endpoints in the order in which they are tried, and how many of them are on this machine.
pub(super) async fn nearest_first(endpoints: &[Endpoint]) -> (Vec<Endpoint>, usize) {
    let here = join_all(endpoints.iter().map(is_here)).await;
    let chance = usize::try_from(RandomState::new().hash_one(0) % 1_000_003).unwrap_or(0);
    let near = here.iter().filter(|here| **here).count();
    (arranged(endpoints, &here, chance), near)
}

impl Client {
    /// Goes back to the member on this machine when it can be used again, for as long as it is polled.
    pub(crate) async fn keep_near(&self) -> Infallible {
        loop {
            let pause = self.0.slot.lock().await.home.pause;
            sleep(pause).await;
            self.go_home().await;
        }
    }

    async fn go_home(&self) {
        let endpoints = self.endpoints();
        let Some(home) = endpoints.first() else { return };
        let (near, at) = {
            let slot = self.0.slot.lock().await;
            (slot.near.unwrap_or(0), slot.index % endpoints.len())
        };
        if at < near || near == 0 {
            return;
        }
        // Without the slot: calls go on meanwhile.
        let Ok(connection) = self.greet(home).await else { return };
        let mut slot = self.0.slot.lock().await;
        tracing::info!(endpoint = %home, "the store's member on this machine is used again");
        slot.current = Some(Arc::new(connection));
        slot.index = 0;
        slot.home.since = Some(Instant::now());
        self.0.moves.send_modify(|moves| *moves += 1);
    }
}

fn arranged(endpoints: &[Endpoint], here: &[bool], chance: usize) -> Vec<Endpoint> {
    let of = |wanted: bool| {
        let marked = endpoints.iter().zip(here);
        marked.filter(move |(_, here)| **here == wanted).map(|(endpoint, _)| endpoint.clone())
    };
    let mut others: Vec<Endpoint> = of(false).collect();
    if !others.is_empty() {
        let first = chance % others.len();
        others.rotate_left(first);
    }
    of(true).chain(others).collect()
}

/// Whether the address is one of this machine's: only these can be bound.
async fn is_here(endpoint: &Endpoint) -> bool {
    let Some(authority) = endpoint.tcp() else { return true };
    let found = timeout(LOOKUP_LIMIT, lookup_host(authority)).await;
    let Ok(Ok(mut addresses)) = found else { return false };
    addresses.any(|address| UdpSocket::bind((address.ip(), 0)).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    fn all(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_of_the_others_can_be_the_first() {
        let given = all(&["http://a:1", "http://b:1", "http://c:1"]);
        let here = [false, true, false];
        assert_eq!(arranged(&given, &here, 0), all(&["http://b:1", "http://a:1", "http://c:1"]));
        assert_eq!(arranged(&given, &here, 1), all(&["http://b:1", "http://c:1", "http://a:1"]));
        assert_eq!(arranged(&[], &[], 5), []);
    }

    #[test]
    fn who_is_left_again_and_again_is_tried_less_often() {
        let begin = Instant::now();
        let mut home = Home::default();
        let mut stays = |seconds| {
            home.since = Some(begin);
            home.left(begin + Duration::from_secs(seconds));
            home.pause.as_secs()
        };
        assert_eq!([1, 1, 1, 1, 1, 1].map(&mut stays), [4, 8, 16, 32, 60, 60]);
        assert_eq!(stays(300), 2);
        home.left(begin);
        assert_eq!(home.pause, FIRST_RETURN, "it wasn't there");
    }

    #[tokio::test]
    async fn an_address_of_this_machine_is_known() {
        // 192.0.2.0/24 is for documentation (RFC 5737): nobody's.
        let given = all(&["http://192.0.2.1:1", "http://127.0.0.1:2", "unix:///run/store"]);
        let first = nearest_first(&given).await;
        let nearest = all(&["http://127.0.0.1:2", "unix:///run/store", "http://192.0.2.1:1"]);
        assert_eq!(first, (nearest, 2));
    }
}
