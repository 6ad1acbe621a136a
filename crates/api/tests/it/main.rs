//! What Patroni wrote on a live cluster, byte for byte, and what it would read from us.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bodies;
mod client;
mod values;
