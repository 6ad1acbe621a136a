//! A fake PostgreSQL: answers requests for encryption, logs everybody in, says its name, and then
//! does what the user's name asks for: echo (the default), `flood`, or nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::{SSL, message};

pub(crate) const FLOOD_LEN: usize = 8 << 20;
pub(crate) const LAST_WORD: &[u8] = b"bye";

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    _task: JoinSet<()>,
}

/// What a backend saw.
#[derive(Default)]
pub(crate) struct Seen {
    name: String,
    /// The byte that answers SSLRequest.
    pub(crate) ssl_answer: AtomicU8,
    pub(crate) secret_len: AtomicUsize,
    pub(crate) logins: AtomicUsize,
    pub(crate) live: AtomicUsize,
    pub(crate) requests: Mutex<Vec<u32>>,
    pub(crate) cancels: Mutex<Vec<Vec<u8>>>,
    next_pid: AtomicU32,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            name: name.into(),
            ssl_answer: AtomicU8::new(b'N'),
            secret_len: AtomicUsize::new(4),
            next_pid: AtomicU32::new(u32::from(address.port()) << 8),
            ..Seen::default()
        });
        let mut task = JoinSet::new();
        let shared = Arc::clone(&seen);
        task.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(serve(Arc::clone(&shared), stream));
            }
        });
        Self { address, seen, _task: task }
    }

    pub(crate) fn logins(&self) -> usize {
        self.seen.logins.load(SeqCst)
    }

    pub(crate) fn live(&self) -> usize {
        self.seen.live.load(SeqCst)
    }

    pub(crate) fn cancels(&self) -> Vec<Vec<u8>> {
        self.seen.cancels.lock().unwrap().clone()
    }
}

async fn serve(seen: Arc<Seen>, mut stream: TcpStream) {
    let Some(startup) = head(&seen, &mut stream).await else { return };
    seen.logins.fetch_add(1, SeqCst);
    seen.live.fetch_add(1, SeqCst);
    let _ = session(&seen, &mut stream, &startup).await;
    seen.live.fetch_sub(1, SeqCst);
}

/// Reads up to the start-up packet; `None` when it was a cancel request or nothing.
async fn head(seen: &Seen, stream: &mut TcpStream) -> Option<Vec<u8>> {
    loop {
        let length = stream.read_u32().await.ok()?;
        let mut packet = vec![0; length as usize - 4];
        stream.read_exact(&mut packet).await.ok()?;
        let code = u32::from_be_bytes(packet[..4].try_into().unwrap());
        match code {
            80_877_103 | 80_877_104 => {
                seen.requests.lock().unwrap().push(code);
                let answer = if code == SSL { seen.ssl_answer.load(SeqCst) } else { b'N' };
                stream.write_all(&[answer]).await.ok()?;
                if answer != b'N' {
                    // What follows is "encrypted": the session begins with whatever comes.
                    return Some(Vec::new());
                }
            }
            80_877_102 => {
                seen.cancels.lock().unwrap().push(packet[4..].to_vec());
                return None;
            }
            _ => return Some(packet),
        }
    }
}

async fn session(seen: &Seen, stream: &mut TcpStream, startup: &[u8]) -> std::io::Result<()> {
    if !startup.is_empty() {
        let pid = seen.next_pid.fetch_add(1, SeqCst);
        let mut key = pid.to_be_bytes().to_vec();
        key.resize(4 + seen.secret_len.load(SeqCst), pid as u8);
        let mut login = message(b'R', &[0; 4]);
        login.extend(message(b'S', format!("backend\0{}\0", seen.name).as_bytes()));
        login.extend(message(b'K', &key));
        login.extend(message(b'Z', b"I"));
        stream.write_all(&login).await?;
    }
    if startup.windows(5).any(|w| w == b"flood") {
        let flood: Vec<u8> = (0..FLOOD_LEN).map(|i| (i / 7) as u8).collect();
        return stream.write_all(&flood).await;
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.write_all(LAST_WORD).await,
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}
