//! Frames, and who may open a stream.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use http::HeaderMap;
use pgherd_api::Secret;
use pgherd_core::NodeName;
use pgherd_core::Revision;
use pgherd_core::peer::{PeerMessage, PledgeAnswer, PledgeRefusal};

use super::incoming::Admission;
use super::{Identity, NODE_HEADER, PROTOCOL, SCOPE_HEADER, SECRET_HEADER, frame};

fn identity(secret: Option<&str>) -> Identity {
    Identity {
        name: NodeName::new("pg-0").unwrap(),
        scope: "demo".to_owned(),
        secret: secret.map(Secret::new),
        login: None,
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    pairs.collect()
}

#[tokio::test]
async fn frames_come_back_as_they_were() {
    let messages = [
        PeerMessage::AskPledge { ballot: Revision(7) },
        PeerMessage::Pledge {
            ballot: Revision(u64::MAX),
            answer: PledgeAnswer::Refused(PledgeRefusal::HearsLeader),
        },
    ];
    let mut stream = Vec::new();
    for message in &messages {
        frame::write(&mut stream, message).await.unwrap();
    }
    let mut rest = stream.as_slice();
    for message in &messages {
        assert_eq!(frame::read(&mut rest).await.unwrap(), *message);
    }
    assert!(matches!(frame::read(&mut rest).await, Err(frame::FrameError::Io(_))));
}

#[tokio::test]
async fn frames_that_no_peer_sends_end_the_stream() {
    let mut long = &b"\x00\x01\x00\x01{}"[..];
    assert!(matches!(frame::read(&mut long).await, Err(frame::FrameError::TooLong(65_537))));
    let mut other = &b"\x00\x00\x00\x02{}"[..];
    assert!(matches!(frame::read(&mut other).await, Err(frame::FrameError::Format(_))));
}

#[test]
fn a_stream_needs_the_secret_the_scope_and_another_name() {
    let good = [
        ("upgrade", PROTOCOL),
        (SECRET_HEADER, "tiger"),
        (SCOPE_HEADER, "demo"),
        (NODE_HEADER, "pg-1"),
    ];
    let judge = |changed: usize, to: &'static str| {
        let mut pairs = good;
        if let Some(pair) = pairs.get_mut(changed) {
            pair.1 = to;
        }
        Admission::judge(&identity(Some("tiger")), &headers(&pairs))
    };
    assert_eq!(judge(9, ""), Admission::Welcome(NodeName::new("pg-1").unwrap()));
    assert_eq!(judge(0, "websocket"), Admission::NotAnUpgrade);
    assert_eq!(judge(1, "lion"), Admission::Unproved);
    assert_eq!(judge(2, "other"), Admission::Stranger);
    assert_eq!(judge(3, "pg-0"), Admission::Stranger);
    assert_eq!(judge(3, "-"), Admission::Stranger);
    let none = headers(&[("upgrade", PROTOCOL)]);
    assert_eq!(Admission::judge(&identity(Some("tiger")), &none), Admission::Unproved);
}
