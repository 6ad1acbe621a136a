//! Which member is tried first: one on this machine, for it shares the machine's fate anyway, and the others by
//! chance, so that not everybody hangs on the same one when its machine freezes. Leaves connecting and
//! failover to the parent.

use std::hash::{BuildHasher, RandomState};
use std::net::UdpSocket;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Endpoint;

/// A name that isn't found in this time is another machine's.
const LOOKUP_LIMIT: Duration = Duration::from_millis(200);

/// In which order members are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// As they were given.
    #[default]
    Given,
    /// Those on this machine, then the others in turn, from any of them on.
    NearestFirst,
}

/// The endpoints in the order in which they are tried.
pub(super) async fn nearest_first(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let here = join_all(endpoints.iter().map(is_here)).await;
    let chance = usize::try_from(RandomState::new().hash_one(0) % 1_000_003).unwrap_or(0);
    arranged(endpoints, &here, chance)
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

    #[tokio::test]
    async fn an_address_of_this_machine_is_known() {
        // 192.0.2.0/24 is for documentation (RFC 5737): nobody's.
        let given = all(&["http://192.0.2.1:1", "http://127.0.0.1:2", "unix:///run/store"]);
        let first = nearest_first(&given).await;
        assert_eq!(first, all(&["http://127.0.0.1:2", "unix:///run/store", "http://192.0.2.1:1"]));
    }
}
