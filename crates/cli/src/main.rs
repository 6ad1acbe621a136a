//! The pgherd binary.
fn main() {}
