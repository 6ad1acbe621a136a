//! The Prometheus text of the status. The names are an interface.

use std::fmt::Write as _;

use super::status::{MemberPort, Status};
use crate::table::Port;

/// One page of metrics.
pub(crate) fn text(status: &Status) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    router(&mut page, status);
    ports(&mut page, status);
    members(&mut page, status);
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP pgherd_router_{name} {help}");
        let _ = writeln!(self.0, "# TYPE pgherd_router_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.0, "pgherd_router_{name}");
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// Prometheus' numbers are floats; counters beyond 2^53 lose their last digits there anyway.
fn float(n: u64) -> f64 {
    n as f64
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn router(page: &mut Page, status: &Status) {
    let router = &status.router;
    page.family("info", "gauge", "The router and the cluster that it serves.");
    page.sample("info", &[("version", router.version), ("cluster", &status.cluster)], 1.0);
    let started = router.started_at.as_second();
    let started = float(u64::try_from(started).unwrap_or(0));
    for (name, kind, help, value) in [
        ("start_time_seconds", "gauge", "When the router started.", started),
        ("has_primary", "gauge", "Whether writes have a route.", truth(status.write.total.routed)),
        (
            "term",
            "gauge",
            "The leader's term; 0 without a leader.",
            status.leader.as_ref().map_or(0.0, |leader| float(leader.term.0)),
        ),
        ("view_stale", "gauge", "Whether the view is too old.", truth(status.freshness.stale)),
        (
            "view_age_seconds",
            "gauge",
            "Time since the view was confirmed; NaN when never.",
            status.freshness.age_seconds.unwrap_or(f64::NAN),
        ),
        ("connections", "gauge", "Connections, waiting ones included.", usize(router.connections)),
        ("connections_limit", "gauge", "max_connections.", usize(router.max_connections)),
        (
            "leader_changes_total",
            "counter",
            "Times that another member became leader.",
            float(router.leader_changes_total),
        ),
        (
            "sessions_closed_total",
            "counter",
            "Sessions ended because the cluster changed.",
            float(router.sessions_closed_total),
        ),
        (
            "term_lapses_total",
            "counter",
            "Times that nobody confirmed the leader's term in time, so that nothing passed.",
            float(router.term_lapses_total),
        ),
        (
            "sessions_unconfirmed_total",
            "counter",
            "Write sessions ended because nobody confirmed their term.",
            float(router.sessions_unconfirmed_total),
        ),
        (
            "accept_errors_total",
            "counter",
            "Connections that could not be accepted.",
            float(router.accept_errors_total),
        ),
    ] {
        page.single(name, kind, help, value);
    }
    page.family("cancels_total", "counter", "Cancel requests, by whether their server was known.");
    page.sample("cancels_total", &[("how", "routed")], float(router.cancels_routed_total));
    page.sample("cancels_total", &[("how", "broadcast")], float(router.cancels_broadcast_total));
    page.single(
        "cancels_dropped_total",
        "counter",
        "Cancel requests not delivered, because the backend's commit waits for replicas.",
        float(router.cancels_dropped_total),
    );
}

fn usize(n: usize) -> f64 {
    float(n as u64)
}

fn ports(page: &mut Page, status: &Status) {
    let mut each = |name, kind, help, value: &dyn Fn(Port) -> f64| {
        page.family(name, kind, help);
        for port in Port::ALL {
            page.sample(name, &[("port", port.as_str())], value(port));
        }
    };
    let of = |port| status.port(port);
    each("connections_total", "counter", "Connections accepted.", &|port| {
        float(of(port).connections_total)
    });
    each("held", "gauge", "Connections that wait for a server.", &|port| usize(of(port).held));
    each("held_longest_seconds", "gauge", "How long the oldest of them has waited.", &|port| {
        of(port).held_longest_seconds
    });
    each("held_total", "counter", "Connections that had to wait.", &|port| {
        float(of(port).held_total)
    });
    page.family("refused_total", "counter", "Connections that got no session, by reason.");
    for port in Port::ALL {
        for (reason, n) in &of(port).refused {
            let labels = [("port", port.as_str()), ("reason", *reason)];
            page.sample("refused_total", &labels, float(*n));
        }
    }
}

type Value = fn(&MemberPort) -> f64;

fn members(page: &mut Page, status: &Status) {
    let families: [(&str, &str, &str, Value); 9] = [
        ("routed", "gauge", "Whether new sessions go there.", |m| truth(m.routed)),
        ("sessions", "gauge", "Sessions now.", |m| float(m.sessions)),
        ("sessions_total", "counter", "Sessions so far.", |m| float(m.sessions_total)),
        (
            "sessions_moved_total",
            "counter",
            "Sessions that went on to another server, because this one hadn't answered them.",
            |m| float(m.sessions_moved_total),
        ),
        ("bytes_in_total", "counter", "Bytes from clients.", |m| float(m.bytes_in)),
        ("bytes_out_total", "counter", "Bytes to clients.", |m| float(m.bytes_out)),
        ("connect_errors_total", "counter", "Connects that failed.", |m| {
            float(m.connect_errors_total)
        }),
        ("client_aborts_total", "counter", "Sessions broken off by the client.", |m| {
            float(m.client_aborts_total)
        }),
        ("server_aborts_total", "counter", "Sessions broken off by the server.", |m| {
            float(m.server_aborts_total)
        }),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for member in &status.members {
            for port in Port::ALL {
                let labels = [("port", port.as_str()), ("member", member.name.as_str())];
                page.sample(name, &labels, value(member.port(port)));
            }
        }
    }
    page.family("member_lag_bytes", "gauge", "How far a member lies behind the leader.");
    for member in &status.members {
        if let Some(lag) = member.lag_bytes {
            page.sample("member_lag_bytes", &[("member", member.name.as_str())], float(lag));
        }
    }
}
