//! Wall clocks that can be stepped, each agent's by itself: the kernel has no namespace for them, so a
//! small library of ours goes before the C library's `clock_gettime`. Other clocks stay as they are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::faults::Roles;
use crate::scenario::Who;
use crate::site::Site;

/// The offset in seconds is the file's only content, mapped once and read at each call.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long long *offset;
__attribute__((constructor)) static void map(void) {
    const char *path = getenv("PGHERD_LAB_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(0, sizeof(long long), PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) offset = at;
    close(fd);
}
int clock_gettime(clockid_t id, struct timespec *t) {
    long done = syscall(SYS_clock_gettime, id, t);
    if (done == 0 && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        t->tv_sec += *offset;
    return (int)done;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"#;

impl Site<'_> {
    fn clock_file(&self, node: usize) -> PathBuf {
        self.node_dir(node).join("clock")
    }

    /// What an agent needs in its environment for a clock of its own; nothing where none was asked for.
    pub(crate) fn clock(&self, node: usize) -> Result<Vec<(&'static str, String)>> {
        if !self.cluster.clock {
            return Ok(Vec::new());
        }
        let library = self.dir.join("clock.so");
        if !library.exists() {
            let source = self.dir.join("clock.c");
            fs::write(&source, SOURCE).context("clock.c")?;
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source);
            let output = compiler.output().context("cc")?;
            ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        }
        let file = self.clock_file(node);
        if !file.exists() {
            fs::write(&file, 0_i64.to_ne_bytes()).context("the clock's offset")?;
        }
        let path = |path: PathBuf| path.display().to_string();
        Ok(vec![("LD_PRELOAD", path(library)), ("PGHERD_LAB_CLOCK", path(file))])
    }

    /// At once; by so much from what it shows now.
    pub(crate) fn step_clock(&self, roles: Roles, who: Who, seconds: i64) -> Result<()> {
        ensure!(self.cluster.clock, "only `cluster MODE clock` has clocks that can be stepped");
        for node in roles.nodes(self, who) {
            let file = self.clock_file(node);
            let now = fs::read(&file).context("the clock's offset")?;
            let now = i64::from_ne_bytes(now.try_into().ok().context("eight bytes")?);
            // Written in place: it is mapped.
            let open = fs::File::options().write(true).open(&file).context("the clock's offset")?;
            let bytes = (now + seconds).to_ne_bytes();
            std::os::unix::fs::FileExt::write_all_at(&open, &bytes, 0).context("the offset")?;
        }
        Ok(())
    }
}
