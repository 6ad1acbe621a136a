//! The client's calls, in the store's words. Leaves failover and deadlines to the parent.

use std::time::Duration;

use futures_util::future::join_all;

use super::connection::Connection;
use super::{Client, Endpoint, Repeat};
use crate::convert::to_wire;
use crate::error::Error;
use crate::pb::{self, path};
use crate::types::{Grant, Key, Member, Range, RangeReply, Snapshot, Status, Txn, TxnReply};

impl Client {
    /// Reads. Linearizable unless `range.serializable`; repeated on other members while time is left.
    ///
    /// # Errors
    /// [`Error`], all variants but `LeaseNotFound`.
    pub async fn range(&self, range: Range, within: Duration) -> Result<RangeReply, Error> {
        let request = pb::RangeRequest::from(range);
        let reply: pb::RangeResponse =
            self.call(path::RANGE, request, Repeat::Harmless, within).await?;
        Ok(reply.into())
    }

    /// Reads every key that begins with `prefix`, at one revision.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn prefix(
        &self,
        prefix: impl Into<Key>,
        within: Duration,
    ) -> Result<Snapshot, Error> {
        let RangeReply { cluster_id, revision, kvs, .. } =
            self.range(Range::prefix(prefix), within).await?;
        Ok(Snapshot { cluster_id, revision, kvs })
    }

    /// Runs a transaction. Sent again only when it certainly was not received.
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may have been applied. All others: it wasn't.
    pub async fn txn(&self, txn: Txn, within: Duration) -> Result<TxnReply, Error> {
        let request = pb::TxnRequest::from(txn);
        let reply: pb::TxnResponse = self.call(path::TXN, request, Repeat::Never, within).await?;
        Ok(reply.into())
    }

    /// Grants a lease. The store may grant more seconds than asked for. After an unknown outcome it
    /// is asked again: a lease that nobody uses expires by itself.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn lease_grant(&self, ttl_secs: i64, within: Duration) -> Result<Grant, Error> {
        let request = pb::LeaseGrantRequest { ttl: ttl_secs, id: 0 };
        let reply: pb::LeaseGrantResponse =
            self.call(path::LEASE_GRANT, request, Repeat::Harmless, within).await?;
        Ok(Grant { id: reply.id, ttl: reply.ttl })
    }

    /// Starts a lease's time to live anew: the ttl in seconds, or none when the lease is gone. Its
    /// new life is counted by the store from some moment after this call began.
    ///
    /// # Errors
    /// [`Error`]; a lease that is gone is not one.
    pub async fn lease_keepalive(&self, id: i64, within: Duration) -> Result<Option<i64>, Error> {
        // A stream of one message each way costs what one call costs, and can't outlive its server.
        let request = pb::LeaseKeepAliveRequest { id };
        let reply: Result<pb::LeaseKeepAliveResponse, Error> =
            self.call(path::LEASE_KEEP_ALIVE, request, Repeat::Harmless, within).await;
        match reply {
            Ok(reply) => Ok(Some(reply.ttl).filter(|ttl| *ttl > 0)),
            Err(Error::LeaseNotFound) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The seconds that a lease has left, or none when it is gone. Keeps nothing alive.
    ///
    /// # Errors
    /// [`Error`]; a lease that is gone is not one.
    pub async fn lease_remaining(&self, id: i64, within: Duration) -> Result<Option<i64>, Error> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: false };
        let reply: Result<pb::LeaseTimeToLiveResponse, Error> =
            self.call(path::LEASE_TIME_TO_LIVE, request, Repeat::Harmless, within).await;
        match reply {
            Ok(reply) => Ok(Some(reply.ttl).filter(|ttl| *ttl >= 0)),
            Err(Error::LeaseNotFound) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`] when it is gone already, perhaps by this very call's first attempt.
    pub async fn lease_revoke(&self, id: i64, within: Duration) -> Result<(), Error> {
        let request = pb::LeaseRevokeRequest { id };
        let _: pb::LeaseRevokeResponse =
            self.call(path::LEASE_REVOKE, request, Repeat::Harmless, within).await?;
        Ok(())
    }

    /// Forgets the history before `revision`.
    ///
    /// # Errors
    /// [`Error::Compacted`] when it is forgotten already.
    pub async fn compact(&self, revision: u64, within: Duration) -> Result<(), Error> {
        let request = pb::CompactionRequest { revision: to_wire(revision), physical: false };
        let _: pb::CompactionResponse =
            self.call(path::COMPACT, request, Repeat::Harmless, within).await?;
        Ok(())
    }

    /// What the current member says about itself.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn status(&self, within: Duration) -> Result<Status, Error> {
        let reply: pb::StatusResponse =
            self.call(path::STATUS, pb::StatusRequest {}, Repeat::Harmless, within).await?;
        Ok(reply.into())
    }

    /// What each endpoint says about itself, asked at once over connections of their own. Answers
    /// also of members without a leader and of foreign clusters: this is for people to look at.
    pub async fn status_of_each(&self, limit: Duration) -> Vec<(Endpoint, Result<Status, Error>)> {
        join_all(self.endpoints().into_iter().map(|endpoint| async move {
            let greeting = Connection::open(&endpoint, &self.0.tls, limit).await;
            (endpoint, greeting.and_then(|greeting| greeting.status.map(Into::into)))
        }))
        .await
    }

    /// Whether the store, or one of its members, is out of space or corrupt: etcd's alarms as
    /// (member id, is it about space).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn alarms(&self, within: Duration) -> Result<Vec<(u64, bool)>, Error> {
        let request = pb::AlarmRequest {
            action: pb::AlarmAction::Get.into(),
            member_id: 0,
            alarm: pb::AlarmType::None.into(),
        };
        let reply: pb::AlarmResponse =
            self.call(path::ALARM, request, Repeat::Harmless, within).await?;
        let no_space = i32::from(pb::AlarmType::NoSpace);
        Ok(reply.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm == no_space)).collect())
    }

    /// The members of the store.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn member_list(&self, within: Duration) -> Result<Vec<Member>, Error> {
        let request = pb::MemberListRequest { linearizable: true };
        let reply: pb::MemberListResponse =
            self.call(path::MEMBER_LIST, request, Repeat::Harmless, within).await?;
        Ok(reply.members.into_iter().map(Into::into).collect())
    }
}
