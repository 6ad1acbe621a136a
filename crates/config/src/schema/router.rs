//! Keys of a router's file that are not a node's too. Only for documentation: the file is read where
//! the router is started.

use super::Kind::{List, Span, Switch, Text};
use super::{Key, local};

pub(super) const KEYS: &[Key] = &[
    local("scope", Text, "", "The cluster's name, as its agents have it.").required().fixed(),
    local("namespace", Text, "service", "Where the store keeps clusters, as the agents have it.")
        .fixed(),
    local("write", List, "", "Where clients write: addresses like *:5432. This or 'read' is needed.")
        .fixed(),
    local("read", List, "", "Where clients read from replicas, like *:5433.").fixed(),
    local("http", List, "", "Where dashboard, /health and /metrics are, like *:7000.").fixed(),
    local("hold", Span(0), "30", "How long a connection waits for a leader before it is refused.")
        .fixed(),
    local(
        "confirm_within",
        Span(0),
        "1",
        "For how long a word of the store or of the leader's agent for the leader's term counts. \
         Without one, what comes on write sessions is held back, and after twice as long again they \
         are closed. 0: nobody is asked.",
    )
    .fixed(),
    local(
        "keep_sync_waits",
        Switch,
        "on",
        "In synchronous modes a cancel request for a backend whose commit waits for replicas is \
         dropped: PostgreSQL would answer success for a commit that only the leader has.",
    )
    .fixed(),
    local("reads_fall_back", Switch, "on", "Reads go to the primary when no replica is fit.")
        .fixed(),
    local("path_prefix", Text, "", "The path that a proxy in front serves the dashboard under.")
        .fixed(),
];
