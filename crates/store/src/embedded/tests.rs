//! Tests of the embedded store's parts that need their insides; the whole is tested in `tests/it`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod damage;
mod model;
mod slow_disk;
