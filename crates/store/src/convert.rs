//! Between the store's words (`types`) and etcd's messages (`pb`). Leaves transport to `client`.

use crate::pb;
use crate::types::{
    Compare, Event, Is, KeyValue, Member, Op, OpReply, Range, RangeReply, Status, Target, Txn,
    TxnReply,
};

/// A revision on the wire. Revisions are positive and far below 2^63.
pub(crate) fn to_wire(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A revision from the wire; a negative one is nonsense and becomes 0.
pub(crate) fn from_wire(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<pb::KeyValue> for KeyValue {
    fn from(kv: pb::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: from_wire(kv.create_revision),
            mod_revision: from_wire(kv.mod_revision),
            version: from_wire(kv.version),
            lease: kv.lease,
        }
    }
}

impl From<Range> for pb::RangeRequest {
    fn from(range: Range) -> Self {
        Self {
            key: range.key,
            range_end: range.range_end,
            limit: to_wire(range.limit),
            revision: to_wire(range.revision),
            serializable: range.serializable,
            count_only: range.count_only,
            ..Self::default()
        }
    }
}

impl From<Compare> for pb::Compare {
    fn from(compare: Compare) -> Self {
        use pb::compare::TargetUnion;
        let result = match compare.is {
            Is::Equal => pb::CompareResult::Equal,
            Is::NotEqual => pb::CompareResult::NotEqual,
            Is::Greater => pb::CompareResult::Greater,
            Is::Less => pb::CompareResult::Less,
        };
        let (target, union) = match compare.target {
            Target::Mod(at) => (pb::CompareTarget::Mod, TargetUnion::ModRevision(to_wire(at))),
            Target::Create(at) => {
                (pb::CompareTarget::Create, TargetUnion::CreateRevision(to_wire(at)))
            }
            Target::Version(n) => (pb::CompareTarget::Version, TargetUnion::Version(to_wire(n))),
            Target::Lease(id) => (pb::CompareTarget::Lease, TargetUnion::Lease(id)),
            Target::Value(value) => (pb::CompareTarget::Value, TargetUnion::Value(value)),
        };
        Self {
            result: result.into(),
            target: target.into(),
            key: compare.key,
            range_end: bytes::Bytes::new(),
            target_union: Some(union),
        }
    }
}

impl From<Op> for pb::RequestOp {
    fn from(op: Op) -> Self {
        use pb::request_op::Request;
        let request = match op {
            Op::Put { key, value, lease } => {
                Request::Put(pb::PutRequest { key, value, lease, ..pb::PutRequest::default() })
            }
            Op::Delete { key, range_end } => {
                Request::DeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false })
            }
            Op::Range(range) => Request::Range(range.into()),
        };
        Self { request: Some(request) }
    }
}

impl From<Txn> for pb::TxnRequest {
    fn from(txn: Txn) -> Self {
        Self {
            compare: txn.compare.into_iter().map(Into::into).collect(),
            success: txn.then.into_iter().map(Into::into).collect(),
            failure: txn.otherwise.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::ResponseOp> for OpReply {
    fn from(op: pb::ResponseOp) -> Self {
        use pb::response_op::Response;
        match op.response {
            Some(Response::Range(range)) => {
                Self::Range { kvs: range.kvs.into_iter().map(Into::into).collect() }
            }
            Some(Response::DeleteRange(delete)) => {
                Self::Delete { deleted: from_wire(delete.deleted) }
            }
            // An empty put response has no field set, but its tag is there; absent means a server
            // that answers less than etcd does.
            Some(Response::Put(_)) | None => Self::Put,
        }
    }
}

/// (cluster id, revision) of a response.
pub(crate) fn header(header: Option<&pb::ResponseHeader>) -> (u64, u64) {
    header.map_or((0, 0), |header| (header.cluster_id, from_wire(header.revision)))
}

impl From<pb::TxnResponse> for TxnReply {
    fn from(reply: pb::TxnResponse) -> Self {
        Self {
            revision: header(reply.header.as_ref()).1,
            succeeded: reply.succeeded,
            responses: reply.responses.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::RangeResponse> for RangeReply {
    fn from(reply: pb::RangeResponse) -> Self {
        let (cluster_id, revision) = header(reply.header.as_ref());
        Self {
            cluster_id,
            revision,
            kvs: reply.kvs.into_iter().map(Into::into).collect(),
            count: from_wire(reply.count),
        }
    }
}

impl From<pb::Event> for Event {
    fn from(event: pb::Event) -> Self {
        let kv = KeyValue::from(event.kv.unwrap_or_default());
        if event.r#type == i32::from(pb::EventType::Delete) {
            Self::Delete { key: kv.key, revision: kv.mod_revision }
        } else {
            Self::Put(kv)
        }
    }
}

impl From<pb::StatusResponse> for Status {
    fn from(reply: pb::StatusResponse) -> Self {
        let header = reply.header.unwrap_or_default();
        Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: from_wire(header.revision),
            version: reply.version,
            leader: reply.leader,
            raft_term: reply.raft_term,
            db_size: from_wire(reply.db_size),
            errors: reply.errors,
        }
    }
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Self {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        }
    }
}
