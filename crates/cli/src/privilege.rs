//! Giving up root, before any thread exists.
//! Leaves who owns which file to `up`.

use nix::unistd::{Gid, Uid, User};

use crate::output::{Failure, Outcome};

/// Whom a process becomes or files are given to.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

/// Whether this process is root, which PostgreSQL refuses to run as.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The account of that name.
pub(crate) fn account(name: &str) -> Outcome<Account> {
    let found = User::from_name(name).map_err(|errno| {
        Failure::Failed(anyhow::anyhow!("the user '{name}' can't be looked up: {errno}"))
    })?;
    let Some(user) = found else {
        let words = format!(
            "there is no user '{name}' to run PostgreSQL as (it refuses to run as root); install \
             PostgreSQL's server package, which makes it, or name another with --user"
        );
        return Err(Failure::refused("--user", words));
    };
    if user.uid.is_root() {
        let words = format!("'{name}' is root, which PostgreSQL refuses to run as; name another");
        return Err(Failure::refused("--user", words));
    }
    Ok(Account { name: user.name, uid: user.uid, gid: user.gid })
}

/// As root: becomes that user for good. Otherwise nothing changes. To be called while this process
/// has one thread.
pub(crate) fn drop_root(name: &str) -> Outcome {
    if !is_root() {
        return Ok(());
    }
    let account = account(name)?;
    let failed = |what: &str, errno: nix::Error| {
        Failure::Failed(anyhow::anyhow!("{what} of '{name}' can't be taken on: {errno}"))
    };
    let words = std::ffi::CString::new(account.name.as_str()).map_err(anyhow::Error::from)?;
    nix::unistd::initgroups(&words, account.gid).map_err(|e| failed("the groups", e))?;
    nix::unistd::setgid(account.gid).map_err(|e| failed("the group", e))?;
    nix::unistd::setuid(account.uid).map_err(|e| failed("the identity", e))?;
    // The kernel marks a process that changed its user as not to be looked into; that would keep it
    // from its own /proc files.
    let dumpable = rustix::process::DumpableBehavior::Dumpable;
    rustix::process::set_dumpable_behavior(dumpable).map_err(|e| {
        Failure::Failed(anyhow::anyhow!("this process can't be made readable again: {e}"))
    })
}

/// Ends this process (SIGTERM) when the one that started it ends, and at once when it has ended
/// already. To be called after [`drop_root`], which would undo it.
pub(crate) fn follow_parent() -> Outcome {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|e| {
        Failure::Failed(anyhow::anyhow!("this process can't be tied to its parent: {e}"))
    })?;
    let words = "the process that started this one has ended";
    let orphan = getppid() != parent || parent.is_none_or(|p| p.as_raw_nonzero().get() == 1);
    if orphan { Err(Failure::Failed(anyhow::anyhow!(words))) } else { Ok(()) }
}
