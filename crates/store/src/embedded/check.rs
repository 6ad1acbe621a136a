//! Rules that need no state: which requests are legal, whether a condition holds for a key, how the
//! keys of a read are filtered, sorted and cut. Leaves everything that depends on the store to `state`.

use std::cmp::Ordering;

use super::refusal::Refusal;
use crate::pb::{
    self, CompareResult, CompareTarget, KeyValue, RangeRequest, RangeResponse, RequestOp,
    SortOrder, SortTarget, TxnRequest, compare::TargetUnion, request_op::Request,
};
use crate::types::in_range;

/// etcd's default limit.
const MAX_OPS: usize = 128;

/// Whether a transaction is legal, whichever branch is taken.
pub(crate) fn txn(txn: &TxnRequest) -> Result<(), Refusal> {
    if txn.compare.len().max(txn.success.len()).max(txn.failure.len()) > MAX_OPS {
        return Err(Refusal::TooManyOps);
    }
    if txn.compare.iter().any(|condition| condition.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for step in txn.success.iter().chain(&txn.failure) {
        step_alone(step)?;
    }
    one_write_per_key(&txn.success)?;
    one_write_per_key(&txn.failure)
}

fn step_alone(step: &RequestOp) -> Result<(), Refusal> {
    match &step.request {
        Some(Request::Put(put)) => self::put(put),
        Some(Request::Range(range)) => self::range(range),
        Some(Request::DeleteRange(delete)) if delete.key.is_empty() => Err(Refusal::EmptyKey),
        Some(Request::DeleteRange(_)) => Ok(()),
        Some(Request::Txn(_)) => Err(Refusal::Unsupported("a transaction inside a transaction")),
        None => Err(Refusal::Unsupported("a step that is none we know")),
    }
}

fn put(put: &pb::PutRequest) -> Result<(), Refusal> {
    if put.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// Whether a read is legal.
pub(crate) fn range(range: &RangeRequest) -> Result<(), Refusal> {
    if range.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if SortOrder::try_from(range.sort_order).is_err()
        || SortTarget::try_from(range.sort_target).is_err()
    {
        return Err(Refusal::InvalidSort);
    }
    Ok(())
}

/// etcd refuses to put a key twice, and to put and delete it, in one branch, in any order. Deleting
/// twice is allowed.
fn one_write_per_key(steps: &[RequestOp]) -> Result<(), Refusal> {
    let mut puts: Vec<&pb::PutRequest> = Vec::new();
    let mut deletes = Vec::new();
    for step in steps {
        match &step.request {
            Some(Request::Put(put)) => puts.push(put),
            Some(Request::DeleteRange(delete)) => deletes.push(delete),
            Some(Request::Range(_) | Request::Txn(_)) | None => {}
        }
    }
    let twice = puts
        .iter()
        .enumerate()
        .any(|(i, put)| puts.iter().take(i).any(|earlier| earlier.key == put.key));
    let also_deleted = puts
        .iter()
        .any(|put| deletes.iter().any(|delete| in_range(&put.key, &delete.key, &delete.range_end)));
    if twice || also_deleted { Err(Refusal::DuplicateKey) } else { Ok(()) }
}

/// Whether a transaction only reads, whichever branch is taken.
pub(crate) fn only_reads(txn: &TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .all(|step| matches!(step.request, Some(Request::Range(_))))
}

/// A condition on a key that doesn't exist: all its numbers are 0, and its value is like no other.
pub(crate) fn condition_of_absent(condition: &pb::Compare) -> bool {
    condition.target != i32::from(CompareTarget::Value)
        && self::condition(condition, &KeyValue::default())
}

/// Whether a condition holds for a key. A target and a union that don't match compare with 0, as
/// etcd does.
pub(crate) fn condition(condition: &pb::Compare, kv: &KeyValue) -> bool {
    let number = |pick: fn(&TargetUnion) -> Option<i64>| {
        condition.target_union.as_ref().and_then(pick).unwrap_or(0)
    };
    let Ok(target) = CompareTarget::try_from(condition.target) else { return false };
    let order = match target {
        CompareTarget::Version => kv.version.cmp(&number(version)),
        CompareTarget::Create => kv.create_revision.cmp(&number(create_revision)),
        CompareTarget::Mod => kv.mod_revision.cmp(&number(mod_revision)),
        CompareTarget::Lease => kv.lease.cmp(&number(lease)),
        CompareTarget::Value => match &condition.target_union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            Some(
                TargetUnion::Version(_)
                | TargetUnion::CreateRevision(_)
                | TargetUnion::ModRevision(_)
                | TargetUnion::Lease(_),
            )
            | None => kv.value.as_ref().cmp(&[]),
        },
    };
    match CompareResult::try_from(condition.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Err(_) => false,
    }
}

fn version(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::Version(number) = union { Some(*number) } else { None }
}
fn create_revision(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::CreateRevision(number) = union { Some(*number) } else { None }
}
fn mod_revision(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::ModRevision(number) = union { Some(*number) } else { None }
}
fn lease(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::Lease(number) = union { Some(*number) } else { None }
}

/// Filters, sorts and cuts the keys of a read. `count` is before all of that, as etcd counts.
pub(crate) fn present(request: &RangeRequest, mut kvs: Vec<KeyValue>) -> RangeResponse {
    let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
    if request.count_only {
        return RangeResponse { count, ..RangeResponse::default() };
    }
    kvs.retain(|kv| {
        let least = |bound: i64, number: i64| bound == 0 || number >= bound;
        let most = |bound: i64, number: i64| bound == 0 || number <= bound;
        least(request.min_mod_revision, kv.mod_revision)
            && most(request.max_mod_revision, kv.mod_revision)
            && least(request.min_create_revision, kv.create_revision)
            && most(request.max_create_revision, kv.create_revision)
    });
    sort(request, &mut kvs);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
        }
    }
    RangeResponse { header: None, kvs, more, count }
}

fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let descending = match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
        SortOrder::None if target == SortTarget::Key => return,
        // A target without an order means ascending.
        SortOrder::None | SortOrder::Ascend => false,
        SortOrder::Descend => true,
    };
    kvs.sort_by(|a, b| {
        let order = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if descending { order.reverse() } else { order }
    });
}
