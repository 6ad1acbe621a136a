//! One PostgreSQL server: reports facts, obeys commands, decides nothing.
