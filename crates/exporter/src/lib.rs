//! PostgreSQL's statistics as Prometheus reads them: a sidecar of one server, with the metric and
//! label names of postgres_exporter's default collectors, so that dashboards and alert rules made
//! for that one work. Knows nothing of clusters: what the agent says of itself is passed on.
//!
//! Left to others: where the settings come from (`cli`), and what the agent's series mean (`agent`).

mod agent;
mod collectors;
mod page;
mod process;
mod scrape;
mod serve;
mod setting;
mod source;

pub use collectors::names as collector_names;
pub use scrape::Bounds;
pub use serve::{Settings, run};
pub use source::{Source, SourceError, Variables};
