//! `pgherd health`: asks a part of pgherd on this machine whether it is well; the images' health
//! check. Leaves what is well to the part that is asked.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use pgherd_api::{Client, ClientError};

use crate::output::{Outcome, Printer};

/// Who may be listening: an agent, a router, an exporter.
const PLACES: &[&str] = &[
    "http://127.0.0.1:8008/health",
    "http://127.0.0.1:7000/health",
    "http://127.0.0.1:9187/-/healthy",
];

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// Whom to ask [default: the agent, router or exporter of this machine, at its usual port]
    #[arg(value_name = "URL", env = "PGHERD_HEALTH_URL")]
    url: Option<String>,
    /// How long it may take, in seconds
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    timeout: u64,
}

/// Exit code 0 when the answer is yes (2xx).
pub(crate) fn run(args: &HealthArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime can't be started")?.block_on(ask(args))
}

async fn ask(args: &HealthArgs) -> Outcome {
    let client = Client::new(Duration::from_secs(args.timeout));
    let given = args.url.as_deref().map(|url| [url]);
    let places = given.as_ref().map_or(PLACES, |url| url.as_slice());
    for place in places {
        match client.request(http::Method::GET, place, None).await {
            Ok(answer) if answer.status.is_success() => {
                return Ok(Printer::new().line(answer.text().trim_end())?);
            }
            Ok(answer) => {
                return Err(anyhow::anyhow!("{place} answers {}", answer.status).into());
            }
            // Somebody else's place.
            Err(ClientError::Connect { .. }) if given.is_none() => {}
            Err(error) => return Err(anyhow::Error::from(error).into()),
        }
    }
    Err(anyhow::anyhow!("nobody listens on this machine, neither agent nor router nor exporter")
        .into())
}
