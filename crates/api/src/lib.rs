//! What others read: REST bodies and paths, store values, and a small client.
