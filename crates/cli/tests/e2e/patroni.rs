//! Patroni's agents and ours in one cluster, and the way from the one to the other.
//! Every number that was acknowledged is looked for at the end of each test.

use std::time::{Duration, Instant};

use crate::mixed::{Agent, Mixed};
use crate::round::verify;
use crate::say;
use crate::writer::{Writer, execute, longest_gap, numbers};

const LIMIT: Duration = Duration::from_secs(60);
/// How long the client writes undisturbed between two events.
const CALM: Duration = Duration::from_secs(1);

/// Two Patronis and one pgherd in quorum mode: either follows the other, hands over to the other,
/// and survives the other's death.
pub(crate) fn patroni_and_pgherd_in_one_cluster() {
    let Some(mut site) = Mixed::new("    synchronous_mode: quorum\n") else { return };
    site.start("node1", Agent::Patroni);
    site.wait_leader(|name| name == "node1");
    site.start("node2", Agent::Patroni);
    // It has no data: it copies Patroni's primary.
    site.start("node3", Agent::Pgherd);
    site.wait_whole(2);
    let primary = site.primary();
    execute(&primary, "CREATE TABLE acks (n bigint PRIMARY KEY)", LIMIT);
    let begin = Instant::now();
    let writer = Writer::start(primary.clone(), 1);
    let mut events: Vec<(&str, Instant)> = Vec::new();

    // Patroni hands over to voters only.
    let listed = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
    let until = Instant::now() + LIMIT;
    while numbers(&primary, listed, LIMIT) != [2] {
        assert!(Instant::now() < until, "never two voters\n{}", site.everything());
        std::thread::sleep(Duration::from_millis(100));
    }
    // PostgreSQL's list comes first, the key that names them moments later.
    std::thread::sleep(2 * CALM);
    events.push(("patronictl switchover, Patroni to pgherd", Instant::now()));
    let words = ["switchover", "mixed", "--leader", "node1", "--candidate", "node3", "--force"];
    let (good, out) = site.patronictl(&words);
    let done = "Successfully switched over to \"node3\"";
    assert!(good && out.contains(done), "{out}\n{}", site.everything());
    site.wait_leader(|name| name == "node3");
    site.wait_whole(2);

    std::thread::sleep(CALM);
    events.push(("pgherd ctl switchover, pgherd to Patroni", Instant::now()));
    let (good, out) = site.ctl(&["switchover", "--candidate", "node1", "--force"]);
    assert!(good, "{out}\n{}", site.everything());
    site.wait_leader(|name| name == "node1");
    site.wait_whole(2);

    std::thread::sleep(CALM);
    events.push(("kill -9 of Patroni's primary node", Instant::now()));
    site.kill("node1");
    let successor = site.wait_leader(|name| name != "node1");
    site.start("node1", Agent::Patroni);
    site.wait_whole(2);
    say(&format!("{successor} went on"));

    if successor != "node3" {
        let (good, out) = site.ctl(&["switchover", "--candidate", "node3", "--force"]);
        assert!(good, "{out}\n{}", site.everything());
        site.wait_leader(|name| name == "node3");
        site.wait_whole(2);
    }
    std::thread::sleep(CALM);
    events.push(("kill -9 of pgherd's primary node", Instant::now()));
    site.kill("node3");
    let successor = site.wait_leader(|name| name != "node3");
    say(&format!("{successor} went on"));
    site.start("node3", Agent::Pgherd);
    site.wait_whole(2);

    std::thread::sleep(CALM);
    events.push(("end", Instant::now()));
    let acknowledged = writer.finish();
    verify(&primary, &acknowledged, || site.everything());
    for pair in events.windows(2) {
        tell(pair[0].0, &acknowledged, pair[0].1, pair[1].1);
    }
    say(&format!("{} acknowledged in {} s", acknowledged.len(), begin.elapsed().as_secs()));
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
    let by = Instant::now() + LIMIT;
    while numbers(&primary, streams, LIMIT) != [2] {
        assert!(Instant::now() < by, "not both are voters again\n{}", site.everything());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The longest gap, and the writes that were not acknowledged, between two moments.
pub(crate) fn tell(what: &str, acknowledged: &[(i64, Instant)], from: Instant, to: Instant) {
    let within: Vec<_> =
        acknowledged.iter().filter(|(_, at)| from <= *at && *at < to).copied().collect();
    let (Some(first), Some(last)) = (within.first(), within.last()) else {
        say(&format!("{what}: nothing was acknowledged"));
        return;
    };
    let failed = last.0 - first.0 + 1 - i64::try_from(within.len()).unwrap();
    say(&format!(
        "{what}: longest write gap {} ms, {failed} writes failed",
        longest_gap(&within).as_millis()
    ));
}
