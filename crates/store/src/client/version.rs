//! Versions of etcd that are known to break promises which we build on.

/// In the version that our embedded store gives; it tells which of etcd's calls it has.
const OURS: &str = "+pgherd.";

/// What is wrong with that version, and which one to have instead; none: nothing is known.
pub(crate) fn trouble(version: &str) -> Option<&'static str> {
    if version.contains(OURS) {
        return None;
    }
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let (major, minor, patch): (u32, u32, u32) =
        (parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0));
    let before = |on_3_5: u32, on_3_6: u32| match (major, minor) {
        (0..=2, _) | (3, 0..=4) => true,
        (3, 5) => patch < on_3_5,
        (3, 6) => patch < on_3_6,
        _ => false,
    };
    if (major, minor) == (3, 5) && patch < 3 {
        Some("its members can end up with different data after a crash; have 3.5.28 or later")
    } else if before(23, 5) {
        Some("it can renew a lease that was revoked; have 3.5.28, 3.6.9 or later")
    } else if before(28, 9) {
        Some("a member that was paused can read stale data; have 3.5.28, 3.6.9 or later")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::trouble;

    #[test]
    fn fixed_versions_are_taken_and_others_named() {
        let ours = crate::embedded::VERSION;
        for good in
            [ours, "3.5.28", "3.6.9", "3.6.15", "3.7.0", "4.0.0", "not a version", "3.7.0-rc.1"]
        {
            assert_eq!(trouble(good), None, "{good}");
        }
        for (bad, what) in [
            ("3.5.2", "different data"),
            ("3.4.23", "revoked"),
            ("3.5.22", "revoked"),
            ("3.5.27", "stale"),
            ("3.6.4", "revoked"),
            ("3.6.8", "stale"),
        ] {
            assert!(trouble(bad).is_some_and(|words| words.contains(what)), "{bad}");
        }
    }
}
