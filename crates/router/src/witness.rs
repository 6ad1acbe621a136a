//! Whom a router asks about a backend. Leaves how to whoever embeds the router.

use std::pin::Pin;

use crate::topology::MemberRoute;

/// An answer that is on its way.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>>;

/// Knows what backends wait for.
pub trait Witness: Send + Sync {
    /// Whether the commit of the backend with this process id waits for replicas now; `None`: nobody
    /// says.
    fn waits<'a>(&'a self, member: &'a MemberRoute, pid: u32) -> Answer<'a>;
}

/// Knows nothing.
pub(crate) struct Nobody;

impl Witness for Nobody {
    fn waits<'a>(&'a self, _: &'a MemberRoute, _: u32) -> Answer<'a> {
        Box::pin(std::future::ready(None))
    }
}
