//! The roles that pgherd works with, as statements that hold in a new cluster and in a restored one
//! alike. Leaves where they are executed to the callers.

use postgres_protocol::password::scram_sha_256;

use crate::settings::{Credentials, Settings};
use crate::sql::{identifier, literal};

/// What pg_rewind calls on its source (PostgreSQL docs, pg_rewind, Notes; contract 4.2).
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// The superuser, who exists: its password.
pub(super) fn superuser(settings: &Settings) -> String {
    role(&settings.superuser, "SUPERUSER")
}

/// Who streams, and who rewinds. One statement a line, as single-user mode wants it.
pub(super) fn others(settings: &Settings) -> String {
    let mut sql = String::new();
    let (replication, rewind) = (&settings.replication, &settings.rewind);
    if replication.username != settings.superuser.username {
        sql += &role(replication, "REPLICATION");
    }
    let same = [&settings.superuser, replication].map(|user| user.username == rewind.username);
    if !same[0] && !same[1] {
        sql += &role(rewind, "");
    }
    if !same[0] {
        let name = identifier(&rewind.username);
        for function in REWIND_FUNCTIONS {
            sql += &format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name};\n");
        }
        if settings.bin.major >= 15 {
            // So that it needn't wait for the checkpoint after a promotion.
            sql += &format!("GRANT pg_checkpoint TO {name};\n");
        }
    }
    sql
}

/// A verifier, so that the password itself never reaches the server's log or memory.
fn role(user: &Credentials, what: &str) -> String {
    let verifier = literal(&scram_sha_256(user.password.reveal().as_bytes()));
    let (name, text) = (identifier(&user.username), literal(&user.username));
    let rest = format!("ROLE {name} LOGIN {what} PASSWORD {verifier}");
    format!(
        "DO $pgherd$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {text}) \
         THEN ALTER {rest}; ELSE CREATE {rest}; END IF; END $pgherd$;\n"
    )
}
