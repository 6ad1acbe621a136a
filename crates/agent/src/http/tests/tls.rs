//! HTTPS for real: certificates from openssl, clients with and without, a certificate replaced
//! under the running server, and peers' streams over it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use pgherd_api::tls::{self, Trust};
use pgherd_api::{Client, ClientError, Secret};
use pgherd_config::rest::{RestClient, RestServer, RestTls, VerifyClient};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Fixture, board, cluster, fixture, node, primary};
use crate::event::Event;
use crate::http::tls::Keeper;
use crate::http::{Desk, Scheme, serve};
use crate::peers::{Identity, Peers};

/// Certificates below one directory, made by the openssl program.
struct Authority(tempfile::TempDir);

impl Authority {
    /// None, with the reason, where there is no openssl.
    fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIPPED: no openssl; install the package openssl");
            return None;
        }
        let authority = Self(tempfile::tempdir().unwrap());
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority.sign("server", "subjectAltName=DNS:localhost");
        authority.sign("client", "extendedKeyUsage=clientAuth");
        Some(authority)
    }

    fn sign(&self, name: &str, extension: &str) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let (csr, ext) = (format!("{name}.csr"), format!("{name}.ext"));
        std::fs::write(self.path(&ext), extension).unwrap();
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &csr,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &ext,
            "-out",
            &pem,
        ]);
    }

    fn openssl(&self, args: &[&str]) {
        let output =
            Command::new("openssl").args(args).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn server(&self, verify_client: VerifyClient) -> RestServer {
        let tls = RestTls {
            certfile: self.path("server.pem"),
            keyfile: Some(self.path("server.key")),
            keyfile_password: None,
            cafile: Some(self.path("ca.pem")),
            verify_client,
            ciphers: Vec::new(),
        };
        RestServer { tls: Some(tls), ..RestServer::default() }
    }

    fn client(&self, certificate: Option<&str>) -> Client {
        let files = RestClient {
            cacert: Some(self.path("ca.pem")),
            certfile: certificate.map(|name| self.path(&format!("{name}.pem"))),
            keyfile: certificate.map(|name| self.path(&format!("{name}.key"))),
            ..RestClient::default()
        };
        let config = tls::client(&files, Trust::Named).unwrap();
        Client::new(Duration::from_secs(30)).with_tls(config)
    }
}

async fn served(rest: RestServer) -> (Fixture, String, tokio::task::JoinHandle<()>) {
    let mut fixture = fixture(board(primary(), true, &[]), None, false);
    let mut desk: Desk = Arc::into_inner(fixture.desk).unwrap();
    let scheme = Scheme::of(&rest).unwrap();
    desk.rest = rest;
    fixture.desk = Arc::new(desk);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let task = tokio::spawn(serve(listener, scheme, super::desks(&fixture.desk)));
    (fixture, url, task)
}

#[tokio::test]
async fn certificates_of_clients_are_verified() {
    let Some(authority) = Authority::new() else { return };
    let (_fixture, url, task) = served(authority.server(VerifyClient::Optional)).await;
    let (bare, known) = (authority.client(None), authority.client(Some("client")));
    let restart = format!("{url}/sigterm");
    let body = json!({});
    let read = bare.request(Method::GET, &format!("{url}/primary"), None).await.unwrap();
    assert_eq!(read.status, StatusCode::OK);
    let refused = bare.request(Method::POST, &restart, Some(&body)).await.unwrap();
    assert_eq!(
        (refused.status.as_u16(), refused.text()),
        (403, "client certificate required".into())
    );
    let done = known.request(Method::POST, &restart, Some(&body)).await.unwrap();
    assert_eq!((done.status.as_u16(), done.text()), (202, "shutdown scheduled".into()));
    // A stranger's name, or authority, isn't believed.
    let other = url.replace("localhost", "127.0.0.1");
    let stranger = bare.request(Method::GET, &format!("{other}/primary"), None).await;
    assert!(matches!(stranger, Err(ClientError::Tls { .. })), "{stranger:?}");
    let plain = Client::new(Duration::from_secs(30));
    let plain = plain.request(Method::GET, &format!("{url}/primary"), None).await;
    assert!(matches!(plain, Err(ClientError::NoTls(_))), "{plain:?}");
    task.abort();
}

#[tokio::test]
async fn where_it_is_required_even_reading_needs_a_certificate() {
    let Some(authority) = Authority::new() else { return };
    let (_fixture, url, task) = served(authority.server(VerifyClient::Required)).await;
    let url = format!("{url}/primary");
    let refused = authority.client(None).request(Method::GET, &url, None).await;
    assert!(refused.is_err(), "{refused:?}");
    let known = authority.client(Some("client")).request(Method::HEAD, &url, None).await.unwrap();
    assert_eq!(known.status, StatusCode::OK);
    task.abort();
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() {
    let Some(authority) = Authority::new() else { return };
    let (_fixture, url, task) = served(authority.server(VerifyClient::None)).await;
    let url = format!("{url}/primary");
    let client = authority.client(None);
    assert!(client.request(Method::GET, &url, None).await.is_ok());
    // One that doesn't fit the name, to tell them apart.
    authority.sign("server", "subjectAltName=DNS:elsewhere");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while client.request(Method::GET, &url, None).await.is_ok() {
        assert!(std::time::Instant::now() < until, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    task.abort();
}

/// OpenSSL's own client gets through with the suite that is named, and with no other of TLS 1.2.
#[tokio::test]
async fn only_the_ciphers_that_are_named_are_offered() {
    let Some(authority) = Authority::new() else { return };
    let mut rest = authority.server(VerifyClient::None);
    if let Some(tls) = &mut rest.tls {
        tls.ciphers = vec!["ECDHE-ECDSA-AES128-GCM-SHA256"];
    }
    let (_fixture, url, task) = served(rest).await;
    let address = url.trim_start_matches("https://").to_owned();
    let gets_through = |words: &'static [&'static str]| {
        let mut openssl = tokio::process::Command::new("openssl");
        openssl.args(["s_client", "-connect", &address]).args(words);
        openssl.stdin(std::process::Stdio::null());
        async move { openssl.output().await.unwrap().status.success() }
    };
    assert!(gets_through(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]).await);
    assert!(!gets_through(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"]).await);
    assert!(gets_through(&["-tls1_3"]).await);
    task.abort();
}

#[test]
fn a_certificate_that_cant_be_used_changes_nothing() {
    let Some(authority) = Authority::new() else { return };
    let files = authority.server(VerifyClient::None).tls.unwrap();
    let (mut keeper, mut current) = Keeper::new(files).unwrap();
    keeper.look();
    std::fs::write(authority.path("server.pem"), "rubbish").unwrap();
    keeper.look();
    assert!(!current.has_changed().unwrap());
    authority.sign("server", "subjectAltName=DNS:localhost");
    keeper.look();
    assert!(current.has_changed().unwrap());
    current.mark_unchanged();
}

#[tokio::test]
async fn peers_speak_over_tls() {
    let Some(authority) = Authority::new() else { return };
    let (mut here, url, task) = served(authority.server(VerifyClient::Required)).await;
    let identity = Identity {
        name: node("pg-1"),
        scope: "demo".to_owned(),
        secret: Some(Secret::new("herd")),
        login: None,
    };
    let files = RestClient {
        cacert: Some(authority.path("ca.pem")),
        certfile: Some(authority.path("client.pem")),
        keyfile: Some(authority.path("client.key")),
        ..RestClient::default()
    };
    let (sender, _there) = mpsc::channel(16);
    let config = tls::client(&files, Trust::Signed).unwrap();
    let mut peers = Peers::new(identity, config, sender);
    // Agents believe the authority, whatever the name.
    let url = url.replace("localhost", "127.0.0.1");
    let api = format!(r#"{{"api_url":"{url}/patroni","pgherd":"0.1.0"}}"#);
    peers.follow(cluster(&[("members/pg-0", &api)]).members());
    let message = pgherd_core::peer::PeerMessage::AskPledge { ballot: pgherd_core::Revision(7) };
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        assert!(std::time::Instant::now() < until, "nothing was heard");
        peers.send(&node("pg-0"), message.clone());
        let pause = Duration::from_millis(10);
        if let Ok(event) = tokio::time::timeout(pause, here.events.recv()).await {
            let heard = matches!(event, Some(Event::Peer { from, .. }) if from == node("pg-1"));
            assert!(heard);
            break;
        }
    }
    task.abort();
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let missing = RestTls { certfile: Path::new("/nowhere").to_owned(), ..RestTls::default() };
    assert_eq!(tls::server(&missing).unwrap_err().to_string(), "/nowhere can't be read");
    let Some(authority) = Authority::new() else { return };
    let mut swapped = authority.server(VerifyClient::None).tls.unwrap();
    swapped.keyfile = Some(authority.path("client.key"));
    assert!(tls::server(&swapped).unwrap_err().to_string().ends_with("can't be used for TLS"));
    swapped.keyfile = Some(authority.path("ca.pem"));
    let words = tls::server(&swapped).unwrap_err().to_string();
    assert!(words.ends_with("holds no private key in PEM form"), "{words}");
}

#[test]
fn an_encrypted_key_needs_its_password() {
    let Some(authority) = Authority::new() else { return };
    authority.openssl(&[
        "pkcs8",
        "-topk8",
        "-in",
        "server.key",
        "-out",
        "locked.key",
        "-passout",
        "pass:tiger",
    ]);
    let open = |password: Option<&str>| {
        let mut files = authority.server(VerifyClient::None).tls.unwrap();
        files.keyfile = Some(authority.path("locked.key"));
        files.keyfile_password = password.map(Secret::new);
        tls::server(&files).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(open(Some("tiger")), Ok(()));
    assert!(open(Some("lion")).unwrap_err().contains("can't be decrypted"));
    assert!(open(None).unwrap_err().ends_with("its password is not set (keyfile_password)"));
}
