//! `remove`: forgets a cluster, after three answers that nobody types by accident (contract 5.2).
//! Data directories stay.

use std::time::Duration;

use pgherd_store::{Op, Txn};

use super::{Ctl, leader_of, list};
use crate::args::RemoveArgs;
use crate::output::{Failure, Outcome, ask};

const WRITE_LIMIT: Duration = Duration::from_secs(10);
const AWARE: &str = "Yes I am aware";

pub(super) async fn remove(mut ctl: Ctl, args: &RemoveArgs) -> Outcome {
    ctl.store("remove")?;
    let cluster = ctl.read().await?;
    let scope = ctl.keys.scope().to_owned();
    ctl.printer.raw(list::render(&cluster, args.format, false))?;
    let typed = |question: &str, expected: &str, otherwise: &str| {
        let instead = "the answers have to come through standard input, a line each";
        if ask(question, instead)? == expected {
            return Ok(());
        }
        Err(Failure::refused("remove", format!("{otherwise}; nothing was removed")))
    };
    let question = "Please confirm the cluster name to remove";
    typed(question, &scope, "Cluster names specified do not match")?;
    let question = format!(
        "You are about to remove all information in DCS for {scope}, please type: \"{AWARE}\""
    );
    typed(&question, AWARE, &format!("You did not exactly type \"{AWARE}\""))?;
    if let Some(leader) = leader_of(&cluster) {
        let question =
            "This cluster currently is healthy. Please specify the leader name to continue";
        let otherwise = "You did not specify the current leader of the cluster";
        typed(question, leader.name.as_str(), otherwise)?;
    }
    let txn = Txn {
        compare: Vec::new(),
        then: vec![Op::delete_prefix(ctl.keys.prefix().to_owned())],
        otherwise: Vec::new(),
    };
    let store = ctl.store("remove")?;
    store.txn(txn, WRITE_LIMIT).await.map_err(anyhow::Error::from)?;
    let words = format!("Success: the store knows nothing of cluster {scope} any more");
    Ok(ctl.printer.line(words)?)
}
