//! `synchronous_standby_names` as text, both ways (PostgreSQL docs, the parameter's syntax).
//! Leaves which names, and when, to the core.

use pgherd_core::NodeName;
use pgherd_core::postgres::SyncNames;

/// `ANY k ("a","b")`; empty for no names.
#[must_use]
pub fn render(names: &SyncNames) -> String {
    if names.names.is_empty() {
        return String::new();
    }
    // A node's name holds no quote: nothing to double.
    let quoted: Vec<_> = names.names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("ANY {} ({})", names.count.max(1), quoted.join(","))
}

/// Reads a value, whoever wrote it. What names something that is no node (`*`, for one) becomes a
/// count without that name: commits wait, and nobody should take the list for pgherd's.
#[must_use]
pub fn parse(text: &str) -> SyncNames {
    let text = text.trim();
    if text.is_empty() {
        return SyncNames::default();
    }
    let (head, list) = match text.split_once('(') {
        Some((head, list)) => (head.trim(), list.trim_end().trim_end_matches(')')),
        // The old form: a list without a count waits for the first.
        None => ("1", text),
    };
    let count = head.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(1);
    let name = |name: &str| NodeName::new(name.trim().trim_matches('"')).ok();
    let mut names: Vec<_> = list.split(',').filter_map(name).collect();
    names.sort();
    names.dedup();
    SyncNames { count, names }
}

#[cfg(test)]
mod tests {
    use super::{parse, render};
    use pgherd_core::NodeName;
    use pgherd_core::postgres::SyncNames;

    fn list(count: u32, names: &[&str]) -> SyncNames {
        SyncNames { count, names: names.iter().map(|name| NodeName::new(name).unwrap()).collect() }
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        for names in [list(0, &[]), list(1, &["n-1"]), list(2, &["a", "b.c", "d_e"])] {
            assert_eq!(parse(&render(&names)), names);
        }
        assert_eq!(render(&list(1, &["n-1", "n-2"])), r#"ANY 1 ("n-1","n-2")"#);
        assert!(parse(&render(&SyncNames::nobody())).is_nobody());
    }

    #[test]
    fn other_peoples_forms() {
        assert_eq!(parse(r#"FIRST 2 (b, "a")"#), list(2, &["a", "b"]));
        assert_eq!(parse("2 (a,b)"), list(2, &["a", "b"]));
        assert_eq!(parse("a, b"), list(1, &["a", "b"]));
        assert_eq!(parse("*"), list(1, &[]));
        assert_eq!(parse("ANY 1 (*)"), list(1, &[]));
    }
}
