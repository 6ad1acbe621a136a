//! Keys that each node says for itself (contract 3.3), without PostgreSQL's.

use super::Kind::{
    Any, Bytes, Choice, Free, HostPort, List, Listen, Options, Path, Secret, Section,
};
use super::Kind::{Switch, Text, Whole};
use super::{Key, local};

const NO_PYTHON: &str = "it is about Patroni's threads, which pgherd has not";

pub(super) const KEYS: &[Key] = &[
    local("scope", Text, "", "The cluster's name; PostgreSQL's cluster_name too.")
        .required()
        .fixed(),
    local("name", Text, "", "The member's name, unique in the cluster.").required().fixed(),
    local("namespace", Text, "service", "What the cluster's keys lie below in the store.").fixed(),
    local("thread_pool_size", Whole(1), "5", "Threads.").unused(NO_PYTHON),
    local("thread_stack_size", Bytes, "512kB", "Memory of a thread.").unused(NO_PYTHON),
    local("log", Section, "", "What the agent tells, and where."),
    local("log.type", Choice(&["plain", "json"]), "plain", "The form of a line."),
    local(
        "log.level",
        Text,
        "INFO",
        "The least level that is told: ERROR, WARNING, INFO, DEBUG. RUST_LOG is stronger.",
    ),
    local("log.traceback_level", Text, "ERROR", "When Patroni shows a traceback.")
        .unused("pgherd has no tracebacks; errors come with their causes"),
    local(
        "log.format",
        Any,
        "",
        "The form of a plain line, in Python's words: %(asctime)s, levelname, name, module, filename, \
         lineno, process, message. For json a list of these, or of {message: other name}. Fields \
         like the term follow the message, or stand beside it.",
    ),
    local(
        "log.dateformat",
        Text,
        "",
        "The form of times, in strftime's words and local time. Without it pgherd's own lines have \
         RFC 3339 in UTC, the others 2026-11-22 18:33:38,123.",
    ),
    local("log.static_fields", Free, "", "Fields that every line of type json gets."),
    local(
        "log.max_queue_size",
        Whole(1),
        "1000",
        "Lines that wait to be written. More are lost, and their number is told: nothing ever waits \
         for the log.",
    ),
    local(
        "log.dir",
        Path,
        "",
        "Where the file patroni.log (a router's: router.log) is written instead of standard error. \
         SIGHUP opens it anew. While it can't be written, lines go to standard error.",
    ),
    local("log.mode", Text, "0644", "The log file's mode."),
    local("log.file_num", Whole(0), "4", "How many old log files are kept; 0: one file for ever."),
    local("log.file_size", Bytes, "25000000", "How long a log file gets before the next begins."),
    local(
        "log.loggers",
        Free,
        "",
        "Levels for single modules: pgherd.agent, pgherd.postgres.slots, pgherd.store, h2.",
    ),
    local("log.deduplicate_heartbeat_logs", Switch, "off", "Tell each decision once.")
        .unused("pgherd never tells the same decision twice in a row"),
    local("restapi", Section, "", "The REST API."),
    local("restapi.listen", Listen, "", "Where it listens.").required(),
    local("restapi.connect_address", HostPort, "", "Where others reach it.").required(),
    local("restapi.authentication", Section, "", "Who may make calls that change something."),
    local("restapi.authentication.username", Text, "", "The name."),
    local("restapi.authentication.password", Secret, "", "The password."),
    local("restapi.certfile", Path, "", "The certificate; with it, the API speaks HTTPS."),
    local("restapi.keyfile", Path, "", "The certificate's key."),
    local("restapi.keyfile_password", Secret, "", "The key's password."),
    local("restapi.cafile", Path, "", "Who signs clients' certificates."),
    local(
        "restapi.ciphers",
        Text,
        "",
        "The suites of TLS 1.2 that are offered, by OpenSSL's names: ECDHE-RSA-AES256-GCM-SHA384:... \
         Every one that there is is safe; words like HIGH have no effect.",
    ),
    local(
        "restapi.verify_client",
        Choice(&["none", "optional", "required"]),
        "none",
        "Whether clients need a certificate.",
    ),
    local(
        "restapi.allowlist",
        List,
        "",
        "Who may make calls that change something: addresses, networks, names.",
    ),
    local("restapi.allowlist_include_members", Switch, "off", "The members may, too."),
    local("restapi.http_extra_headers", Free, "", "Headers of every answer."),
    local("restapi.https_extra_headers", Free, "", "Headers of every answer over HTTPS."),
    local("restapi.request_queue_size", Whole(1), "5", "Connections that wait.")
        .unused("the API never lets connections wait for another one's answer"),
    local("restapi.thread_pool_size", Whole(1), "5", "Threads.").unused(NO_PYTHON),
    local("restapi.server_tokens", Text, "original", "What the header Server says."),
    local("ctl", Section, "", "How this node and pgherd ctl call other members' APIs."),
    local("ctl.authentication", Section, "", "As whom."),
    local("ctl.authentication.username", Text, "", "The name."),
    local("ctl.authentication.password", Secret, "", "The password."),
    local("ctl.insecure", Switch, "off", "Don't check the API's certificate."),
    local("ctl.cacert", Path, "", "Who signs the API's certificate."),
    local("ctl.certfile", Path, "", "The client's certificate."),
    local("ctl.keyfile", Path, "", "Its key."),
    local("ctl.keyfile_password", Secret, "", "The key's password."),
    local("etcd3", Section, "", "The store.").required().fixed(),
    local("etcd3.host", Text, "", "One member's HOST:PORT.").fixed(),
    local("etcd3.hosts", List, "", "Members' HOST:PORT, or URLs.").fixed(),
    local("etcd3.url", Secret, "", "One member's URL, with protocol and login.").fixed(),
    local("etcd3.proxy", Secret, "", "The URL of a proxy of etcd.").fixed(),
    local("etcd3.use_proxies", Switch, "off", "The hosts are proxies: don't ask for the members.")
        .fixed(),
    local(
        "etcd3.srv",
        Text,
        "",
        "The domain whose SRV records name the members; while there are any, 'hosts' is not used.",
    )
    .also("discovery_srv")
    .fixed(),
    local("etcd3.srv_domain", Text, "", "The same as 'srv'.").fixed(),
    local("etcd3.srv_suffix", Text, "", "What follows the service's name in the SRV records.")
        .fixed(),
    local("etcd3.protocol", Choice(&["http", "https"]), "http", "For hosts without a scheme.")
        .fixed(),
    local("etcd3.username", Text, "", "As whom.").fixed(),
    local("etcd3.password", Secret, "", "The password.").fixed(),
    local("etcd3.cacert", Path, "", "Who signs the store's certificate.").fixed(),
    local("etcd3.cert", Path, "", "The client's certificate.").fixed(),
    local("etcd3.key", Path, "", "Its key.").fixed(),
    local("bootstrap", Section, "", "How a new cluster begins. Without it this node founds none."),
    local(
        "bootstrap.dcs",
        Section,
        "",
        "The dynamic configuration of a new cluster. Read once, when the cluster is founded.",
    ),
    local(
        "bootstrap.method",
        Text,
        "initdb",
        "How the first data directory is made: initdb, or a section of that name.",
    ),
    local("bootstrap.initdb", Options, "", "Options of initdb."),
    local(
        "bootstrap.pg_hba",
        List,
        "",
        "Lines of pg_hba.conf for a cluster without postgresql.pg_hba.",
    ),
    local(
        "bootstrap.post_bootstrap",
        Text,
        "",
        "A command that runs once, with a connection string.",
    )
    .also("post_init"),
    local("bootstrap.users", Free, "", "Roles to make.").unused(
        "Patroni 4 dropped it; make roles with SQL, for example in bootstrap.post_bootstrap",
    ),
    local("watchdog", Section, "", "The kernel's watchdog, which resets a machine that hangs."),
    local(
        "watchdog.mode",
        Choice(&["automatic", "required", "off", "true", "false"]),
        "automatic",
        "Whether the leader uses it: where it can (automatic), or as a condition for leading.",
    ),
    local(
        "watchdog.device",
        Path,
        "/dev/watchdog",
        "Which; PostgreSQL's user must be able to write it.",
    )
    .fixed(),
    local(
        "watchdog.safety_margin",
        Whole(-1),
        "5",
        "Seconds between its reset and the lease's end; -1: it resets after half of the ttl. It counts in \
         whole seconds: a ttl below 20 needs -1.",
    ),
    local(
        "watchdog.driver",
        Choice(&["default", "testing"]),
        "default",
        "With testing the device is a file or a pipe that gets everything in writing.",
    )
    .fixed(),
    local(
        "tags",
        Section,
        "",
        "What this member is fit for; other tags are published as they stand.",
    ),
    local("tags.clonefrom", Switch, "off", "New members copy their data from here first."),
    local("tags.noloadbalance", Switch, "off", "Clients that only read are not sent here."),
    local("tags.nofailover", Switch, "off", "Never leads."),
    local("tags.failover_priority", Whole(0), "1", "The higher leads; 0 is nofailover."),
    local("tags.nosync", Switch, "off", "No commit waits for it."),
    local("tags.sync_priority", Whole(0), "1", "The higher is chosen first; 0 is nosync."),
    local("tags.replicatefrom", Text, "", "The member whose WAL it streams."),
    local("tags.nostream", Switch, "off", "Restores WAL from the archive only."),
    local("citus", Section, "", "Citus."),
    local("citus.group", Whole(0), "", "The group.").unused("pgherd does not manage Citus"),
    local("citus.database", Text, "", "The database.").unused("pgherd does not manage Citus"),
    local("pgherd", Section, "", "What Patroni's file has no word for."),
    local(
        "pgherd.run_dir",
        Path,
        "",
        "Sockets, promises and locks; beside the data directory by default.",
    )
    .fixed(),
    local("pgherd.peer_secret", Secret, "", "What agents of a cluster prove to each other.")
        .fixed(),
    local(
        "pgherd.record",
        Bytes,
        "",
        "How large a record of the agent's inputs and decisions may get, in run_dir, for pgherd replay; none by default.",
    )
    .fixed(),
    local(
        "pgherd.networks",
        List,
        "",
        "Networks whose clients may log in with a password (CIDR, all), where postgresql.pg_hba says nothing.",
    ),
];
