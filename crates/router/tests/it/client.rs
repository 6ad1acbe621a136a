//! A client that speaks PostgreSQL's start-up, byte by byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::soon;

pub(crate) const CANCEL: u32 = 80_877_102;
pub(crate) const SSL: u32 = 80_877_103;
pub(crate) const GSS: u32 = 80_877_104;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

/// What a login told.
#[derive(Debug)]
pub(crate) struct Login {
    /// The backend's name.
    pub(crate) server: String,
    pub(crate) key: Vec<u8>,
}

/// What an ErrorResponse says.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn request(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + rest.len()).unwrap();
    [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
}

pub(crate) fn startup(user: &str) -> Vec<u8> {
    request(0x0003_0000, format!("user\0{user}\0\0").as_bytes())
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// Connects and starts up as `user`.
    pub(crate) async fn start(address: SocketAddr, user: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.send(&startup(user)).await;
        client
    }

    /// Connects, starts up, and waits for the login.
    pub(crate) async fn login(address: SocketAddr) -> (Self, Login) {
        let mut client = Self::start(address, "echo").await;
        let login = client.logged_in().await;
        (client, login)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon("a write", self.stream.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn byte(&mut self) -> u8 {
        soon("an answer", self.stream.read_u8()).await.unwrap()
    }

    pub(crate) async fn message(&mut self) -> (u8, Vec<u8>) {
        let kind = self.byte().await;
        let length = soon("a length", self.stream.read_u32()).await.unwrap();
        let mut body = vec![0; length as usize - 4];
        soon("a message", self.stream.read_exact(&mut body)).await.unwrap();
        (kind, body)
    }

    pub(crate) async fn logged_in(&mut self) -> Login {
        let mut login = Login { server: String::new(), key: Vec::new() };
        loop {
            let (kind, body) = self.message().await;
            match kind {
                b'S' => {
                    let text = String::from_utf8(body).unwrap();
                    login.server = text.split('\0').nth(1).unwrap().into();
                }
                b'K' => login.key = body,
                b'Z' => return login,
                b'E' => panic!("refused: {:?}", fields(&body)),
                _ => {}
            }
        }
    }

    /// Expects a FATAL error and then the end.
    pub(crate) async fn refused(&mut self) -> Refused {
        let (kind, body) = self.message().await;
        assert_eq!(char::from(kind), 'E');
        self.ended().await;
        fields(&body)
    }

    /// Expects an orderly end of the stream, and nothing before it.
    pub(crate) async fn ended(&mut self) {
        let mut rest = Vec::new();
        soon("the end", self.stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"", "bytes before the end");
    }

    /// Sends something and expects it back.
    pub(crate) async fn echo(&mut self, text: &str) {
        self.send(text.as_bytes()).await;
        self.reads(text).await;
    }

    /// Expects what was sent before.
    pub(crate) async fn reads(&mut self, text: &str) {
        let mut back = vec![0; text.len()];
        soon("an echo", self.stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, text.as_bytes());
    }
}

fn fields(body: &[u8]) -> Refused {
    let field = |code: u8| {
        let found = body.split(|b| *b == 0).find(|field| field.first() == Some(&code));
        String::from_utf8(found.map_or(&[][..], |field| &field[1..]).to_vec()).unwrap()
    };
    Refused { severity: field(b'S'), sqlstate: field(b'C'), message: field(b'M') }
}
