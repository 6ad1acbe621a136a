//! gRPC dispatch by path, and the calls that need one look at the state or one write. Leaves leases
//! and watches to their files, sockets to `serve`.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use prost::Message;
use tokio::sync::watch as latest;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::check;
use super::lease::wrong_answer;
use super::refusal::Refusal;
use super::state::{Done, Write};
use super::writer::{Queue, Shared};
use crate::pb::{self, path, request_op, response_op};

/// etcd takes requests up to 1.5 MiB; a little more than that is decoded, so that it can be refused
/// in etcd's words.
const MAX_DECODED: usize = 2 << 20;
const MAX_REQUEST: usize = 3 << 19;
/// What we claim to be: the API is that of etcd 3.4 and later.
pub(crate) const VERSION: &str = concat!("3.4.0+pgherd.", env!("CARGO_PKG_VERSION"));

/// What a connection needs to answer.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Queue,
    /// Becomes true when the server stops: then streams end.
    pub(crate) stop: latest::Receiver<bool>,
    /// Where we listen, for the member list.
    pub(crate) client_urls: Arc<[String]>,
}

type HttpRequest = http::Request<Incoming>;
type HttpResponse = http::Response<Body>;
type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Answers one HTTP/2 request.
    pub(crate) async fn call(self, request: HttpRequest) -> Result<HttpResponse, Infallible> {
        let response = match request.uri().path() {
            path::RANGE => unary(request, self, |s, q| async move { s.range(&q) }).await,
            path::PUT => unary(request, self, Self::put).await,
            path::DELETE_RANGE => unary(request, self, Self::delete_range).await,
            path::TXN => unary(request, self, Self::txn).await,
            path::COMPACT => unary(request, self, |s, q| async move { s.compact(&q) }).await,
            path::LEASE_GRANT => unary(request, self, Self::lease_grant).await,
            path::LEASE_REVOKE => unary(request, self, Self::lease_revoke).await,
            path::LEASE_TIME_TO_LIVE => {
                unary(
                    request,
                    self,
                    |s, q| async move { Ok(Response::new(s.lease_time_to_live(&q))) },
                )
                .await
            }
            path::LEASE_LEASES => {
                unary(request, self, |s, _: pb::LeaseLeasesRequest| async move {
                    Ok(Response::new(s.lease_leases()))
                })
                .await
            }
            path::LEASE_KEEP_ALIVE => self.serve_keep_alive(request).await,
            path::WATCH => self.serve_watch(request).await,
            path::STATUS => {
                unary(request, self, |s, _: pb::StatusRequest| async move {
                    Ok(Response::new(s.status()))
                })
                .await
            }
            path::MEMBER_LIST => {
                unary(request, self, |s, _: pb::MemberListRequest| async move {
                    Ok(Response::new(s.member_list()))
                })
                .await
            }
            path::ALARM => unary(request, self, |s, q| async move { s.alarm(&q) }).await,
            path::AUTHENTICATE => {
                unary(request, self, |_, _: pb::AuthenticateRequest| async move {
                    let why = "etcdserver: authentication is not enabled";
                    Err::<Response<pb::AuthenticateResponse>, _>(Status::failed_precondition(why))
                })
                .await
            }
            other => {
                let why = format!("the embedded store does not support {other}; use etcd for that");
                Status::unimplemented(why).into_http()
            }
        };
        Ok(response)
    }

    async fn serve_keep_alive(self, request: HttpRequest) -> HttpResponse {
        let codec = ProstCodec::<pb::LeaseKeepAliveResponse, pb::LeaseKeepAliveRequest>::default();
        let service =
            service_fn(|request: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>| {
                let service = self.clone();
                async move { Ok(Response::new(service.lease_keep_alive(request.into_inner()))) }
            });
        Grpc::new(codec).streaming(service, request).await
    }

    async fn serve_watch(self, request: HttpRequest) -> HttpResponse {
        let codec = ProstCodec::<pb::WatchResponse, pb::WatchRequest>::default();
        let service = service_fn(|request: Request<tonic::Streaming<pb::WatchRequest>>| {
            let service = self.clone();
            async move { Ok(Response::new(service.watch(request.into_inner()))) }
        });
        Grpc::new(codec).streaming(service, request).await
    }

    /// Ends when the server stops.
    pub(crate) async fn stopping(&mut self) {
        // An error means that the server is gone altogether.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    pub(crate) fn header(&self) -> Option<pb::ResponseHeader> {
        let revision = self.shared.visible().state.revision();
        self.header_at(revision)
    }

    pub(crate) fn header_at(&self, revision: i64) -> Option<pb::ResponseHeader> {
        let identity = self.shared.identity;
        Some(pb::ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            revision,
            raft_term: identity.starts,
        })
    }

    // ---- KV ----

    fn range(&self, request: &pb::RangeRequest) -> Answer<pb::RangeResponse> {
        check::range(request)?;
        let visible = self.shared.visible();
        let current = visible.state.revision();
        let mut response = if request.revision > 0 && request.revision != current {
            let (key, end) = (&request.key, &request.range_end);
            let kvs = visible.history.at(request.revision, &visible.state, key, end)?;
            check::present(request, kvs)
        } else {
            visible.state.range(request)
        };
        response.header = self.header_at(current);
        Ok(Response::new(response))
    }

    async fn write_txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        if txn.encoded_len() > MAX_REQUEST {
            return Err(Refusal::TooLarge.into());
        }
        let mut response = if check::only_reads(&txn) {
            self.shared.visible().state.read_txn(&txn)?
        } else {
            match self.queue.write(Write::Txn(txn)).await? {
                Done::Txn(response) => response,
                Done::Granted { .. } | Done::Revoked => return Err(wrong_answer()),
            }
        };
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        response.header = self.header_at(revision);
        Ok(response)
    }

    async fn txn(self, request: pb::TxnRequest) -> Answer<pb::TxnResponse> {
        Ok(Response::new(self.write_txn(request).await?))
    }

    async fn put(self, request: pb::PutRequest) -> Answer<pb::PutResponse> {
        let (header, response) = self.single(request_op::Request::Put(request)).await?;
        let Some(response_op::Response::Put(put)) = response else { return Err(wrong_answer()) };
        Ok(Response::new(pb::PutResponse { header, ..put }))
    }

    async fn delete_range(
        self,
        request: pb::DeleteRangeRequest,
    ) -> Answer<pb::DeleteRangeResponse> {
        let (header, response) = self.single(request_op::Request::DeleteRange(request)).await?;
        let Some(response_op::Response::DeleteRange(delete)) = response else {
            return Err(wrong_answer());
        };
        Ok(Response::new(pb::DeleteRangeResponse { header, ..delete }))
    }

    /// A put or a delete alone is a transaction of one step.
    async fn single(
        &self,
        request: request_op::Request,
    ) -> Result<(Option<pb::ResponseHeader>, Option<response_op::Response>), Status> {
        let success = vec![pb::RequestOp { request: Some(request) }];
        let txn = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        let mut reply = self.write_txn(txn).await?;
        Ok((reply.header, reply.responses.pop().and_then(|op| op.response)))
    }

    fn compact(&self, request: &pb::CompactionRequest) -> Answer<pb::CompactionResponse> {
        // Not journalled: each start forgets the past anyway.
        let revision = {
            let mut visible = self.shared.visible();
            let current = visible.state.revision();
            visible.history.compact(request.revision, current)?;
            current
        };
        Ok(Response::new(pb::CompactionResponse { header: self.header_at(revision) }))
    }

    // ---- Cluster, Maintenance ----

    fn status(&self) -> pb::StatusResponse {
        let identity = self.shared.identity;
        let visible = self.shared.visible();
        let revision = visible.state.revision();
        let bytes = i64::try_from(visible.journal_bytes).unwrap_or(i64::MAX);
        let index = crate::convert::from_wire(revision);
        pb::StatusResponse {
            header: self.header_at(revision),
            version: VERSION.to_owned(),
            db_size: bytes,
            leader: identity.member_id,
            raft_index: index,
            raft_term: identity.starts,
            raft_applied_index: index,
            errors: Vec::new(),
            db_size_in_use: bytes,
            is_learner: false,
        }
    }

    fn member_list(&self) -> pb::MemberListResponse {
        let member = pb::Member {
            id: self.shared.identity.member_id,
            name: "pgherd".to_owned(),
            peer_urls: Vec::new(),
            client_urls: self.client_urls.to_vec(),
            is_learner: false,
        };
        pb::MemberListResponse { header: self.header(), members: vec![member] }
    }

    fn alarm(&self, request: &pb::AlarmRequest) -> Answer<pb::AlarmResponse> {
        if request.action != i32::from(pb::AlarmAction::Get) {
            return Err(Refusal::Unsupported("setting alarms").into());
        }
        let header = self.header();
        Ok(Response::new(pb::AlarmResponse { header, alarms: Vec::new() }))
    }
}

/// Decodes one message, asks `answer`, encodes its answer.
async fn unary<Q, R, F, Fut>(request: HttpRequest, service: Service, answer: F) -> HttpResponse
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    F: Fn(Service, Q) -> Fut,
    Fut: Future<Output = Answer<R>> + Send,
{
    let codec = ProstCodec::<R, Q>::default();
    let call = service_fn(|request: Request<Q>| answer(service.clone(), request.into_inner()));
    serve_unary(Grpc::new(codec).max_decoding_message_size(MAX_DECODED), call, request).await
}

async fn serve_unary<Q, R, S>(
    mut grpc: Grpc<ProstCodec<R, Q>>,
    call: S,
    request: HttpRequest,
) -> HttpResponse
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    S: UnaryService<Q, Response = R>,
{
    grpc.unary(call, request).await
}
