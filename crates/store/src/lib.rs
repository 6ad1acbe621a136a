//! The consensus store as agents see it: etcd's v3 API, a client, an embedded server, a conformance suite.
