//! The members as DNS names them: which SRV records are asked for, in which order their targets are
//! tried, and when they are asked for anew: at the start, and while no known member lets us in.
//! Leaves the questions themselves to `dns`, and members that the store tells of to `discovery`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::dns::{Dns, Service};
use super::peers::client_endpoints;
use super::tls::Tls;
use super::{Client, Endpoint, Slot};
use crate::error::{Error, LookupTrouble, Obstacle};

/// How soon after a lookup began the next one may begin. Patroni waits for 5 s between two.
const AGAIN: Duration = Duration::from_secs(2);

/// What Patroni asks for (contract 1.5), in its order: the first that names a member decides.
const SERVICES: [(&str, &str, Port); 6] = [
    ("_etcd-client-ssl", "https", Port::Client),
    ("_etcd-client", "http", Port::Client),
    ("_etcd-ssl", "https", Port::Client),
    ("_etcd", "http", Port::Client),
    ("_etcd-server-ssl", "https", Port::Peer),
    ("_etcd-server", "http", Port::Peer),
];

/// What listens at a record's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Port {
    /// etcd's API.
    Client,
    /// What members say to each other, among it where their clients' ports are.
    Peer,
}

/// A domain whose SRV records name the members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Srv {
    /// The domain.
    pub domain: String,
    /// What follows the service's name: `_etcd-client-SUFFIX._tcp.DOMAIN`.
    pub suffix: Option<String>,
    /// Whom to ask; empty: the nameservers of `/etc/resolv.conf`, read each time.
    pub nameservers: Vec<SocketAddr>,
}

type Found = Result<Vec<Endpoint>, LookupTrouble>;

/// The lookups of a client, at most one at a time. It goes on when the call that began it has no
/// time left, and it ends with the client.
#[derive(Default)]
pub(super) struct Lookups {
    running: JoinSet<Found>,
    began: Option<Instant>,
    last: Option<Result<(), LookupTrouble>>,
}

impl Lookups {
    fn begin(&mut self, srv: &Srv, tls: &Arc<Tls>) {
        if self.running.is_empty() && self.began.is_none_or(|began| began.elapsed() >= AGAIN) {
            self.began = Some(Instant::now());
            let (srv, tls) = (srv.clone(), tls.clone());
            self.running.spawn(async move { find(&srv, &tls).await });
        }
    }

    /// What was found. Only the first one is waited for: later there are members that may be tried,
    /// or there is something to say. Cancel-safe.
    async fn take(&mut self) -> Option<Found> {
        let ended = match self.last {
            None => self.running.join_next().await,
            Some(_) => self.running.try_join_next(),
        };
        Some(ended?.unwrap_or_else(|error| {
            let name = "of etcd".to_owned();
            Err(LookupTrouble::Unanswered {
                name,
                why: format!("the lookup itself broke: {error}"),
            })
        }))
    }
}

impl Client {
    /// Before each attempt to connect: keeps what DNS says known. Fails when nobody is known.
    pub(super) async fn look_up(&self, slot: &mut Slot) -> Result<(), Error> {
        let Some(srv) = &self.0.options.srv else { return Ok(()) };
        if slot.lookups.last.is_none() || slot.failures >= self.endpoints().len() {
            slot.lookups.begin(srv, &self.0.tls);
        }
        if let Some(found) = slot.lookups.take().await {
            let result = match found {
                Ok(endpoints) => {
                    // The best is first again, and each one is worth a try before the next lookup.
                    (slot.index, slot.failures) = (0, 0);
                    // Which of them is on this machine is not for us to prefer.
                    slot.near = Some(0);
                    self.know(|known| known.given = endpoints);
                    Ok(())
                }
                Err(trouble) => {
                    if slot.lookups.last != Some(Err(trouble.clone())) {
                        tracing::warn!(error = %trouble, "DNS names no member of the store");
                    }
                    Err(trouble)
                }
            };
            slot.lookups.last = Some(result);
        }
        match &slot.lookups.last {
            Some(Err(trouble)) if self.endpoints().is_empty() => Err(Error::NotSent {
                endpoint: srv.domain.clone(),
                why: Obstacle::Lookup(trouble.clone()),
            }),
            Some(Ok(()) | Err(_)) | None => Ok(()),
        }
    }
}

/// The members that the first service with any names, best first.
async fn find(srv: &Srv, tls: &Tls) -> Found {
    let dns = Dns::new(&srv.nameservers).await;
    let (mut asked, mut trouble) = (Vec::new(), None);
    for (service, scheme, port) in SERVICES {
        let name = match &srv.suffix {
            Some(suffix) => format!("{service}-{suffix}._tcp.{}", srv.domain),
            None => format!("{service}._tcp.{}", srv.domain),
        };
        for name in dns.candidates(&name) {
            // The next name may be one without TLS: silence must not lead there.
            let services = match dns.services(&name).await {
                Ok(services) => services,
                Err(why) => return Err(LookupTrouble::Unanswered { name, why }),
            };
            let targets = targets(services, scheme, chance);
            match port {
                Port::Client if !targets.is_empty() => return Ok(targets),
                Port::Peer if !targets.is_empty() => match members(&targets, tls).await {
                    Ok(members) => return Ok(members),
                    Err(why) => trouble = Some(LookupTrouble::Peers { name, why }),
                },
                Port::Client | Port::Peer => asked.push(name),
            }
        }
    }
    Err(trouble.unwrap_or(LookupTrouble::Absent { asked }))
}

/// What the first peer that answers says; why the last one didn't.
async fn members(peers: &[Endpoint], tls: &Tls) -> Result<Vec<Endpoint>, String> {
    let mut why = String::new();
    for peer in peers {
        match client_endpoints(peer, tls).await {
            Ok(members) if !members.is_empty() => return Ok(members),
            Ok(_) => why = format!("{peer}: it names no member with an address"),
            Err(words) => why = format!("{peer}: {words}"),
        }
    }
    Err(why)
}

/// The targets as endpoints, in the order in which they are to be tried. What is none is left out:
/// the root's name, which says that there is no such service, and port 0.
fn targets(services: Vec<Service>, scheme: &str, chance: impl FnMut(u64) -> u64) -> Vec<Endpoint> {
    let real = |service: &Service| !service.target.is_empty() && service.port != 0;
    let ordered = ordered(services.into_iter().filter(real).collect(), chance);
    let endpoints = ordered.into_iter().filter_map(|service| {
        let Service { target, port, .. } = service;
        format!("{scheme}://{target}:{port}").parse::<Endpoint>().ok()
    });
    let mut each = Vec::new();
    for endpoint in endpoints {
        if !each.contains(&endpoint) {
            each.push(endpoint);
        }
    }
    each
}

/// RFC 2782: lower priorities first, and among equals by lot, with chances as the weights.
/// `chance(n)` is any of 0 to n.
fn ordered(mut left: Vec<Service>, mut chance: impl FnMut(u64) -> u64) -> Vec<Service> {
    // Those with weight 0 first, so that they are drawn when the lot is 0.
    left.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(priority) = left.first().map(|service| service.priority) {
        let group = left.iter().take_while(|service| service.priority == priority);
        let running: Vec<u64> = group
            .scan(0, |sum, service| {
                *sum += u64::from(service.weight);
                Some(*sum)
            })
            .collect();
        let drawn = match running.last() {
            // Without weights any will do: the same one for all would have to serve all.
            None | Some(0) => {
                let most = u64::try_from(running.len()).unwrap_or(1).saturating_sub(1);
                usize::try_from(chance(most)).unwrap_or(0)
            }
            Some(sum) => {
                let lot = chance(*sum);
                running.iter().position(|sum| *sum >= lot).unwrap_or(0)
            }
        };
        ordered.push(left.remove(drawn));
    }
    ordered
}

/// Where there is no randomness any order will do.
fn chance(most: u64) -> u64 {
    getrandom::u64().map_or(0, |random| random % (most + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, target: &str, port: u16) -> Service {
        Service { priority, weight, target: target.to_owned(), port }
    }

    fn shown(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn priority_goes_before_weight_and_nobody_is_left_out() {
        let services = vec![
            service(20, 100, "last", 1),
            service(10, 1, "light", 1),
            service(10, 0, "empty", 1),
            service(10, 9, "heavy", 1),
            service(0, 0, "", 1),
            service(0, 0, "no-port", 0),
            service(30, 0, "LAST", 1),
            service(30, 0, "last", 1),
        ];
        let low = targets(services.clone(), "https", |_| 0);
        assert_eq!(
            shown(&low),
            [
                "https://empty:1",
                "https://light:1",
                "https://heavy:1",
                "https://last:1",
                "https://LAST:1"
            ]
        );
        let high = targets(services, "http", |most| most);
        assert_eq!(
            shown(&high)[..4],
            ["http://heavy:1", "http://light:1", "http://empty:1", "http://last:1"]
        );
    }

    #[test]
    fn weights_are_chances() {
        let services = || vec![service(0, 1, "light", 1), service(0, 3, "heavy", 1)];
        // Each lot once: 0 and 1 draw the light one, 2 to 4 the heavy one.
        let first = (0..=4).map(|lot| ordered(services(), |most| lot.min(most))[0].target.clone());
        assert_eq!(first.collect::<Vec<_>>(), ["light", "light", "heavy", "heavy", "heavy"]);
        let equal = || vec![service(0, 0, "one", 1), service(0, 0, "other", 1)];
        let first = [0, 1].map(|lot| ordered(equal(), |most| lot.min(most))[0].target.clone());
        assert_eq!(first, ["one", "other"]);
        assert!((0..1000).all(|_| chance(3) <= 3) && chance(0) == 0);
    }
}
