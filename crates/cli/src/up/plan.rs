//! What `up` is going to run, from flags, marker and the state of ports: pure, all mistakes at once.
//! Leaves looking at the machine to `check`.

use super::layout::{Marker, NodePorts};
use crate::args::{Mode, UpArgs};
use crate::settings::problem::Problem;

const WRITE_PORT: u16 = 5432;
const READ_PORT: u16 = 5433;
const HTTP_PORT: u16 = 7000;
/// Where the search for nodes' ports begins.
const POSTGRES_PORTS: u16 = 5442;
const REST_PORTS: u16 = 8008;

/// What the flags say; absent ones are the cluster's or the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) nodes: Option<u8>,
    pub(crate) write_port: Option<u16>,
    pub(crate) read_port: Option<u16>,
    pub(crate) http_port: Option<u16>,
    pub(crate) mode: Option<Mode>,
    pub(crate) name: Option<String>,
}

impl From<&UpArgs> for Wanted {
    fn from(args: &UpArgs) -> Self {
        Self {
            nodes: args.nodes,
            write_port: args.write_port,
            read_port: args.read_port,
            http_port: args.http_port,
            mode: args.mode,
            name: args.name.clone(),
        }
    }
}

/// What is known of ports.
pub(crate) trait Ports {
    /// Somebody listens there.
    fn taken(&self, port: u16) -> bool;
    /// This node's own PostgreSQL lives on from an earlier run, and listens on its port.
    fn own_postgres(&self, node: &str) -> bool;
}

/// The cluster as it will run. `existing` is the marker of an earlier run.
pub(crate) fn plan(
    wanted: &Wanted,
    existing: Option<&Marker>,
    created: &str,
    ports: &impl Ports,
) -> Result<Marker, Vec<Problem>> {
    let mut problems = Vec::new();
    if let Some(existing) = existing {
        contradictions(wanted, existing, &mut problems);
    }
    if let Some(name) = &wanted.name
        && crate::settings::parse::key_part(name).is_err()
    {
        let words = format!("expected a name without blanks and slashes, found '{name}'");
        problems.push(Problem::error(None, "--name", words));
    }
    let or = |wanted: Option<u16>, known: Option<u16>, default| wanted.or(known).unwrap_or(default);
    let write_port = or(wanted.write_port, existing.map(|m| m.write_port), WRITE_PORT);
    let read_port = or(wanted.read_port, existing.map(|m| m.read_port), READ_PORT);
    let http_port = or(wanted.http_port, existing.map(|m| m.http_port), HTTP_PORT);
    let services =
        [("--write-port", write_port), ("--read-port", read_port), ("--http-port", http_port)];
    check_services(&services, ports, &mut problems);
    let mut used = services.map(|(_, port)| port).to_vec();
    let nodes = match existing {
        Some(existing) => keep_nodes(&existing.nodes, ports, &mut used),
        None => new_nodes(wanted.nodes.unwrap_or(3), ports, &mut used),
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Marker {
        version: Marker::VERSION,
        scope: existing
            .map(|m| m.scope.clone())
            .or_else(|| wanted.name.clone())
            .unwrap_or_else(|| "pgherd".to_owned()),
        mode: existing.map(|m| m.mode).or(wanted.mode).unwrap_or(Mode::Quorum),
        write_port,
        read_port,
        http_port,
        nodes,
        created: existing.map_or_else(|| created.to_owned(), |m| m.created.clone()),
    })
}

fn contradictions(wanted: &Wanted, existing: &Marker, problems: &mut Vec<Problem>) {
    let have = existing.nodes.len();
    if let Some(nodes) = wanted.nodes.filter(|n| usize::from(*n) != have) {
        let words = format!(
            "the cluster in this directory has {have} nodes, and {nodes} were asked for; leave \
             --nodes out, or make another cluster with --dir"
        );
        problems.push(Problem::error(None, "--nodes", words));
    }
    if let Some(mode) = wanted.mode.filter(|mode| *mode != existing.mode) {
        let words = format!(
            "the cluster in this directory was made with '{}'; start it without --mode and change \
             it with 'pgherd ctl edit-config -s synchronous_mode={}'",
            existing.mode.word(),
            mode.setting()
        );
        problems.push(Problem::error(None, "--mode", words));
    }
    if let Some(name) = wanted.name.as_ref().filter(|name| **name != existing.scope) {
        let words = format!(
            "the cluster in this directory is called '{}', not '{name}'; leave --name out, or \
             make another cluster with --dir",
            existing.scope
        );
        problems.push(Problem::error(None, "--name", words));
    }
}

fn check_services(
    services: &[(&'static str, u16); 3],
    ports: &impl Ports,
    problems: &mut Vec<Problem>,
) {
    for (index, (flag, port)) in services.iter().enumerate() {
        if let Some((other, _)) = services[..index].iter().find(|(_, p)| p == port) {
            let words = format!("port {port} is given to {other} already; choose another");
            problems.push(Problem::error(None, *flag, words));
        } else if ports.taken(*port) {
            let words = format!(
                "port {port} is taken; `ss -ltnp 'sport = :{port}'` shows by whom: stop that, or \
                 choose another port"
            );
            problems.push(Problem::error(None, *flag, words));
        }
    }
}

fn new_nodes(count: u8, ports: &impl Ports, used: &mut Vec<u16>) -> Vec<NodePorts> {
    let node = |number| NodePorts {
        name: format!("node{number}"),
        postgres: free(POSTGRES_PORTS, ports, used),
        rest: free(REST_PORTS, ports, used),
    };
    (1..=count).map(node).collect()
}

/// Nodes keep their ports; one that somebody else has taken meanwhile is replaced.
fn keep_nodes(known: &[NodePorts], ports: &impl Ports, used: &mut Vec<u16>) -> Vec<NodePorts> {
    let all: Vec<u16> = known.iter().flat_map(|n| [n.postgres, n.rest]).collect();
    let services = used.clone();
    used.extend(all);
    let node = |node: &NodePorts| {
        let lost = |port| services.contains(&port) || ports.taken(port);
        let keep = !lost(node.postgres) || ports.own_postgres(&node.name);
        NodePorts {
            name: node.name.clone(),
            postgres: if keep { node.postgres } else { free(POSTGRES_PORTS, ports, used) },
            rest: if lost(node.rest) { free(REST_PORTS, ports, used) } else { node.rest },
        }
    };
    known.iter().map(node).collect()
}

/// The first port from `from` on that nobody has.
fn free(from: u16, ports: &impl Ports, used: &mut Vec<u16>) -> u16 {
    let port = (from..u16::MAX).find(|p| !used.contains(p) && !ports.taken(*p)).unwrap_or(from);
    used.push(port);
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        taken: Vec<u16>,
        own: Vec<&'static str>,
    }

    impl Ports for Fake {
        fn taken(&self, port: u16) -> bool {
            self.taken.contains(&port)
        }
        fn own_postgres(&self, node: &str) -> bool {
            self.own.contains(&node)
        }
    }

    fn free_machine() -> Fake {
        Fake { taken: Vec::new(), own: Vec::new() }
    }

    fn words(result: Result<Marker, Vec<Problem>>) -> Vec<String> {
        result.unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_cluster_takes_free_ports() {
        let ports = Fake { taken: vec![5443, 8008], own: Vec::new() };
        let marker = plan(&Wanted::default(), None, "now", &ports).unwrap();
        assert_eq!(marker.nodes.iter().map(|n| n.postgres).collect::<Vec<_>>(), [5442, 5444, 5445]);
        assert_eq!(marker.nodes.iter().map(|n| n.rest).collect::<Vec<_>>(), [8009, 8010, 8011]);
        assert_eq!((marker.scope.as_str(), marker.mode), ("pgherd", Mode::Quorum));
    }

    #[test]
    fn every_taken_or_doubled_port_is_named() {
        let ports = Fake { taken: vec![5432], own: Vec::new() };
        let wanted = Wanted { http_port: Some(5433), ..Wanted::default() };
        let said = words(plan(&wanted, None, "now", &ports));
        assert!(said[0].starts_with("--write-port: port 5432 is taken; `ss -ltnp"), "{said:?}");
        assert!(said[1].starts_with("--http-port: port 5433 is given to --read-port"), "{said:?}");
    }

    #[test]
    fn a_cluster_keeps_what_it_is() {
        let made = plan(&Wanted::default(), None, "then", &free_machine()).unwrap();
        let again = plan(&Wanted::default(), Some(&made), "now", &free_machine()).unwrap();
        assert_eq!(made, again);
        let wanted = Wanted {
            nodes: Some(5),
            mode: Some(Mode::Async),
            name: Some("x".into()),
            ..Wanted::default()
        };
        let said = words(plan(&wanted, Some(&made), "now", &free_machine()));
        assert!(said[0].contains("has 3 nodes, and 5"), "{said:?}");
        assert!(said[1].contains("edit-config -s synchronous_mode=off"), "{said:?}");
        assert!(said[2].contains("called 'pgherd', not 'x'"), "{said:?}");
        let moved = Wanted { write_port: Some(6000), ..Wanted::default() };
        let marker = plan(&moved, Some(&made), "now", &free_machine()).unwrap();
        assert_eq!((marker.write_port, marker.read_port), (6000, 5433));
    }

    #[test]
    fn a_nodes_port_moves_only_when_a_stranger_has_it() {
        let made = plan(&Wanted::default(), None, "then", &free_machine()).unwrap();
        let ports = Fake { taken: vec![5442, 5443], own: vec!["node1"] };
        let marker = plan(&Wanted::default(), Some(&made), "now", &ports).unwrap();
        assert_eq!(marker.nodes[0].postgres, 5442);
        assert_eq!(marker.nodes[1].postgres, 5445);
    }
}
