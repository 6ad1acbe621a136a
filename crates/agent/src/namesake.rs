//! Whether another living agent has this node's name: two that share one would take turns on one
//! member key and one replication slot (contract 9, row 77). Asked once, before anything is begun.

use std::time::Duration;

use pgherd_api::{Cluster, Keys};
use pgherd_config::Settings;
use pgherd_store::Client;
use serde_json::Value;

use crate::AgentError;
use crate::store::record;

/// A store that doesn't answer in time is waited for later; PostgreSQL must not wait now.
const LIMIT: Duration = Duration::from_secs(1);

/// Refuses when the member key of this name leads to another agent that answers to it.
pub(crate) async fn check(
    store: &Client,
    keys: &Keys,
    settings: &Settings,
    asker: &pgherd_api::Client,
) -> Result<(), AgentError> {
    let Ok(read) = store.prefix(keys.prefix().to_owned(), LIMIT).await else { return Ok(()) };
    let records = read.kvs.into_iter().map(record);
    let cluster = Cluster::read(keys.clone(), read.revision, records);
    let Some(member) = cluster.members().get(&settings.name) else { return Ok(()) };
    let (Some(url), Some((host, port))) = (&member.api_url, member.api_address()) else {
        return Ok(());
    };
    // An earlier life of this node was there; the port is ours by now.
    let ours = settings.rest_connect.rsplit_once(':');
    if ours.is_some_and(|(our_host, our_port)| {
        our_host.trim_matches(['[', ']']) == host && our_port == port.to_string()
    }) {
        return Ok(());
    }
    let Ok(body) = asker.get::<Value>(url).await else { return Ok(()) };
    let said = |key: &str| body["patroni"][key].as_str().map(str::to_owned);
    let same = said("name").as_deref() == Some(settings.name.as_str())
        && said("scope").as_deref() == Some(&*settings.scope);
    if same {
        return Err(AgentError::Namesake { name: settings.name.clone(), url: url.clone() });
    }
    Ok(())
}
