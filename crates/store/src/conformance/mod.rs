//! What every store has to do, as named checks that run on any of them: etcd, the embedded server,
//! and models in other crates' tests. Leaves how a subject is made to the tests.
//!
//! A synchronous model implements [`Subject`] with async functions that never wait, and runs the
//! suite under any executor. Each check uses keys of its own, so one subject serves all of them; it
//! must have no other writer meanwhile, because the checks count revisions.

mod kv;
mod lease;
mod over_client;
mod txn;
mod watch;

use std::fmt;
use std::time::Duration;

pub use over_client::OverClient;

use crate::types::{Compare, Event, Grant, Key, KeyValue, Op, Range, RangeReply, Txn, TxnReply};

/// How a subject refuses. Whatever it says in these ways must have changed nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No such lease.
    LeaseNotFound,
    /// The revision is forgotten.
    Compacted,
    /// The request is not legal.
    Invalid,
    /// Anything else, also broken connections: fails the check.
    Other(String),
}

/// What a subject may lack. Nobody of ours needs these; a model may leave them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// Reading as of a past revision.
    PastReads,
    /// Counting and limiting in reads.
    CountAndLimit,
}

/// A store under test.
// Without `Send`: a model needs none, and the suite runs on the caller's own task.
#[expect(
    async_fn_in_trait,
    reason = "a model needs no `Send`: the suite runs on the caller's task"
)]
pub trait Subject {
    /// Reads, linearizable.
    async fn range(&mut self, range: Range) -> Result<RangeReply, Refused>;
    /// Runs a transaction.
    async fn txn(&mut self, txn: Txn) -> Result<TxnReply, Refused>;
    /// Grants a lease of at least so many seconds.
    async fn lease_grant(&mut self, ttl_secs: i64) -> Result<Grant, Refused>;
    /// Starts a lease's life anew: its ttl, or none when it is gone.
    async fn lease_keepalive(&mut self, id: i64) -> Result<Option<i64>, Refused>;
    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&mut self, id: i64) -> Result<(), Refused>;
    /// All changes of keys with this prefix from `start` up to now, as a watch would tell them.
    async fn events_since(&mut self, prefix: Key, start: u64) -> Result<Vec<Event>, Refused>;
    /// Forgets the history before `revision`.
    async fn compact(&mut self, revision: u64) -> Result<(), Refused>;
    /// Lets time pass: a real store's subject sleeps, a model moves its clock.
    async fn advance(&mut self, by: Duration);
    /// Whether the subject has a feature that it may lack.
    fn has(&self, _feature: Feature) -> bool {
        true
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The checks that held.
    pub passed: Vec<&'static str>,
    /// The checks that didn't, and why.
    pub failed: Vec<(&'static str, String)>,
}

impl Report {
    /// Ok when every check held; else this report, which prints what failed.
    ///
    /// # Errors
    /// The report itself.
    pub fn verdict(self) -> Result<usize, Self> {
        if self.failed.is_empty() { Ok(self.passed.len()) } else { Err(self) }
    }

    fn add(&mut self, name: &'static str, outcome: Outcome) {
        match outcome {
            Ok(()) => self.passed.push(name),
            Err(why) => self.failed.push((name, why)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} checks held, {} did not", self.passed.len(), self.failed.len())?;
        self.failed.iter().try_for_each(|(name, why)| writeln!(f, "  {name}: {why}"))
    }
}

impl std::error::Error for Report {}

/// A check's outcome: what was wrong, in words.
type Outcome = Result<(), String>;

/// One check's corner of the key space.
struct Case<'a, S> {
    store: &'a mut S,
    prefix: String,
}

/// Runs every check on one subject, in order.
pub async fn run<S: Subject>(subject: &mut S) -> Report {
    let mut report = Report::default();
    macro_rules! checks {
        ($($module:ident: $($check:ident)*;)*) => { $($(
            let name = concat!(stringify!($module), "::", stringify!($check));
            let mut case = Case { store: &mut *subject, prefix: format!("conformance/{name}/") };
            let outcome = match case.clear().await {
                Ok(()) => Box::pin($module::$check(&mut case)).await,
                Err(why) => Err(format!("could not clear its keys: {why}")),
            };
            report.add(name, outcome);
        )*)* };
    }
    checks! {
        kv: a_new_key_begins_at_version_one
            overwriting_keeps_the_create_revision
            deleting_forgets_the_past
            deleting_nothing_costs_no_revision
            each_write_costs_one_revision
            a_prefix_is_ordered_and_exact
            reads_count_and_limit
            an_empty_value_is_a_value
            keys_are_bytes
            an_empty_key_is_refused
            the_past_can_be_read;
        txn: one_revision_for_all_its_writes
            conditions_choose_the_branch
            all_conditions_must_hold
            an_absent_key_counts_as_zero
            a_value_condition_on_an_absent_key_never_holds
            every_target_is_compared
            relations_are_the_stores_to_the_given
            reading_costs_no_revision
            writing_the_same_value_is_a_write
            steps_see_the_steps_before
            two_writes_of_one_key_are_refused
            deleting_twice_is_allowed
            refused_as_a_whole
            deletes_say_how_many;
        lease: granted_as_long_as_asked
            an_unknown_lease_is_refused
            an_unknown_lease_is_not_kept_alive
            revoking_deletes_in_one_revision
            revoking_an_empty_lease_costs_no_revision
            a_key_hangs_on_its_last_lease
            a_put_without_a_lease_detaches
            a_deleted_key_leaves_its_lease
            lease_conditions
            expiry_deletes_in_one_revision
            keepalive_starts_its_life_anew
            writing_keeps_no_lease_alive
            an_expired_lease_is_gone;
        watch: tells_every_change_in_order
            begins_at_a_revision_and_resumes
            tells_nothing_of_the_future
            tells_one_event_for_each_key_of_a_transaction
            tells_only_its_prefix
            a_delete_tells_its_revision
            compaction_forgets_the_past_only
            compacting_twice_or_ahead_is_refused;
    }
    report
}

impl<S: Subject> Case<'_, S> {
    fn key(&self, name: &str) -> Key {
        format!("{}{name}", self.prefix).into()
    }

    /// A subject may have been used before, etcd by an earlier run for example.
    async fn clear(&mut self) -> Outcome {
        let op = Op::delete_prefix(self.prefix.clone());
        self.then(vec![op]).await.map(|_| ())
    }

    async fn txn(&mut self, txn: Txn) -> Result<TxnReply, String> {
        self.store.txn(txn).await.map_err(|refused| format!("a transaction: {refused:?}"))
    }

    /// A transaction without conditions.
    async fn then(&mut self, then: Vec<Op>) -> Result<TxnReply, String> {
        self.txn(Txn { then, ..Txn::default() }).await
    }

    /// Whether the conditions hold now.
    async fn holds(&mut self, compare: Vec<Compare>) -> Result<bool, String> {
        Ok(self.txn(Txn { compare, ..Txn::default() }).await?.succeeded)
    }

    /// Puts a key; the revision.
    async fn put(&mut self, name: &str, value: &str) -> Result<u64, String> {
        self.put_leased(name, value, 0).await
    }

    async fn put_leased(&mut self, name: &str, value: &str, lease: i64) -> Result<u64, String> {
        let op = Op::put_leased(self.key(name), value.to_owned(), lease);
        Ok(self.then(vec![op]).await?.revision)
    }

    async fn delete(&mut self, name: &str) -> Result<u64, String> {
        let op = Op::delete(self.key(name));
        Ok(self.then(vec![op]).await?.revision)
    }

    async fn range(&mut self, range: Range) -> Result<RangeReply, String> {
        self.store.range(range).await.map_err(|refused| format!("a read: {refused:?}"))
    }

    async fn get(&mut self, name: &str) -> Result<Option<KeyValue>, String> {
        let range = Range::one(self.key(name));
        Ok(self.range(range).await?.kvs.pop())
    }

    /// A key that must exist.
    async fn found(&mut self, name: &str) -> Result<KeyValue, String> {
        self.get(name).await?.ok_or_else(|| format!("{name} is absent, expected it to exist"))
    }

    async fn revision(&mut self) -> Result<u64, String> {
        let range = Range::one(self.key("nothing"));
        Ok(self.range(range).await?.revision)
    }

    async fn grant(&mut self, ttl_secs: i64) -> Result<Grant, String> {
        let grant = self.store.lease_grant(ttl_secs).await;
        grant.map_err(|refused| format!("a grant: {refused:?}"))
    }

    async fn revoke(&mut self, id: i64) -> Outcome {
        self.store.lease_revoke(id).await.map_err(|refused| format!("a revocation: {refused:?}"))
    }

    async fn keepalive(&mut self, id: i64) -> Result<Option<i64>, String> {
        let kept = self.store.lease_keepalive(id).await;
        kept.map_err(|refused| format!("a keepalive: {refused:?}"))
    }

    async fn events(&mut self, start: u64) -> Result<Vec<Event>, String> {
        let events = self.store.events_since(self.prefix.clone().into(), start).await;
        events.map_err(|refused| format!("a watch from {start}: {refused:?}"))
    }
}

/// Fails with both when they differ.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, found {found:?}"))
    }
}

fn holds(what: &str, condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(format!("{what}: expected it to be so")) }
}
