//! A nameserver for tests: SRV records over UDP and TCP, told what to answer while it runs. Its bytes
//! are put together by hand, so that the client's library is not tested against itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Priority, weight, port and target of a record.
pub type Record = (u16, u16, u16, &'static str);

/// What a name is answered with; names that are not mentioned don't exist.
#[derive(Clone)]
pub enum Answer {
    Records(Vec<Record>),
    /// It is another name for this one, which is answered too.
    Alias(&'static str, Vec<Record>),
    Servfail,
    Silence,
}

#[derive(Default)]
struct Zone {
    answers: BTreeMap<String, Answer>,
    /// Does not know EDNS and says so.
    old: bool,
    asked: Vec<String>,
}

pub struct Nameserver {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
}

impl Nameserver {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Self {
        // The UDP port of a free TCP port is free, unless somebody takes it just now.
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind(address).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let zone = Arc::<Mutex<Zone>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(udp, zone.clone()));
        tasks.spawn(over_tcp(tcp, zone.clone()));
        Self { address, zone, _tasks: tasks }
    }

    pub fn say(&self, name: &str, answer: Answer) {
        self.zone.lock().unwrap().answers.insert(name.to_owned(), answer);
    }

    pub fn forget(&self, name: &str) {
        self.zone.lock().unwrap().answers.remove(name);
    }

    pub fn grow_old(&self) {
        self.zone.lock().unwrap().old = true;
    }

    /// The names that were asked for, each with how: `udp` or `tcp`.
    pub fn asked(&self) -> Vec<String> {
        self.zone.lock().unwrap().asked.clone()
    }
}

async fn over_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { return };
        let question = Question::read(&buffer[..length]);
        let most = question.payload.unwrap_or(512);
        let Some(mut answer) = zone.lock().unwrap().answer("udp", &question) else { continue };
        if answer.len() > usize::from(most) {
            // Cut off behind the question, and says so.
            answer.truncate(12 + question.bytes.len());
            answer[2] |= 0x02;
            answer[7] = 0;
        }
        let _ = socket.send_to(&answer, from).await;
    }
}

async fn over_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    let mut clients = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        clients.spawn(serve(stream, zone.clone()));
    }
}

async fn serve(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await.unwrap();
        let answer = zone.lock().unwrap().answer("tcp", &Question::read(&message));
        let Some(answer) = answer else { continue };
        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

struct Question {
    id: [u8; 2],
    /// Name, type and class, as they came.
    bytes: Vec<u8>,
    name: String,
    /// What its sender takes over UDP, when it knows EDNS.
    payload: Option<u16>,
}

impl Question {
    fn read(message: &[u8]) -> Self {
        let (mut at, mut labels) = (12, Vec::new());
        while message[at] != 0 {
            let end = at + 1 + usize::from(message[at]);
            labels.push(String::from_utf8(message[at + 1..end].to_vec()).unwrap());
            at = end;
        }
        let end = at + 5;
        assert_eq!(message[at + 1..end], [0, 33, 0, 1], "only SRV is asked for");
        assert_eq!(message[2] & 0x01, 1, "recursion is desired");
        // An OPT record: the root's name, type 41, and the size where the class is.
        let payload = message
            .get(end..end + 5)
            .filter(|option| option[..3] == [0, 0, 41])
            .map(|option| u16::from_be_bytes([option[3], option[4]]));
        let id = [message[0], message[1]];
        Self { id, bytes: message[12..end].to_vec(), name: labels.join("."), payload }
    }
}

impl Zone {
    fn answer(&mut self, how: &str, question: &Question) -> Option<Vec<u8>> {
        self.asked.push(format!("{how} {}", question.name));
        let answer = self.answers.get(&question.name).cloned();
        let (code, records) = match answer {
            _ if self.old && question.payload.is_some() => (1, Vec::new()),
            Some(Answer::Silence) => return None,
            Some(Answer::Servfail) => (2, Vec::new()),
            Some(Answer::Records(services)) => (0, records(&[0xc0, 12], &services)),
            Some(Answer::Alias(target, services)) => {
                let target = name(target);
                let mut all = vec![record(&[0xc0, 12], 5, &target)];
                all.extend(records(&target, &services));
                (0, all)
            }
            None => (3, Vec::new()),
        };
        let count = u8::try_from(records.len()).unwrap();
        let head = [question.id[0], question.id[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        Some([&head[..], &question.bytes, &records.concat()].concat())
    }
}

fn records(owner: &[u8], services: &[Record]) -> Vec<Vec<u8>> {
    let of = |(priority, weight, port, target): &Record| {
        let numbers = [priority, weight, port].map(|number| number.to_be_bytes()).concat();
        record(owner, 33, &[numbers, name(target)].concat())
    };
    services.iter().map(of).collect()
}

fn record(owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    [owner, &[0, kind, 0, 1, 0, 0, 0, 0], &length, data].concat()
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}
