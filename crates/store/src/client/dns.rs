//! One question to DNS: which SRV records does this name have. Asks the machine's nameservers, one
//! after the other, over UDP, and over TCP when the answer doesn't fit. Leaves to `srv` which names
//! to ask for, and addresses to the system's resolver.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype, ToName};
use domain::net::client::dgram_stream::{Config, Connection};
use domain::net::client::protocol::{TcpConnect, UdpConnect};
use domain::net::client::request::{ComposeRequest, RequestMessage, SendRequest};
use domain::rdata::Srv;
use domain::resolv::stub::conf::ResolvConf;
use tokio::time::timeout;

const CONFIGURATION: &str = "/etc/resolv.conf";
/// As many as the C library uses (resolv.conf(5), MAXNS).
const SERVERS: usize = 3;
/// The C library gives each nameserver 5 s. These are asked while nobody can wait for long.
const UDP_LIMIT: Duration = Duration::from_secs(2);
/// Over UDP and, when that was cut off, over TCP.
const LIMIT: Duration = Duration::from_secs(4);
/// Each server is asked twice, as by the C library; the second time without EDNS, which some old
/// ones take for a mistake. 1232 bytes pass everywhere (DNS flag day 2020).
const ROUNDS: [Option<u16>; 2] = [Some(1232), None];

/// One SRV record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    /// Without the dot at the end; empty: decidedly nobody.
    pub(crate) target: String,
    pub(crate) port: u16,
}

/// Whom to ask, and what to write behind a name that isn't found as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Dns {
    /// The given nameservers; none: those that the machine has now.
    pub(crate) async fn new(servers: &[SocketAddr]) -> Self {
        if servers.is_empty() {
            let text = tokio::fs::read(CONFIGURATION).await.unwrap_or_default();
            return Self::of_the_machine(&text);
        }
        Self { servers: servers.to_vec(), search: Vec::new() }
    }

    /// What can't be read in the file is passed over, as the C library does; without a nameserver
    /// it is this machine.
    fn of_the_machine(mut text: &[u8]) -> Self {
        let mut conf = ResolvConf::new();
        if let Err(error) = conf.parse(&mut text) {
            tracing::debug!(%error, CONFIGURATION, "the end of this file isn't understood");
        }
        conf.finalize();
        let servers = conf.servers.iter().map(|server| server.addr).take(SERVERS).collect();
        let suffixes = conf.options.search.as_slice().iter();
        let search = suffixes.map(|name| name.to_string().trim_end_matches('.').to_owned());
        Self { servers, search: search.filter(|name| !name.is_empty()).collect() }
    }

    /// The names that `name` may stand for, in the order in which they are asked for.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let longer = self.search.iter().map(|suffix| format!("{name}.{suffix}"));
        std::iter::once(name.to_owned()).chain(longer).collect()
    }

    /// The records of exactly this name; empty when there is no such name, or it has none. Only a
    /// server's word for that counts: one that is silent or fails has not said so.
    pub(crate) async fn services(&self, name: &str) -> Result<Vec<Service>, String> {
        let question = question(name)?;
        let mut why = "no nameserver is configured".to_owned();
        for payload in ROUNDS {
            for server in &self.servers {
                match ask(*server, question.clone(), payload).await {
                    Ok(services) => return Ok(services),
                    Err(words) => why = format!("{server}: {words}"),
                }
            }
        }
        Err(why)
    }
}

fn question(name: &str) -> Result<Message<Vec<u8>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("it is no legal name: {error}");
    let name: Name<Vec<u8>> = name.parse().map_err(|error| wrong(&error))?;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name, Rtype::SRV)).map_err(|error| wrong(&error))?;
    Ok(message.into_message())
}

async fn ask(
    server: SocketAddr,
    question: Message<Vec<u8>>,
    payload: Option<u16>,
) -> Result<Vec<Service>, String> {
    let mut config = Config::new();
    config.dgram_mut().set_max_retries(0);
    config.dgram_mut().set_read_timeout(UDP_LIMIT);
    config.dgram_mut().set_udp_payload_size(payload);
    let (udp, tcp) = (UdpConnect::new(server), TcpConnect::new(server));
    let (connection, transport) = Connection::with_config(udp, tcp, config);
    let mut request = RequestMessage::new(question).map_err(|error| error.to_string())?;
    request.header_mut().set_rd(true);
    let mut request = connection.send_request(request);
    let answer = async {
        tokio::select! {
            answer = request.get_response() => answer.map_err(|error| error.to_string()),
            // It serves the request above, which is not over.
            () = transport.run() => Err("the connection ended".to_owned()),
        }
    };
    match timeout(LIMIT, answer).await {
        Ok(answer) => read(&answer?),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
}

fn read(answer: &Message<Bytes>) -> Result<Vec<Service>, String> {
    match answer.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Ok(Vec::new()),
        other => return Err(format!("it answers {other}")),
    }
    let broken = |_| "its answer is malformed".to_owned();
    // The name itself, or what it is another name for.
    let owner = answer.canonical_name().ok_or("its answer is malformed")?;
    let mut services = Vec::new();
    for record in answer.answer().map_err(broken)?.limit_to_in::<Srv<_>>() {
        let record = record.map_err(broken)?;
        if record.owner().name_eq(&owner) {
            let srv = record.data();
            services.push(Service {
                priority: srv.priority(),
                weight: srv.weight(),
                target: srv.target().to_string().trim_end_matches('.').to_owned(),
                port: srv.port(),
            });
        }
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_nameservers_and_search_list() {
        let text = "# comment\nsearch a.example b.example\nnameserver 192.0.2.1\n\
                    nameserver 2001:db8::1\noptions ndots:2 edns0 trust-ad\n";
        let dns = Dns::of_the_machine(text.as_bytes());
        let servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
        assert_eq!(dns.candidates("etcd"), ["etcd", "etcd.a.example", "etcd.b.example"]);
        assert_eq!(dns.candidates("etcd.example."), ["etcd.example"]);
        // As the C library does without a file.
        assert_eq!(Dns::of_the_machine(b"").servers, ["127.0.0.1:53".parse().unwrap()]);
    }
}
