//! The store's lane: one task per request, so that a renewal never waits behind anything; and the
//! core's transactions in the store's words.

use std::collections::BTreeMap;
use std::time::Duration;

use pgherd_api::{Change, Encoder, Keys, MemberInfo, MemberSelf, Record, StatusSlots};
use pgherd_config::{StoreSettings, StoreTls};
use pgherd_core::cluster::{Compare, Key, Op, Purpose, Status, Txn, Value};
use pgherd_core::{LeaseId, NodeName, RequestId, Revision, StoreOutcome, StoreRequest};
use pgherd_store::{
    Client, Credentials, DISCOVERY_INTERVAL, Error, Event, InvalidEndpoint, KeyValue, Options,
    Order, Refusal, Snapshot, Srv, TlsFiles,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;

/// So many requests may be under way. The core sends a handful; were all these stuck, each would
/// end by its own deadline, and until then renewals and beats keep the places kept for them.
const IN_FLIGHT: usize = 32;
const KEPT_FOR_LIFE: usize = 8;

/// What a client of that store is made of.
///
/// # Errors
/// An endpoint that is none.
pub fn options(settings: &StoreSettings) -> Result<Options, InvalidEndpoint> {
    let endpoints = settings.endpoints.iter().map(|text| text.parse());
    let endpoints = endpoints.collect::<Result<_, _>>()?;
    let StoreTls { cacert, cert, key } = settings.tls.clone();
    Ok(Options {
        credentials: settings.login.as_ref().map(|login| Credentials {
            user: login.username.clone(),
            password: login.password.reveal().to_owned(),
        }),
        tls: TlsFiles { ca: cacert, cert, key },
        discovery: settings.discover.then_some(DISCOVERY_INTERVAL),
        order: Order::NearestFirst,
        srv: settings.srv.as_ref().map(|srv| Srv {
            domain: srv.domain.clone(),
            suffix: srv.suffix.clone(),
            nameservers: Vec::new(),
        }),
        ..Options::new(endpoints)
    })
}

/// Asks the store for the event loop.
pub(crate) struct StoreLane {
    client: Client,
    keys: Keys,
    encoder: Encoder,
    /// `status` says something else of slots than the store has.
    status_stale: bool,
    requests: JoinSet<(RequestId, StoreReply)>,
    /// What was said last of an outage.
    trouble: Option<Trouble>,
}

/// Why requests fail, and when that was said: the others of an outage say the same.
struct Trouble {
    error: Error,
    said: Instant,
}

/// Another kind of trouble is news, unless kinds take turns.
const NEWS: Duration = Duration::from_secs(10);
/// The same trouble is worth another line.
const STILL: Duration = Duration::from_secs(60);

impl Trouble {
    fn covers(&self, error: &Error) -> bool {
        self.said.elapsed() < if self.error.is_like(error) { STILL } else { NEWS }
    }
}

/// What came of a request.
pub(crate) enum StoreReply {
    /// For the core.
    Outcome(StoreOutcome),
    /// For the core, and why.
    Failed(StoreOutcome, Error),
    /// A read's answer.
    Read(Snapshot),
}

impl StoreLane {
    pub(crate) fn new(client: Client, keys: Keys, encoder: Encoder) -> Self {
        Self { client, keys, encoder, status_stale: false, requests: JoinSet::new(), trouble: None }
    }

    /// What the member key says beside the core's record, to be changed.
    pub(crate) fn member(&mut self) -> &mut MemberSelf {
        &mut self.encoder.member
    }

    /// Where the members are, as the store has it now.
    pub(crate) fn members(&mut self, members: &BTreeMap<NodeName, MemberInfo>) {
        let url = |info: &MemberInfo| info.api_url.clone().unwrap_or_default();
        self.encoder.api_urls = members.iter().map(|(n, info)| (n.clone(), url(info))).collect();
    }

    /// What `status` says of slots from now on; the next beat takes it along.
    pub(crate) fn say_slots(&mut self, slots: StatusSlots) {
        self.status_stale |= self.encoder.status != slots;
        self.encoder.status = slots;
    }

    /// The core writes `status` when the position moved; slots move without it.
    fn with_status(&mut self, mut txn: Txn) -> Txn {
        let said = |op: &Op| matches!(op, Op::Put(Key::Status, ..));
        let beat = txn.then.iter().find_map(|op| match op {
            Op::Put(Key::Beat, Value::Beat(beat), _) if beat.ended.is_none() => Some(beat.lsn),
            Op::Put(..) | Op::Delete(_) => None,
        });
        if let Some(optime) = beat.filter(|_| txn.purpose == Purpose::Beat)
            && std::mem::take(&mut self.status_stale)
            && !txn.then.iter().any(said)
        {
            txn.then.push(Op::Put(Key::Status, Value::Status(Status { optime }), None));
        }
        txn
    }

    /// Sends a request; the answer comes out of [`Self::next`].
    pub(crate) fn send(&mut self, id: RequestId, request: StoreRequest, within: Duration) {
        let vital = matches!(request, StoreRequest::KeepAlive(_))
            || request.purpose() == Some(Purpose::Beat);
        let bound = if vital { IN_FLIGHT } else { IN_FLIGHT - KEPT_FOR_LIFE };
        if self.requests.len() >= bound {
            tracing::warn!(in_flight = self.requests.len(), "too many requests to the store wait");
            self.requests.spawn(async move { (id, StoreReply::Outcome(StoreOutcome::NotSent)) });
            return;
        }
        let client = self.client.clone();
        match request {
            StoreRequest::GrantLease { ttl } => {
                let seconds = i64::try_from(ttl.0.div_ceil(1_000_000)).unwrap_or(i64::MAX);
                self.requests.spawn(async move { (id, grant(client, seconds, within).await) });
            }
            StoreRequest::KeepAlive(lease) => {
                self.requests.spawn(async move { (id, keep_alive(client, lease, within).await) });
            }
            StoreRequest::Txn(txn) => {
                let purpose = txn.purpose;
                let txn = dated(self.with_status(txn));
                match to_store(&self.keys, &self.encoder, &txn) {
                    Ok(txn) => {
                        self.requests
                            .spawn(async move { (id, transact(client, txn, within).await) });
                    }
                    Err(error) => {
                        tracing::error!(%error, ?purpose, "a value can't be written");
                        let reply = StoreReply::Outcome(StoreOutcome::NotSent);
                        self.requests.spawn(async move { (id, reply) });
                    }
                }
            }
            StoreRequest::Read => {
                let prefix = self.keys.prefix().to_owned();
                self.requests.spawn(async move { (id, read(client, prefix, within).await) });
            }
        }
    }

    /// The next answer; never, while nothing is under way. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (RequestId, StoreReply) {
        loop {
            match self.requests.join_next().await {
                Some(Ok((id, reply))) => {
                    self.note(&reply);
                    return (id, reply);
                }
                // Aborted by nobody, so it panicked; the core forgets the request in time.
                Some(Err(error)) => tracing::error!(%error, "a request to the store broke"),
                None => std::future::pending().await,
            }
        }
    }
}

impl StoreLane {
    /// A store that refuses writes, for want of space or of rights, goes on renewing leases and
    /// answering reads: only a write ends that.
    fn ends_trouble(&self, outcome: &StoreOutcome) -> bool {
        let wrote = match outcome {
            StoreOutcome::Applied(_) | StoreOutcome::Granted(_) => true,
            StoreOutcome::Refused | StoreOutcome::Alive | StoreOutcome::LeaseGone => false,
            StoreOutcome::NotSent | StoreOutcome::Unknown => return false,
        };
        self.trouble
            .as_ref()
            .is_some_and(|trouble| wrote || !matches!(trouble.error, Error::Rejected { .. }))
    }

    fn note(&mut self, reply: &StoreReply) {
        match reply {
            StoreReply::Failed(_, Error::LeaseNotFound) => {}
            StoreReply::Failed(_, error)
                if self.trouble.as_ref().is_some_and(|t| t.covers(error)) =>
            {
                tracing::debug!(%error, "the store still can't be used");
            }
            StoreReply::Failed(_, error) => {
                self.trouble = Some(Trouble { error: error.clone(), said: Instant::now() });
                tracing::warn!(%error, "the store can't be used");
            }
            StoreReply::Outcome(outcome) if self.ends_trouble(outcome) => {
                self.trouble = None;
                tracing::info!("the store answers again");
            }
            StoreReply::Outcome(_) | StoreReply::Read(_) => {}
        }
    }
}

async fn grant(client: Client, seconds: i64, within: Duration) -> StoreReply {
    match client.lease_grant(seconds, within).await {
        Ok(grant) => StoreReply::Outcome(StoreOutcome::Granted(LeaseId(grant.id))),
        Err(error) => StoreReply::Failed(failed(&error), error),
    }
}

async fn keep_alive(client: Client, lease: LeaseId, within: Duration) -> StoreReply {
    match client.lease_keepalive(lease.0, within).await {
        Ok(Some(_)) => StoreReply::Outcome(StoreOutcome::Alive),
        Ok(None) => StoreReply::Outcome(StoreOutcome::LeaseGone),
        Err(error) => StoreReply::Failed(failed(&error), error),
    }
}

async fn transact(client: Client, txn: pgherd_store::Txn, within: Duration) -> StoreReply {
    match client.txn(txn, within).await {
        Ok(reply) if reply.succeeded => {
            StoreReply::Outcome(StoreOutcome::Applied(Revision(reply.revision)))
        }
        Ok(_) => StoreReply::Outcome(StoreOutcome::Refused),
        Err(error) => StoreReply::Failed(failed(&error), error),
    }
}

async fn read(client: Client, prefix: String, within: Duration) -> StoreReply {
    match client.prefix(prefix, within).await {
        Ok(snapshot) => StoreReply::Read(snapshot),
        Err(error) => StoreReply::Failed(failed(&error), error),
    }
}

/// What a failure means for the core. Out of space is special: etcd can have applied the very write
/// that crossed its quota and still refuse it (reliability, B11).
fn failed(error: &Error) -> StoreOutcome {
    match error {
        Error::LeaseNotFound => StoreOutcome::LeaseGone,
        Error::Unknown { .. } | Error::Rejected { refusal: Refusal::NoSpace, .. } => {
            StoreOutcome::Unknown
        }
        Error::NotSent { .. }
        | Error::Rejected { .. }
        | Error::Compacted
        | Error::ForeignCluster { .. } => StoreOutcome::NotSent,
    }
}

/// The core knows no wall clock: a line of `history` that this node adds gets its moment here, and
/// keeps it, for the core takes lines that are known as they are.
fn dated(mut txn: Txn) -> Txn {
    for op in &mut txn.then {
        if let Op::Put(_, Value::History(lines), _) = op {
            let new = lines.iter_mut().filter(|line| line.at == 0 && line.leader.is_some());
            new.for_each(|line| line.at = clock::unix_millis() / 1_000);
        }
    }
    txn
}

/// A transaction of the core in the store's words.
fn to_store(
    keys: &Keys,
    encoder: &Encoder,
    txn: &Txn,
) -> Result<pgherd_store::Txn, serde_json::Error> {
    let compare = txn.compare.iter().map(|compare| match compare {
        // An absent key has modification revision 0 in the store's eyes too.
        Compare::Modified(key, Revision(at)) => {
            pgherd_store::Compare::mod_revision(keys.path(key), *at)
        }
        Compare::Lease(key, LeaseId(lease)) => pgherd_store::Compare::lease(keys.path(key), *lease),
    });
    let then = txn.then.iter().map(|op| {
        Ok(match op {
            Op::Put(key, value, lease) => pgherd_store::Op::put_leased(
                keys.path(key),
                encoder.encode(value)?,
                lease.map_or(0, |lease| lease.0),
            ),
            Op::Delete(key) => pgherd_store::Op::delete(keys.path(key)),
        })
    });
    let then = then.collect::<Result<_, serde_json::Error>>()?;
    Ok(pgherd_store::Txn { compare: compare.collect(), then, otherwise: Vec::new() })
}

/// A key of the store as `api` reads it.
pub(crate) fn record(kv: KeyValue) -> Record {
    Record {
        key: kv.key.into(),
        value: kv.value.into(),
        created: kv.create_revision,
        modified: kv.mod_revision,
        lease: kv.lease,
    }
}

/// A change of the store as `api` reads it.
pub(crate) fn change(event: Event) -> Change {
    match event {
        Event::Put(kv) => Change::Put(record(kv)),
        Event::Delete { key, revision } => Change::Delete { key: key.into(), revision },
    }
}

#[cfg(test)]
mod tests;
