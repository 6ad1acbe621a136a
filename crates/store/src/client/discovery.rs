//! Members that nobody configured: the store's own list, asked from time to time. What is configured,
//! or named by DNS (`srv`), stays, and is tried first: it is known to be reachable from here, which
//! the members' word for themselves is not. Leaves when to change members to the parent.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Client, Endpoint};
use crate::types::Member;

/// How often the list is asked for. Patroni does it each 10 ttl, which are 50 s to 5 min.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);
/// How soon again when that failed.
const AGAIN: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(2);

impl Client {
    /// Keeps the members known, for as long as it is polled. Several at once do it once.
    pub(crate) async fn keep_discovering(&self) -> Infallible {
        let Some(every) = self.0.options.discovery else { return std::future::pending().await };
        loop {
            let due = *self.0.next_discovery.lock().unwrap_or_else(PoisonError::into_inner);
            sleep_until(due).await;
            self.set_next_discovery(every);
            match self.member_list(LIMIT).await {
                Ok(members) => self.know(|known| known.told = told(&members)),
                Err(error) => {
                    tracing::debug!(%error, "the store's members can't be listed");
                    self.set_next_discovery(AGAIN.min(every));
                }
            }
        }
    }

    fn set_next_discovery(&self, after: Duration) {
        let mut next = self.0.next_discovery.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Instant::now() + after;
    }

    /// Changes what is known of members.
    pub(super) fn know(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.all();
        change(&mut known);
        let now = known.all();
        if before != now {
            let shown: Vec<String> = now.iter().map(ToString::to_string).collect();
            tracing::info!(endpoints = shown.join(" "), "the store's members changed");
        }
    }
}

/// The members that are known.
pub(super) struct Known {
    /// Those that are configured, or that DNS named.
    pub(super) given: Vec<Endpoint>,
    /// Those that the store told of.
    told: Vec<Endpoint>,
}

impl Known {
    pub(super) fn new(given: Vec<Endpoint>) -> Self {
        Self { given, told: Vec::new() }
    }

    /// Each once, in the order in which they are tried.
    pub(super) fn all(&self) -> Vec<Endpoint> {
        let more = self.told.iter().filter(|endpoint| !self.given.contains(endpoint));
        self.given.iter().chain(more).cloned().collect()
    }
}

/// Where voting members say that they are.
fn told(members: &[Member]) -> Vec<Endpoint> {
    let voting = members.iter().filter(|member| !member.is_learner);
    let urls: BTreeSet<&String> = voting.flat_map(|member| &member.client_urls).collect();
    let mut each = Vec::new();
    for endpoint in urls.into_iter().filter_map(|url| url.parse::<Endpoint>().ok()) {
        if !each.contains(&endpoint) {
            each.push(endpoint);
        }
    }
    each
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use super::*;

    #[test]
    fn the_configured_come_first_and_learners_and_nonsense_not_at_all() {
        let member = |urls: &[&str], is_learner| Member {
            id: 1,
            name: String::new(),
            peer_urls: Vec::new(),
            client_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner,
        };
        let members = [
            member(&["http://c:1", "http://a:1"], false),
            member(&["https://b:1", "nonsense"], false),
            member(&["http://d:1"], true),
            member(&[], false),
        ];
        let given = vec!["http://z:1".parse().unwrap(), "http://c:1".parse().unwrap()];
        let known = Known { given, told: told(&members) };
        let all: Vec<String> = known.all().iter().map(ToString::to_string).collect();
        assert_eq!(all, ["http://z:1", "http://c:1", "http://a:1", "https://b:1"]);
    }
}
