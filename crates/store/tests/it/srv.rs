//! Members that DNS names: real questions to a nameserver, and real members behind the answers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use pgherd_store::{
    Client, Error, LookupTrouble, Obstacle, Options, Order, Srv, TlsFiles, WatchEvent,
};

use crate::certificates::Certificates;
use crate::nameserver::{Answer, Nameserver, Record};
use crate::support::{Embedded, Etcd, WITHIN, find, free_port};

const CLIENT: &str = "_etcd-client._tcp.herd.test";

fn options(nameservers: &[SocketAddr]) -> Options {
    let srv = Srv { domain: "herd.test".into(), suffix: None, nameservers: nameservers.to_vec() };
    // As agents have it: DNS's order goes before nearness.
    Options { srv: Some(srv), order: Order::NearestFirst, ..Options::new(Vec::new()) }
}

fn port(address: &str) -> u16 {
    address.parse::<SocketAddr>().unwrap().port()
}

/// Of a member on this machine.
fn at(priority: u16, port: u16) -> Record {
    (priority, 0, port, "localhost")
}

fn known(client: &Client) -> Vec<String> {
    client.endpoints().iter().map(ToString::to_string).collect()
}

/// Asks until there is an answer, or too long.
async fn until_answered(client: &Client, limit: Duration) {
    let began = Instant::now();
    while let Err(error) = client.prefix("c/", Duration::from_secs(1)).await {
        assert!(began.elapsed() < limit, "{error}");
    }
}

async fn trouble(client: &Client, within: Duration) -> (String, LookupTrouble) {
    let error = client.prefix("c/", within).await.unwrap_err();
    let Error::NotSent { endpoint, why: Obstacle::Lookup(trouble) } = error else {
        panic!("{error}")
    };
    (endpoint, trouble)
}

/// The best member is tried first. When all that were named are dead, DNS is asked again, and a
/// watch goes on with those that it names now.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_names_members_and_later_others() {
    let Some(mut members) = Etcd::start_three().await else { return };
    let dns = Nameserver::start().await;
    let (dead, first) = (free_port(), port(&members[0].address));
    dns.say(CLIENT, Answer::Records(vec![at(20, dead), at(10, first)]));
    let client = Client::new(options(&[dns.address]));
    let mut watcher = client.watch_prefix("c/");
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Reset(_))), "{event:?}");
    let expected = [first, dead].map(|port| format!("http://localhost:{port}"));
    assert_eq!(known(&client), expected);
    // Those with TLS come first, and what works is not asked for again.
    client.prefix("c/", WITHIN).await.unwrap();
    assert_eq!(dns.asked(), ["udp _etcd-client-ssl._tcp.herd.test", &format!("udp {CLIENT}")]);

    let others = [port(&members[1].address), port(&members[2].address)];
    dns.say(CLIENT, Answer::Records(vec![at(1, others[0]), at(2, others[1])]));
    drop(members.remove(0));
    until_answered(&client, Duration::from_secs(10)).await;
    assert_eq!(known(&client), others.map(|port| format!("http://localhost:{port}")));
    let resumed =
        async { while !matches!(watcher.next().await, Some(WatchEvent::Resumed { .. })) {} };
    tokio::time::timeout(Duration::from_secs(10), resumed).await.unwrap();
}

/// A start before DNS knows anything: what was asked for is said, and the client goes on trying.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_without_records_is_said_and_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let dns = Nameserver::start().await;
    let mut options = options(&[dns.address]);
    options.srv.as_mut().unwrap().suffix = Some("db".to_owned());
    let client = Client::new(options.clone());
    let (whose, trouble) = trouble(&client, Duration::from_millis(500)).await;
    let asked = ["-client-ssl", "-client", "-ssl", "", "-server-ssl", "-server"]
        .map(|service| format!("_etcd{service}-db._tcp.herd.test"));
    assert_eq!(whose, "herd.test");
    assert_eq!(trouble, LookupTrouble::Absent { asked: asked.to_vec() });
    let error = client.prefix("c/", Duration::from_millis(50)).await.unwrap_err();
    assert!(!error.is_misconfiguration() && error.to_string().contains(&asked[5]), "{error}");

    // Hosts that are written down are there for this case.
    let fallback = Options { endpoints: vec![server.endpoint()], ..options };
    let other = Client::new(fallback);
    other.prefix("c/", WITHIN).await.unwrap();
    assert_eq!(other.endpoints(), [server.endpoint()]);

    // "." is DNS's word for "nobody".
    dns.say(&asked[1], Answer::Records(vec![(0, 0, 2379, ".")]));
    dns.say(&asked[3], Answer::Records(vec![at(0, server.address.port())]));
    until_answered(&client, WITHIN).await;
    assert_eq!(known(&client), [format!("http://localhost:{}", server.address.port())]);
    server.stop().await;
}

/// A nameserver that fails is not one that says no: the next name might be one without TLS.
#[tokio::test(flavor = "multi_thread")]
async fn silence_about_members_with_tls_leads_to_none_without() {
    let dns = Nameserver::start().await;
    let first = "_etcd-client-ssl._tcp.herd.test";
    dns.say(CLIENT, Answer::Records(vec![at(0, free_port())]));
    dns.say(first, Answer::Servfail);
    let client = Client::new(options(&[dns.address]));
    let (_, said) = trouble(&client, Duration::from_secs(1)).await;
    let LookupTrouble::Unanswered { name, why } = said else { panic!("{said}") };
    assert_eq!(name, first);
    assert!(why.contains("SERVFAIL") && why.contains(&dns.address.to_string()), "{why}");

    dns.say(first, Answer::Silence);
    let client = Client::new(options(&[dns.address]));
    // The first call has no time to see the end of the lookup, which goes on without it.
    let error = client.prefix("c/", Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, Error::NotSent { why: Obstacle::TimeUp, .. }), "{error}");
    let (_, said) = trouble(&client, WITHIN).await;
    assert!(matches!(said, LookupTrouble::Unanswered { .. }), "{said}");
    assert!(dns.asked().iter().all(|asked| asked.ends_with(first)), "{:?}", dns.asked());
}

/// A member that comes back is not kept waiting by a nameserver that doesn't answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_nameserver_delays_no_known_member() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let address = server.address;
    let dns = Nameserver::start().await;
    dns.say(CLIENT, Answer::Records(vec![(0, 0, address.port(), "localhost")]));
    let client = Client::new(options(&[dns.address]));
    client.prefix("c/", WITHIN).await.unwrap();
    let first = "_etcd-client-ssl._tcp.herd.test";
    dns.say(first, Answer::Silence);
    server.stop().await;
    let asked = |count: usize| dns.asked().iter().filter(|a| a.ends_with(first)).count() == count;
    let began = Instant::now();
    while !asked(2) {
        assert!(began.elapsed() < WITHIN, "{:?}", dns.asked());
        client.prefix("c/", Duration::from_millis(100)).await.unwrap_err();
    }
    let server = Embedded::start_at(dir.path(), address).await;
    let began = Instant::now();
    client.prefix("c/", WITHIN).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(asked(2), "the lookup was over: {:?}", dns.asked());
    server.stop().await;
}

/// Long answers come over TCP, old servers don't know EDNS, dead ones are passed over, and a name
/// may be another's.
#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_nameservers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Embedded::start(dir.path()).await;
    let dns = Nameserver::start().await;
    let many = (0..60).map(|n| at(n, if n == 0 { server.address.port() } else { 1000 + n }));
    dns.say(CLIENT, Answer::Records(many.collect()));
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let client = Client::new(options(&[dead, dns.address]));
    client.prefix("c/", WITHIN).await.unwrap();
    assert_eq!(client.endpoints().len(), 60);
    assert!(dns.asked().contains(&format!("tcp {CLIENT}")), "{:?}", dns.asked());

    dns.grow_old();
    let members = vec![at(0, server.address.port())];
    dns.say(CLIENT, Answer::Alias("elsewhere.test", members));
    let client = Client::new(options(&[dns.address]));
    client.prefix("c/", WITHIN).await.unwrap();
    assert_eq!(client.endpoints().len(), 1);
    server.stop().await;
}

/// A domain that names only what the members say to each other.
#[tokio::test(flavor = "multi_thread")]
async fn members_are_learnt_from_peers() {
    let Some(members) = Etcd::start_three().await else { return };
    let dns = Nameserver::start().await;
    let name = "_etcd-server._tcp.herd.test";
    dns.say(name, Answer::Records(vec![at(0, free_port()), at(1, members[1].peer)]));
    let client = Client::new(options(&[dns.address]));
    client.prefix("c/", WITHIN).await.unwrap();
    let mut found = known(&client);
    let mut expected: Vec<_> = members.iter().map(Etcd::url).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);

    dns.say(name, Answer::Records(vec![at(0, free_port())]));
    let (_, said) = trouble(&Client::new(options(&[dns.address])), WITHIN).await;
    assert!(matches!(&said, LookupTrouble::Peers { name: of, .. } if of == name), "{said}");
}

/// Records with `-ssl` mean https, for the members' clients as for their peers.
#[tokio::test(flavor = "multi_thread")]
async fn members_and_peers_with_tls() {
    let dir = tempfile::tempdir().unwrap();
    let Some(openssl) = find("PGHERD_OPENSSL", "openssl") else { return };
    let made = Certificates::new(openssl, dir.path().to_owned());
    made.sign("server", "server", "IP:127.0.0.1,DNS:localhost", "2");
    let path = |file: &str| made.path(file).display().to_string();
    let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let peer = format!("https://127.0.0.1:{}", free_port());
    let started = Etcd::spawn_one(
        "https",
        &[
            &["--cert-file", &cert, "--key-file", &key][..],
            &["--peer-cert-file", &cert, "--peer-key-file", &key, "--peer-trusted-ca-file", &ca],
            &["--peer-client-cert-auth", "--listen-peer-urls", &peer],
            &["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("one={peer}")],
        ]
        .concat(),
    );
    let Some(etcd) = started else { return };
    let dns = Nameserver::start().await;
    let files = |cert: bool| {
        let path = |file: &str| Some(made.path(file));
        let (cert, key) =
            if cert { (path("server.pem"), path("server.key")) } else { (None, None) };
        TlsFiles { ca: path("ca.pem"), cert, key }
    };
    let client = |with| Client::new(Options { tls: files(with), ..options(&[dns.address]) });
    dns.say("_etcd-client-ssl._tcp.herd.test", Answer::Records(vec![at(0, port(&etcd.address))]));
    let direct = client(false);
    direct.status(Duration::from_secs(20)).await.unwrap();
    assert_eq!(known(&direct), [format!("https://localhost:{}", port(&etcd.address))]);

    dns.forget("_etcd-client-ssl._tcp.herd.test");
    let peer = port(peer.strip_prefix("https://").unwrap());
    dns.say("_etcd-server-ssl._tcp.herd.test", Answer::Records(vec![at(0, peer)]));
    let learnt = client(true);
    learnt.status(WITHIN).await.unwrap();
    assert_eq!(known(&learnt), [etcd.url()]);
    // These peers talk to nobody without a certificate.
    let (_, said) = trouble(&client(false), WITHIN).await;
    assert!(matches!(said, LookupTrouble::Peers { .. }), "{said}");
}

const INSIDE: &str = "PGHERD_TEST_INSIDE_NAMESPACE";

/// Without addresses of nameservers those of the machine are asked, and the domain may be one of its
/// search list's. The machine is a namespace with a file of its own, where port 53 is free.
#[test]
fn the_machines_own_nameservers() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(inside());
    }
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\nsearch cluster.test\noptions ndots:1\n").unwrap();
    let prepare = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let own = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--net", "sh", "-c", prepare]).arg(&conf).args(command);
        unshare
    };
    if !own(&["true"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no namespaces; run as root, with unshare and ip");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let words = ["srv::the_machines_own_nameservers", "--exact", "--nocapture"];
    let mut command = own(&[&[program.to_str().unwrap()], &words[..]].concat());
    let output = command.env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

async fn inside() {
    let Some(etcd) = Etcd::start().await else { return };
    let dns = Nameserver::start_at("127.0.0.1:53").await;
    let services = vec![(0, 0, port(&etcd.address), "localhost.")];
    dns.say("_etcd-client._tcp.etcd.cluster.test", Answer::Records(services));
    let mut options = options(&[]);
    options.srv.as_mut().unwrap().domain = "etcd".to_owned();
    let client = Client::new(options);
    client.prefix("c/", WITHIN).await.unwrap();
    let first = ["", ".cluster.test"].map(|end| format!("udp _etcd-client-ssl._tcp.etcd{end}"));
    assert_eq!(dns.asked()[..2], first);
}
