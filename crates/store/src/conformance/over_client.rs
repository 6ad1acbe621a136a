//! The suite's view of a real store, through the client: what is checked is client and server
//! together. Leaves making the store to the tests.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Refused, Subject};
use crate::client::Client;
use crate::error::{Error, Refusal};
use crate::types::{Event, Grant, Key, Range, RangeReply, Txn, TxnReply};

const WITHIN: Duration = Duration::from_secs(10);
/// A watch that says nothing for so long has told everything.
const QUIET: Duration = Duration::from_millis(250);

/// A subject behind a client.
#[derive(Debug)]
pub struct OverClient(pub Client);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::LeaseNotFound => Self::LeaseNotFound,
            Error::Compacted => Self::Compacted,
            Error::Rejected { refusal: Refusal::Invalid, .. } => Self::Invalid,
            Error::Rejected { .. }
            | Error::NotSent { .. }
            | Error::Unknown { .. }
            | Error::ForeignCluster { .. } => Self::Other(error.to_string()),
        }
    }
}

impl Subject for OverClient {
    async fn range(&mut self, range: Range) -> Result<RangeReply, Refused> {
        Ok(self.0.range(range, WITHIN).await?)
    }

    async fn txn(&mut self, txn: Txn) -> Result<TxnReply, Refused> {
        Ok(self.0.txn(txn, WITHIN).await?)
    }

    async fn lease_grant(&mut self, ttl_secs: i64) -> Result<Grant, Refused> {
        Ok(self.0.lease_grant(ttl_secs, WITHIN).await?)
    }

    async fn lease_keepalive(&mut self, id: i64) -> Result<Option<i64>, Refused> {
        Ok(self.0.lease_keepalive(id, WITHIN).await?)
    }

    async fn lease_revoke(&mut self, id: i64) -> Result<(), Refused> {
        Ok(self.0.lease_revoke(id, WITHIN).await?)
    }

    async fn events_since(&mut self, prefix: Key, start: u64) -> Result<Vec<Event>, Refused> {
        let mut watch = self.0.open_watch(&prefix, start).await?;
        let mut events = Vec::new();
        while let Ok(response) = timeout(QUIET, watch.next()).await {
            let response = response?;
            if response.canceled {
                return Err(watch.refused(&response).into());
            }
            events.extend(response.events.into_iter().map(Event::from));
        }
        Ok(events)
    }

    async fn compact(&mut self, revision: u64) -> Result<(), Refused> {
        Ok(self.0.compact(revision, WITHIN).await?)
    }

    async fn advance(&mut self, by: Duration) {
        sleep(by).await;
    }
}
