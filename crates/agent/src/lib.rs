//! The shell around the core: one event loop, lanes for long work, HTTP, peers.
