//! The client against a server of a few lines.

use std::time::Duration;

use http::Method;
use pgherd_api::{Client, ClientError, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers one request with `answer` and returns what was asked.
async fn serve_once(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let n = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..n]).into_owned()
    });
    (url, task)
}

#[tokio::test]
async fn an_answer_without_length_ends_with_the_connection() {
    let (url, task) = serve_once("HTTP/1.0 503 Service Unavailable\r\n\r\nno").await;
    let client = Client::new(Duration::from_secs(2)).with_auth("admin", Secret::new("tiger"));
    let body = serde_json::json!({"leader": "a"});
    let response = client.request(Method::POST, &url, Some(&body)).await.unwrap();
    assert_eq!((response.status.as_u16(), response.text()), (503, "no".to_owned()));
    let asked = task.await.unwrap();
    assert!(asked.starts_with("POST /patroni HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Basic YWRtaW46dGlnZXI="), "{asked}");
    assert!(asked.ends_with(r#"{"leader":"a"}"#), "{asked}");
}

#[tokio::test]
async fn silence_and_absence_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let client = Client::new(Duration::from_millis(50));
    let silent = client.request(Method::GET, &url, None).await.unwrap_err();
    assert!(matches!(silent, ClientError::TimedOut { .. }), "{silent}");
    drop(listener);
    let absent = client.request(Method::GET, &url, None).await.unwrap_err();
    assert!(matches!(absent, ClientError::Connect { .. }), "{absent}");
    let wrong = client.request(Method::GET, "ftp://x", None).await.unwrap_err();
    assert!(matches!(wrong, ClientError::Address(_)), "{wrong}");
}
