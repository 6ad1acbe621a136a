//! Members that nobody configured: the store's own list, asked from time to time. What is configured
//! stays, and is tried first: it is known to be reachable from here, which the members' word for
//! themselves is not. Leaves when to change members to the parent.

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
                Ok(members) => self.learn(&members),
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

    fn learn(&self, members: &[Member]) {
        let mut known = self.0.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let all = merged(&known, &self.0.options.endpoints, members);
        if *known != all {
            let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
            tracing::info!(endpoints = shown.join(" "), "the store's members changed");
            *known = all;
        }
    }
}

/// The configured endpoints, in the order in which they are tried, then those of voting members that
/// are not among them.
fn merged(known: &[Endpoint], configured: &[Endpoint], members: &[Member]) -> Vec<Endpoint> {
    let voting = members.iter().filter(|member| !member.is_learner);
    let urls: BTreeSet<&String> = voting.flat_map(|member| &member.client_urls).collect();
    let mut all = known.to_vec();
    all.retain(|endpoint| configured.contains(endpoint));
    for endpoint in urls.into_iter().filter_map(|url| url.parse::<Endpoint>().ok()) {
        if !all.contains(&endpoint) {
            all.push(endpoint);
        }
    }
    all
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
        let configured = ["http://c:1".parse().unwrap(), "http://z:1".parse().unwrap()];
        let known = ["http://z:1", "http://gone:1", "http://c:1"].map(|text| text.parse().unwrap());
        let all: Vec<String> =
            merged(&known, &configured, &members).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["http://z:1", "http://c:1", "http://a:1", "https://b:1"]);
    }
}
