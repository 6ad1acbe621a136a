//! The guard: a process that outlives the agent and stops PostgreSQL when belief ends.
