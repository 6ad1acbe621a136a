//! Settings files as typed values: pure functions of text that name every mistake at once.
//! Leaves reading files to the commands, and meaning to the crates that get the values.

pub(crate) mod control;
pub(crate) mod node;
pub(crate) mod parse;
pub(crate) mod problem;
pub(crate) mod router;
mod section;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;
