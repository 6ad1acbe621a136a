//! Routes write and read connections to the right PostgreSQL, and shows what it knows.
