//! The embedded server as a process of its own, so that it can be killed and stopped: this test
//! binary starts itself again with one test, which serves when a variable tells it where.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pgherd_store::embedded::{Listen, Server};
use pgherd_store::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};

const DIR: &str = "PGHERD_STORE_TEST_DIR";
const ADDRESS: &str = "PGHERD_STORE_TEST_ADDRESS";

#[tokio::test]
async fn serve_when_asked() {
    let (Ok(dir), Ok(address)) = (std::env::var(DIR), std::env::var(ADDRESS)) else { return };
    let server = Server::open(dir).unwrap();
    let listen = Listen::tcp(address.parse().unwrap()).await.unwrap();
    println!("\nserving {}", listen.tcp_address().unwrap());
    server.run(listen, std::future::pending()).await.unwrap();
}

pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Process {
    pub fn start(dir: &Path, address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::serve_when_asked", "--nocapture"])
            .env(DIR, dir)
            .env(ADDRESS, address)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("serving ").map(str::to_owned))
            .expect("the child serves");
        Self { child, address: address.parse().unwrap() }
    }

    pub fn client(&self) -> Client {
        Client::new(Options::new(vec![self.address.to_string().parse().unwrap()]))
    }

    pub fn signal(&self, signal: Signal) {
        signal_child(&self.child, signal);
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn signal_child(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
