//! The protocol's bytes, byte by byte.
use super::*;

fn request(code: u32) -> Vec<u8> {
    [8u32.to_be_bytes(), code.to_be_bytes()].concat()
}

fn startup(body: usize) -> Vec<u8> {
    let mut packet = u32::try_from(8 + body).unwrap().to_be_bytes().to_vec();
    packet.extend(0x0003_0000u32.to_be_bytes());
    packet.resize(8 + body, b'x');
    packet
}

#[test]
fn heads_are_recognised_only_when_whole() {
    assert_eq!(head(&request(SSL)), Ok(Some((Head::Ssl, 8))));
    assert_eq!(head(&request(GSS)), Ok(Some((Head::Gss, 8))));
    assert_eq!(head(&request(SSL)[..7]), Ok(None));
    assert_eq!(head(&[]), Ok(None));
    assert_eq!(head(&startup(20)), Ok(Some((Head::Startup, 28))));
    assert_eq!(head(&startup(20)[..27]), Ok(None));
    assert_eq!(head(&[0x16, 3, 1]), Ok(Some((Head::DirectTls, 3))));
}

#[test]
fn lengths_are_bounded() {
    assert_eq!(head(&startup(HEAD_MAX - 8)), Ok(Some((Head::Startup, HEAD_MAX))));
    assert_eq!(head(&startup(HEAD_MAX - 7)), Err(HeadError::Length(10_001)));
    assert_eq!(head(&[0, 0, 0, 7]), Err(HeadError::Length(7)));
    assert_eq!(head(b"GET / HTTP/1.1"), Err(HeadError::Length(0x4745_5420)));
}

#[test]
fn nothing_may_stand_behind_a_request_for_encryption() {
    let mut bytes = request(SSL);
    bytes.push(b'x');
    assert_eq!(head(&bytes), Err(HeadError::DataBehindRequest));
}

#[test]
fn cancel_requests_of_both_protocols() {
    for secret in [4usize, 32, 256] {
        let mut bytes = u32::try_from(12 + secret).unwrap().to_be_bytes().to_vec();
        bytes.extend(CANCEL.to_be_bytes());
        bytes.extend(7u32.to_be_bytes());
        bytes.resize(12 + secret, 9);
        assert_eq!(head(&bytes), Ok(Some((Head::Cancel, bytes.len()))));
        assert_eq!(cancel_key(&bytes).len(), 4 + secret);
    }
    let mut short = 12u32.to_be_bytes().to_vec();
    short.extend(CANCEL.to_be_bytes());
    assert_eq!(head(&short), Err(HeadError::CancelLength(12)));
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn the_walk_finds_the_key_whatever_the_chunks() {
    let key: Vec<u8> = (0..36).collect();
    let mut login = message(b'R', &[0, 0, 0, 0]);
    login.extend(message(b'S', b"server_version\x0017\x00"));
    login.extend(message(b'K', &key));
    login.extend(message(b'Z', b"I"));
    for chunk in 1..login.len() {
        let mut walk = LoginWalk::new();
        let mut found = None;
        for part in login.chunks(chunk) {
            assert!(!walk.is_done() || part.len() < 6);
            walk.feed(part);
            found = found.or(walk.take_key());
        }
        assert!(walk.is_done());
        assert_eq!(found.as_ref(), Some(&key), "chunks of {chunk}");
    }
}

#[test]
fn the_walk_gives_up_on_garbage_and_on_endless_keys() {
    let mut walk = LoginWalk::new();
    walk.feed(&[b'R', 0, 0, 0, 3]);
    assert!(walk.is_done());
    let mut walk = LoginWalk::new();
    walk.feed(&message(b'K', &[0; 300]));
    assert_eq!(walk.take_key(), None);
    assert!(!walk.is_done());
}

#[test]
fn an_error_is_an_error_response() {
    let packet = fatal("57P03", "no primary", "");
    assert_eq!(packet[0], b'E');
    assert_eq!(be_u32(&packet, 1), Some(u32::try_from(packet.len() - 1).unwrap()));
    assert!(packet.ends_with(b"SFATAL\0VFATAL\0C57P03\0Mno primary\0\0"));
}
