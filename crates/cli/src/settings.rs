//! Settings files of the router and of `ctl`, and under the same roof the node's from `config`.
//! Leaves reading files to the commands, and meaning to the crates that get the values.

pub(crate) mod control;
pub(crate) mod router;

pub(crate) use pgherd_config::{node, parse, problem, section, store, yaml};
