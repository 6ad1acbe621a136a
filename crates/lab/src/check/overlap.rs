//! Two primaries: a node that acknowledges a write begun after another had acknowledged one on a
//! younger timeline. Writers past the router, on every node, are what can show it.

use std::collections::BTreeMap;

use super::Findings;
use crate::history::{At, Commit, Direct};

/// What a node acknowledged on one timeline.
struct Reign {
    node: usize,
    timeline: u32,
    commit: Commit,
    /// When the first acknowledgement had come.
    first: At,
    last: At,
}

/// Through the router there is one, in every mode, whatever a client waives.
pub(super) fn check_routed(routed: &[Direct], findings: &mut Findings) {
    let mut found = Findings::default();
    check(routed, &mut found);
    findings.overlap_routed = found.overlap;
}

pub(super) fn check(direct: &[Direct], findings: &mut Findings) {
    let reigns = reigns(direct);
    for write in direct {
        for reign in &reigns {
            let other = reign.node != write.node;
            let younger = reign.timeline > write.timeline;
            // One number made twice: whoever came second is the usurper, and either shows it.
            let twin = reign.timeline == write.timeline && write.begun < reign.last;
            if other && (younger || twin) && write.begun > reign.first {
                let strict = [write.commit, reign.commit] == [Commit::Synchronous; 2];
                let found =
                    if strict { &mut findings.overlap } else { &mut findings.overlap_waived };
                found.add(|| describe(write, reign));
                break;
            }
        }
    }
}

fn describe(write: &Direct, reign: &Reign) -> String {
    let behind = write.begun.saturating_sub(reign.first).as_millis();
    format!(
        "node{} on timeline {} at {:?}, {behind} ms after node{} on timeline {}",
        write.node + 1,
        write.timeline,
        write.begun,
        reign.node + 1,
        reign.timeline
    )
}

/// Synchronous ones first: those weigh more.
fn reigns(direct: &[Direct]) -> Vec<Reign> {
    let mut spans: BTreeMap<(Commit, u32, usize), (At, At)> = BTreeMap::new();
    for write in direct {
        let key = (write.commit, write.timeline, write.node);
        let span = spans.entry(key).or_insert((write.ended, write.ended));
        *span = (span.0.min(write.ended), span.1.max(write.ended));
    }
    let reign =
        |((commit, timeline, node), (first, last))| Reign { node, timeline, commit, first, last };
    spans.into_iter().map(reign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(node: usize, timeline: u32, begun: u64) -> Direct {
        let (begun, ended) = (At::from_millis(begun), At::from_millis(begun + 5));
        Direct { node, commit: Commit::Synchronous, timeline, begun, ended }
    }

    fn found(direct: &[Direct]) -> (usize, usize) {
        let mut findings = Findings::default();
        check(direct, &mut findings);
        (findings.overlap.count, findings.overlap_waived.count)
    }

    #[test]
    fn one_after_the_other_is_right() {
        assert_eq!(
            found(&[write(0, 1, 0), write(0, 1, 10), write(1, 2, 20), write(0, 3, 30)]),
            (0, 0)
        );
        // Under way at the same time: the first may have happened before the second.
        assert_eq!(found(&[write(0, 1, 12), write(1, 2, 10)]), (0, 0));
    }

    #[test]
    fn an_old_primary_that_goes_on_is_found() {
        assert_eq!(found(&[write(0, 1, 0), write(1, 2, 10), write(0, 1, 20)]), (1, 0));
    }

    #[test]
    fn a_timeline_made_twice_is_found() {
        let twice = [write(0, 2, 0), write(1, 2, 10), write(0, 2, 20), write(1, 2, 30)];
        assert!(found(&twice).0 > 0);
    }

    #[test]
    fn local_commits_are_counted_apart() {
        let mut late = write(0, 1, 20);
        late.commit = Commit::Local;
        assert_eq!(found(&[write(1, 2, 10), late]), (0, 1));
    }
}
