//! The lease calls, and the end of leases. Leaves what a lease is to `state`.

use futures_util::stream::{self, Stream};
use tonic::{Response, Status, Streaming};

use super::service::Service;
use super::state::{Done, Write};
use super::writer::now;
use crate::pb;

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    pub(crate) async fn lease_grant(
        self,
        request: pb::LeaseGrantRequest,
    ) -> Answer<pb::LeaseGrantResponse> {
        let id = match request.id {
            0 => random_lease()?,
            id => id,
        };
        let done = self.queue.write(Write::Grant { id, ttl: request.ttl }).await?;
        let Done::Granted { ttl } = done else { return Err(wrong_answer()) };
        let header = self.header();
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    pub(crate) async fn lease_revoke(
        self,
        request: pb::LeaseRevokeRequest,
    ) -> Answer<pb::LeaseRevokeResponse> {
        let done = self.queue.write(Write::Revoke { id: request.id }).await?;
        let Done::Revoked = done else { return Err(wrong_answer()) };
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header() }))
    }

    /// Needs no journal: a lease's life is counted anew after each start.
    pub(crate) fn keep_alive(&self, id: i64) -> pb::LeaseKeepAliveResponse {
        let mut visible = self.shared.visible();
        // The clock is read under the lock: the expiry check before us can't have used a later one.
        let ttl = visible.state.keep_alive(now(), id).unwrap_or(0);
        let revision = visible.state.revision();
        pb::LeaseKeepAliveResponse { header: self.header_at(revision), id, ttl }
    }

    pub(crate) fn lease_keep_alive(
        self,
        requests: Streaming<pb::LeaseKeepAliveRequest>,
    ) -> impl Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send {
        stream::unfold((self, requests), |(mut service, mut requests)| async move {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        let answer = service.keep_alive(request.id);
                        Some((Ok(answer), (service, requests)))
                    }
                    Ok(None) | Err(_) => None,
                },
                () = service.stopping() => None,
            }
        })
    }

    pub(crate) fn lease_time_to_live(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> pb::LeaseTimeToLiveResponse {
        let visible = self.shared.visible();
        let header = self.header_at(visible.state.revision());
        let id = request.id;
        let Some(lease) = visible.state.leases().get(&id) else {
            return pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() };
        };
        let left = lease.deadline.saturating_sub(now()).as_secs();
        pb::LeaseTimeToLiveResponse {
            header,
            id,
            ttl: i64::try_from(left).unwrap_or(i64::MAX),
            granted_ttl: lease.ttl,
            keys: if request.keys { lease.keys.iter().cloned().collect() } else { Vec::new() },
        }
    }

    pub(crate) fn lease_leases(&self) -> pb::LeaseLeasesResponse {
        let visible = self.shared.visible();
        let header = self.header_at(visible.state.revision());
        let leases = visible.state.leases().keys().map(|id| pb::LeaseStatus { id: *id }).collect();
        pb::LeaseLeasesResponse { header, leases }
    }

    /// Ends the leases whose time is over. When the queue is full they wait for the next look.
    pub(crate) fn expire_leases(&self) {
        if !self.queue.has_room() {
            return;
        }
        let expired = self.shared.visible().state.doom_expired(now());
        for id in expired {
            // Nobody waits for this answer; the deletion shows in the watches.
            if self.queue.try_write(Write::Revoke { id }).is_none() {
                self.shared.visible().state.spare(id);
            } else {
                tracing::debug!(lease = id, "lease expired");
            }
        }
    }
}

fn random_lease() -> Result<i64, Status> {
    let random = getrandom::u64().map_err(|error| Status::internal(error.to_string()))?;
    // Positive, and never 0: that means "no lease".
    Ok(i64::try_from(random >> 1).unwrap_or(1).max(1))
}

pub(crate) fn wrong_answer() -> Status {
    Status::internal("the writer answered another question; this is a defect of pgherd")
}
