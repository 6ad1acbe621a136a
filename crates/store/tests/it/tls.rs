//! A real etcd that wants TLS, client certificates and passwords: everything works as without, and
//! each thing that is wrong is said for what it is.

use std::time::{Duration, Instant};

use pgherd_store::conformance::{OverClient, run};
use pgherd_store::{
    CertificateTrouble, Client, Credentials, Endpoint, Error, Obstacle, Op, Options, Refusal,
    TlsFiles, Txn, WatchEvent,
};

use crate::certificates::Certificates;
use crate::support::{Etcd, WITHIN, enable_auth, find};

const SOON: Duration = Duration::from_secs(1);
/// A token of 1 s that nobody uses; etcd looks at them once a second.
const TOKEN_IS_GONE: Duration = Duration::from_millis(2500);

/// An etcd with TLS and client certificates, and what its clients need.
struct Secure {
    etcd: Etcd,
    certificates: Certificates,
    _dir: tempfile::TempDir,
}

impl Secure {
    async fn start(more: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let openssl = find("PGHERD_OPENSSL", "openssl")?;
        let certificates = Certificates::new(openssl, dir.path().to_owned());
        certificates.sign("server", "server", "IP:127.0.0.1,DNS:localhost", "2");
        certificates.sign("client", "app", "DNS:client", "2");
        let path = |file| certificates.path(file).display().to_string();
        let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let files = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca];
        let etcd = Etcd::spawn_one("https", &[&["--client-cert-auth"], &files[..], more].concat())?;
        let secure = Self { etcd, certificates, _dir: dir };
        secure.client(None).status(Duration::from_secs(20)).await.unwrap();
        Some(secure)
    }

    fn files(&self) -> TlsFiles {
        let path = |file: &str| Some(self.certificates.path(file));
        TlsFiles { ca: path("ca.pem"), cert: path("client.pem"), key: path("client.key") }
    }

    fn options(&self) -> Options {
        Options { tls: self.files(), ..Options::new(vec![self.etcd.endpoint()]) }
    }

    fn client(&self, login: Option<(&str, &str)>) -> Client {
        let credentials = login.map(|(user, password)| Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        Client::new(Options { credentials, ..self.options() })
    }

    fn enable_auth(&self, prefix: &str) {
        let path = |file| self.certificates.path(file).display().to_string();
        let (ca, cert, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
        enable_auth(&self.etcd, prefix, &["--cacert", &ca, "--cert", &cert, "--key", &key]);
    }

    /// Why nothing was sent, within the time that a call has.
    async fn obstacle(&self, options: Options) -> Obstacle {
        let began = Instant::now();
        match Client::new(options).prefix("c/", SOON).await {
            Err(Error::NotSent { why, .. }) => {
                assert!(began.elapsed() < SOON * 2, "{why}");
                why
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Puts certificate and key of `from` where those of `to` are.
fn rotate(certificates: &Certificates, from: &str, to: &str) {
    for kind in ["key", "pem"] {
        let copy = certificates.path(&format!("{to}.new"));
        std::fs::copy(certificates.path(&format!("{from}.{kind}")), &copy).unwrap();
        std::fs::rename(copy, certificates.path(&format!("{to}.{kind}"))).unwrap();
    }
}

fn put(value: &str) -> Txn {
    Txn { then: vec![Op::put("c/a", value.to_owned())], ..Txn::default() }
}

#[tokio::test]
async fn etcd_with_tls_certificates_and_passwords_conforms() {
    let Some(_) = find("PGHERD_ETCDCTL", "etcdctl") else { return };
    let Some(secure) = Secure::start(&[]).await else { return };
    secure.enable_auth("");
    let report = run(&mut OverClient(secure.client(Some(("root", "secret"))))).await;
    report.verdict().unwrap_or_else(|report| panic!("{report}"));
    // A certificate's common name is a user too.
    secure.client(None).txn(put("by certificate"), WITHIN).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said_and_can_be_put_right() {
    let Some(secure) = Secure::start(&[]).await else { return };
    let Secure { etcd, certificates, .. } = &secure;
    let with = |tls: TlsFiles| Options { tls, ..secure.options() };
    let at = |url: String| Options {
        endpoints: vec![url.parse::<Endpoint>().unwrap()],
        ..secure.options()
    };
    // Files of ours.
    let missing = TlsFiles { ca: Some("/nowhere/ca.pem".into()), ..secure.files() };
    let why = secure.obstacle(with(missing)).await.to_string();
    assert!(why.contains("/nowhere/ca.pem: it can't be read: No such file"), "{why}");
    let crossed = TlsFiles { key: Some(certificates.path("server.key")), ..secure.files() };
    let why = secure.obstacle(with(crossed)).await;
    assert!(matches!(&why, Obstacle::File { path, .. } if path.ends_with("server.key")), "{why}");
    // The two sides of trust.
    certificates.authority("other");
    let stranger = TlsFiles { ca: Some(certificates.path("other.pem")), ..secure.files() };
    let why = secure.obstacle(with(stranger)).await;
    let unknown = CertificateTrouble::UnknownIssuer {
        ca: certificates.path("other.pem").display().to_string(),
    };
    assert_eq!(why, Obstacle::ServerCertificate(unknown));
    let nobody = TlsFiles { cert: None, key: None, ..secure.files() };
    let why = secure.obstacle(with(nobody)).await;
    assert!(matches!(why, Obstacle::ClientCertificate(_)), "{why:?}");
    // TLS where none is spoken, and the other way round.
    let plain = at(format!("http://{}", etcd.address));
    assert_eq!(secure.obstacle(plain).await, Obstacle::SpeaksTls);
    let open = Etcd::start().await.unwrap();
    let tls = at(format!("https://{}", open.address));
    assert_eq!(secure.obstacle(tls).await, Obstacle::SpeaksPlain);

    // The same client through it all: it looks at the files for each connection, as etcd does.
    let client = secure.client(None);
    client.txn(put("1"), WITHIN).await.unwrap();
    certificates.sign("expired", "server", "IP:127.0.0.1", "-1");
    certificates.sign("elsewhere", "server", "DNS:elsewhere.example", "2");
    certificates.sign("renewed", "server", "IP:127.0.0.1", "2");
    rotate(certificates, "expired", "server");
    let why = secure.obstacle(secure.options()).await;
    assert_eq!(why, Obstacle::ServerCertificate(CertificateTrouble::Expired));
    // A connection that stands is none the worse for it.
    client.txn(put("2"), WITHIN).await.unwrap();
    rotate(certificates, "elsewhere", "server");
    let why = secure.obstacle(secure.options()).await.to_string();
    assert!(why.contains("it is for ") && why.contains("elsewhere.example"), "{why}");
    rotate(certificates, "renewed", "server");
    certificates.sign("again", "app", "DNS:client", "2");
    rotate(certificates, "again", "client");
    secure.client(None).txn(put("3"), WITHIN).await.unwrap();
}

#[tokio::test]
async fn tokens_that_expire_are_renewed_without_a_break() {
    let Some(_) = find("PGHERD_ETCDCTL", "etcdctl") else { return };
    let more = ["--auth-token", "simple", "--auth-token-ttl", "1"];
    let Some(secure) = Secure::start(&more).await else { return };
    secure.enable_auth("c/");
    let client = secure.client(Some(("app", "hunter2")));
    client.txn(put("0"), WITHIN).await.unwrap();
    let lease = client.lease_grant(20, WITHIN).await.unwrap();
    let mut watcher = client.watch_prefix("c/");
    assert!(matches!(watcher.next().await, Some(WatchEvent::Reset(_))));
    tokio::time::sleep(TOKEN_IS_GONE).await;
    assert_eq!(client.lease_keepalive(lease.id, WITHIN).await.unwrap(), Some(20));
    tokio::time::sleep(TOKEN_IS_GONE).await;
    client.txn(put("1"), WITHIN).await.unwrap();
    // The watch has not noticed anything.
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Changed { .. })), "{event:?}");
    // One that opens with an old token gets a new one by itself.
    tokio::time::sleep(TOKEN_IS_GONE).await;
    let mut late = client.watch_prefix("c/");
    assert!(matches!(late.next().await, Some(WatchEvent::Reset(_))));
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_right_are_told_apart() {
    let Some(_) = find("PGHERD_ETCDCTL", "etcdctl") else { return };
    let Some(secure) = Secure::start(&[]).await else { return };
    secure.enable_auth("c/");
    let wrong = secure.client(Some(("app", "hunter3")));
    let error = wrong.prefix("c/", WITHIN).await.unwrap_err();
    assert!(error.is_misconfiguration(), "{error}");
    let Error::Rejected { refusal: Refusal::Credentials, .. } = &error else { panic!("{error}") };
    // Its watch says so once, and does not hang.
    let mut watcher = wrong.watch_prefix("c/");
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    let Some(WatchEvent::Disconnected { error, .. }) = event else { panic!("{event:?}") };
    assert!(error.is_misconfiguration() && !format!("{error:?}").contains("hunter3"), "{error:?}");
    let client = secure.client(Some(("app", "hunter2")));
    let mut watcher = client.watch_prefix("d/");
    let event = tokio::time::timeout(WITHIN, watcher.next()).await.unwrap();
    let Some(WatchEvent::Disconnected { error, .. }) = event else { panic!("{event:?}") };
    let Error::Rejected { refusal: Refusal::Permission, .. } = error else { panic!("{error}") };
}
