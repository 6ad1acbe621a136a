//! From a member's host name to addresses, remembered for a moment.
//! Leaves connecting, and trying the next address, to `session`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::topology::HostPort;

/// A name server that answers slowly must not slow down each new session; a container that came
/// back under another address must be found again soon.
const FRESH: Duration = Duration::from_secs(2);
/// Names come from members' keys; more than this many at once are no cluster of ours.
const NAMES_MAX: usize = 1024;

/// Remembers what names meant.
#[derive(Default)]
pub(crate) struct Resolver {
    known: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Resolver {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Vec<IpAddr>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a server, at least one.
    pub(crate) async fn resolve(&self, server: &HostPort) -> io::Result<Vec<SocketAddr>> {
        let with_port = |ips: &[IpAddr]| ips.iter().map(|ip| (*ip, server.port).into()).collect();
        if let Ok(ip) = server.host.parse() {
            return Ok(with_port(&[ip]));
        }
        let remembered = self.lock().get(&server.host).cloned();
        if let Some((at, ips)) = &remembered
            && at.elapsed() < FRESH
        {
            return Ok(with_port(ips));
        }
        match tokio::net::lookup_host((server.host.as_str(), server.port)).await {
            Ok(found) => {
                let ips: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                if ips.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
                }
                let mut known = self.lock();
                if known.len() >= NAMES_MAX {
                    known.clear();
                }
                known.insert(server.host.clone(), (Instant::now(), ips.clone()));
                Ok(with_port(&ips))
            }
            // What the name meant last is better than nothing while the name server is down.
            Err(error) => remembered.map(|(_, ips)| with_port(&ips)).ok_or(error),
        }
    }

    /// Forgets a name whose address didn't answer.
    pub(crate) fn forget(&self, server: &HostPort) {
        if let Some((at, _)) = self.lock().get_mut(&server.host) {
            *at = at.checked_sub(FRESH).unwrap_or(*at);
        }
    }
}
