//! A router whose topology is typed: for looking at the dashboard, and for measuring the relay
//! without a cluster.
//!
//!     cargo run -p pgherd-router --example by_hand -- node1=127.0.0.1:5501 node2=127.0.0.1:5502
//!
//! Then type the name of a member to make it the leader, `none` to take the leader key away,
//! `lag NAME BYTES`, `stop NAME`, `pause`, `stale`. It listens on 127.0.0.1: 6432, 6433 and 7000.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pgherd_core::types::{Lsn, NodeName, Term, Timeline};
use pgherd_router::{
    HostPort, LeaderRoute, MemberRoute, Role, Router, RouterConfig, SyncRole, Topology, boottime,
};
use tokio::sync::{mpsc, watch};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let members: Vec<MemberRoute> =
        std::env::args().skip(1).map(|arg| member(&arg)).collect::<Result<_, _>>()?;
    let topology = Topology {
        cluster: "by-hand".into(),
        revision: 1,
        fresh_at: Some(boottime()),
        members,
        max_lag: 1 << 20,
        sync_mode: "quorum".into(),
        ..Topology::default()
    };
    let at = |port| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    let config =
        RouterConfig { write: at(6432), read: at(6433), http: at(7000), ..RouterConfig::default() };
    let sender = watch::Sender::new(Arc::new(topology));
    let router = Router::start(config, sender.subscribe())?;
    println!("{:?}", router.local_addrs());
    // One line at a time is all that a person types.
    let (typed, mut lines) = mpsc::channel::<String>(1);
    // Ends with the process: nothing can interrupt a read of the terminal.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut confirm = tokio::time::interval(Duration::from_millis(500));
    let mut stale = false;
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) if line == "stale" => stale = !stale,
                Some(line) => sender.send_modify(|topology| type_in(Arc::make_mut(topology), &line)),
                None => break,
            },
            _ = confirm.tick(), if !stale => {
                sender.send_modify(|topology| Arc::make_mut(topology).fresh_at = Some(boottime()));
            }
        }
    }
    router.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn member(arg: &str) -> Result<MemberRoute, Box<dyn Error>> {
    let (name, address) = arg.split_once('=').ok_or("expected NAME=HOST:PORT")?;
    let (host, port) = address.rsplit_once(':').ok_or("expected NAME=HOST:PORT")?;
    Ok(MemberRoute {
        name: NodeName::new(name)?,
        address: HostPort::new(host, port.parse()?),
        role: Role::Replica,
        state: "running".into(),
        streaming: false,
        timeline: Some(Timeline(1)),
        lsn: Some(Lsn(0x300_0060)),
        lag_bytes: None,
        noloadbalance: false,
        api_url: None,
        sync: SyncRole::None,
    })
}

fn type_in(topology: &mut Topology, line: &str) {
    topology.revision += 1;
    let words: Vec<&str> = line.split_whitespace().collect();
    let find = |members: &[MemberRoute], name: &str| {
        members.iter().position(|member| member.name.as_str() == name)
    };
    match words[..] {
        ["none"] => topology.leader = None,
        ["pause"] => topology.paused = !topology.paused,
        ["note", ..] => topology.notes.push(words[1..].join(" ")),
        ["lag", name, bytes] => {
            if let Some(i) = find(&topology.members, name) {
                topology.members[i].lag_bytes = bytes.parse().ok();
            }
        }
        ["stop", name] => {
            if let Some(i) = find(&topology.members, name) {
                topology.members[i].state = "stopped".into();
                topology.members[i].streaming = false;
            }
        }
        [name] if find(&topology.members, name).is_some() => lead(topology, name),
        _ => eprintln!("a member's name, none, pause, stale, lag NAME BYTES, stop NAME, note TEXT"),
    }
}

fn lead(topology: &mut Topology, name: &str) {
    let timeline = Timeline(u32::try_from(topology.revision).unwrap_or(1));
    for member in &mut topology.members {
        let leads = member.name.as_str() == name;
        member.role = if leads { Role::Leader } else { Role::Replica };
        member.state = if leads { "running" } else { "streaming" }.into();
        member.streaming = !leads;
        member.timeline = Some(timeline);
        member.lag_bytes = (!leads).then_some(0);
        member.sync = if leads { SyncRole::None } else { SyncRole::Quorum };
        if leads {
            topology.leader = Some(LeaderRoute {
                confirmed_until: None,
                name: member.name.clone(),
                term: Term(topology.revision),
                serving: true,
                address: member.address.clone(),
            });
        }
    }
}
