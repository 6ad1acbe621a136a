//! Unit tests of the embedded store's parts; the whole is tested in `tests/it`.
