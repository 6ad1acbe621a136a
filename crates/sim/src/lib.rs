//! A simulated world for the core: agents, store, PostgreSQL, network, clients, invariants.
