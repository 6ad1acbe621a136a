//! How a connection to PostgreSQL is secured, in libpq's words (`sslmode`, `sslrootcert`, `PGSSLMODE`,
//! `~/.postgresql`, ...): for every SQL client of pgherd's own. Leaves host, user, password and what is
//! asked to whoever connects.
//!
//! ```ignore
//! let (rest, words) = Words::split("postgresql://me@db/x?sslmode=verify-full&sslrootcert=ca.pem");
//! let security = words.or_environment(&|name| std::env::var(name).ok()).security()?;
//! let (client, driver) = connect(&rest.parse()?, &security).await?;
//! ```

mod binding;
mod dial;
mod error;
mod security;
mod stream;
mod verify;
mod words;

pub use dial::{Driver, connect};
pub use error::Error;
pub use security::{Mode, Security};
pub use words::Words;
