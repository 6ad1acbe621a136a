//! What Patroni's candidates read of each other's status (contract 2.6, 4.4), for ours that stand
//! beside them. Leaves asking to the shell, and counting to the core.

use pgherd_core::peer::PatroniAnswer;
use pgherd_core::{Lsn, Timeline};
use serde_json::Value;

use crate::config;

/// What a body of `GET /patroni` says. One without positions says that PostgreSQL doesn't answer.
#[must_use]
pub fn answer(body: &Value) -> PatroniAnswer {
    let Some(wal) = body.get("xlog").or_else(|| body.get("wal")) else {
        return PatroniAnswer::Down;
    };
    let lsn = |field: &str| wal.get(field).and_then(Value::as_u64).map(Lsn);
    if lsn("location").is_some() || body.get("role").and_then(Value::as_str) == Some("primary") {
        return PatroniAnswer::Primary;
    }
    let received = lsn("received_location").max(lsn("replayed_location"));
    let timeline = body.get("timeline").and_then(Value::as_u64);
    let flag = |value: Option<&Value>| value.and_then(config::boolean).unwrap_or(false);
    PatroniAnswer::Replica {
        lsn: received.unwrap_or_default(),
        streaming: body.get("replication_state").and_then(Value::as_str) == Some("streaming"),
        timeline: timeline.and_then(|number| u32::try_from(number).ok()).map(Timeline),
        barred: flag(body.get("watchdog_failed"))
            || flag(body.get("tags").and_then(|tags| tags.get("nofailover"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> PatroniAnswer {
        answer(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn bodies_as_patroni_sends_them() {
        let primary = r#"{"state":"running","role":"primary","xlog":{"location":85031944}}"#;
        assert_eq!(said(primary), PatroniAnswer::Primary);
        let replica = r#"{"state":"running","role":"replica","timeline":7,"replication_state":"streaming","tags":{"foo":"bar"},
            "xlog":{"received_location":85032048,"replayed_location":85032040}}"#;
        let lsn = Lsn(85_032_048);
        let timeline = Some(Timeline(7));
        assert_eq!(
            said(replica),
            PatroniAnswer::Replica { lsn, timeline, streaming: true, barred: false }
        );
        let barred = r#"{"wal":{"replayed_location":5},"tags":{"nofailover":true}}"#;
        let wanted =
            PatroniAnswer::Replica { lsn: Lsn(5), timeline: None, streaming: false, barred: true };
        assert_eq!(said(barred), wanted);
        assert_eq!(said(r#"{"state":"stopped","role":"replica"}"#), PatroniAnswer::Down);
    }
}
