//! Users, databases and tables of a new cluster: the SQL files of a directory, run in order through
//! the router, each once. What ran is recorded in the database, so that a second run does nothing
//! and a failover in the middle is survived.
//!
//! `lex` cuts text into tokens, `script` makes statements of them, `plan` says which belong into one
//! transaction, `record` remembers, `session` connects, and `job` does the work. Left to others:
//! where settings come from and where words go to (`cli`).

mod fault;
mod job;
mod lex;
mod plan;
mod record;
mod script;
mod session;
mod variables;

pub use fault::{Fault, Mistake};
pub use job::{Report, Settings, run};
pub use variables::Variables;
