//! What the agent beside this server says of itself: its `/metrics` page, passed on as it is.

use std::time::Duration;

use http::Method;
use pgherd_api::client::Client;

use crate::page::{Kind, Page};

/// Asks the agent at `url` and adds its series (`patroni_*`, `pgherd_*`), and whether it answered.
pub(crate) async fn put(page: &mut Page, url: &str, within: Duration) {
    let answer = Client::new(within).request(Method::GET, url, None).await;
    let text = match answer {
        Ok(response) if response.status.is_success() => Some(response.text()),
        Ok(response) => {
            tracing::debug!(url, status = %response.status, "the agent gives no metrics");
            None
        }
        Err(error) => {
            tracing::debug!(url, %error, "the agent gives no metrics");
            None
        }
    };
    let help = "Whether the agent beside this server answered the last scrape.";
    page.one("pgherd_agent_up", Kind::Gauge, help, u8::from(text.is_some()));
    page.foreign(text.as_deref().unwrap_or_default());
}
