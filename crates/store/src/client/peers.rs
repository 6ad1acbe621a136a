//! The members as a peer tells them: `GET /members` at the port where etcd's members talk to each
//! other. For domains whose SRV records name only these. Leaves who is asked to `srv`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::Endpoint;
use super::tls::Tls;
use crate::error::with_causes;

const LIMIT: Duration = Duration::from_secs(2);
/// A member is some 200 bytes.
const LONGEST: usize = 1 << 20;

/// Where clients reach the members that this peer knows; why not, in words.
pub(crate) async fn client_endpoints(peer: &Endpoint, tls: &Tls) -> Result<Vec<Endpoint>, String> {
    match timeout(LIMIT, get(peer, tls)).await {
        Ok(body) => Ok(read(&body?)?),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
}

/// Its certificate has to be good, as everybody's: whom it names will get our password.
async fn get(peer: &Endpoint, tls: &Tls) -> Result<Bytes, String> {
    let stream = peer.open(tls).await.map_err(|obstacle| obstacle.to_string())?;
    let broken = |error: hyper::Error| with_causes(&error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = http::Request::get("/members")
        .header(http::header::HOST, peer.authority())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    // One task for both: whoever gives up the question gives up the connection with it.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection may be the end of the answer.
        _ = &mut connection => answer.await,
    }
}

fn read(body: &[u8]) -> Result<Vec<Endpoint>, String> {
    let wrong = || "its answer is not etcd's list of members".to_owned();
    let members: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
    let members = members.as_array().ok_or_else(wrong)?;
    let voting = members.iter().filter(|member| member["isLearner"] != Value::Bool(true));
    let urls = voting.filter_map(|member| member["clientURLs"].as_array()).flatten();
    Ok(urls.filter_map(|url| url.as_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voting_members_with_addresses() {
        let body =
            br#"[{"id":1,"peerURLs":["http://a:2380"],"name":"a","clientURLs":["http://a:2379"]},
            {"id":2,"isLearner":true,"clientURLs":["http://b:2379"]},{"id":3,"name":""},
            {"id":4,"clientURLs":["nonsense","https://c:2379"]}]"#;
        let found = read(body).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["http://a:2379", "https://c:2379"]);
        for other in ["", "{}", "<html>"] {
            assert!(read(other.as_bytes()).is_err(), "{other}");
        }
    }
}
