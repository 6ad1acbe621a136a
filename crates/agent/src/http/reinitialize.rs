//! `POST /reinitialize` (contract 2.4): a new copy of the leader's data for this node. The copy is
//! always the leader's, so `from_leader` asks for nothing that isn't done anyway.

use http::StatusCode;
use serde_json::{Map, Value};

use super::{Answer, Desk, text};
use crate::event::Event;

pub(super) async fn request(desk: &Desk, body: &Map<String, Value>) -> Answer {
    let refused = |words: String| text(StatusCode::SERVICE_UNAVAILABLE, words);
    let board = desk.board.borrow().clone();
    let view = board.cluster.as_ref().map(|cluster| cluster.view());
    let leader = view.as_ref().and_then(|view| view.leader.as_ref()).map(|leader| &leader.value);
    match leader {
        None => return refused("Cluster has no leader, can not reinitialize".to_owned()),
        Some(leader) if *leader == desk.identity.name => {
            return refused("I am the leader, can not reinitialize".to_owned());
        }
        Some(_) => {}
    }
    let force = body.get("force").and_then(pgherd_api::config::boolean) == Some(true);
    if let Some(busy @ ("clone" | "rewind" | "init")) = board.operation
        && !force
    {
        // Patroni's word for a copy, which its tools look for.
        let busy = if busy == "clone" { "reinitialize" } else { busy };
        return refused(format!("{busy} already in progress"));
    }
    match desk.events.send(Event::Reinitialize { force }).await {
        Ok(()) => text(StatusCode::OK, "reinitialize started"),
        Err(_) => refused("the agent is stopping".to_owned()),
    }
}
