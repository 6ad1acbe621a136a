//! The images that the compose file names, made here, since nothing is fetched from a registry of
//! images: Debian by debootstrap, etcd from Debian's package, tools beside them, and pgherd's own
//! image by the repository's Dockerfile with the program that cargo has built.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::docker::{Docker, said};
use crate::say;

const BASE: &str = "debian:trixie-slim";
const ETCD: &str = "gcr.io/etcd-development/etcd:v3.6.7";
const RUST: &str = "rust:1-trixie";
/// A cargo that has everything built already.
pub(crate) const STUB: &str = "pgherd-stack-stub";
/// HAProxy, promtool, and the compose plugin.
pub(crate) const TOOLS: &str = "pgherd-stack-tools";

/// Makes what is missing; pgherd's image always, of the files in `project`.
pub(crate) fn make(docker: &Docker, project: &Path) {
    if !there(docker, BASE) {
        base(docker);
    }
    if !there(docker, ETCD) {
        let lines = "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
                     etcd-server etcd-client && ln -s /usr/bin/etcd /usr/bin/etcdctl /usr/local/bin/ \
                     && mkdir -m 0700 /etcd-data";
        build(docker, ETCD, lines);
    }
    if !there(docker, TOOLS) {
        let lines = "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
                     haproxy prometheus docker-compose";
        build(docker, TOOLS, lines);
    }
    if !docker.run("docker", &["compose", "version"]).ok {
        plugin(docker);
    }
    let image = project.join("target/image");
    std::fs::create_dir_all(&image).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_pgherd"), image.join("pgherd")).unwrap();
    let strip = said(Command::new("strip").arg(image.join("pgherd")));
    assert!(strip.ok, "strip: {}", strip.err);
}

fn there(docker: &Docker, image: &str) -> bool {
    docker.run("docker", &["image", "inspect", image]).ok
}

fn base(docker: &Docker) {
    say("making debian:trixie-slim with debootstrap (about a minute)");
    let root = docker.dir().join("trixie");
    let _ = std::fs::remove_dir_all(&root);
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", "trixie"])
        .arg(&root)
        .arg("http://deb.debian.org/debian");
    let made = said(&mut debootstrap);
    assert!(made.ok, "debootstrap: {}{}", made.out, made.err);
    // What the slim image leaves out, too.
    for part in
        ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"]
    {
        let _ = std::fs::remove_dir_all(root.join(part));
    }
    std::fs::create_dir_all(root.join("var/cache/apt/archives/partial")).unwrap();
    std::fs::create_dir_all(root.join("var/lib/apt/lists/partial")).unwrap();
    let mut pack = Command::new("sh");
    pack.args(["-c", "tar -C \"$1\" -c . | docker import - debian:trixie-slim", "sh"]).arg(&root);
    for (name, value) in docker.command("docker").get_envs() {
        if let Some(value) = value {
            pack.env(name, value);
        }
    }
    let packed = said(&mut pack);
    assert!(packed.ok, "docker import: {}", packed.err);
    let _ = std::fs::remove_dir_all(&root);
}

/// An image of the base with these lines; the builder that every docker has is enough for it.
fn build(docker: &Docker, tag: &str, lines: &str) {
    say(&format!("making {tag}"));
    let context = docker.dir().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), format!("FROM {BASE}\n{lines}\n")).unwrap();
    let mut command = docker.command("docker");
    command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", tag]).arg(&context);
    let built = said(&mut command);
    assert!(built.ok, "docker build {tag}: {}{}", built.out, built.err);
}

/// The compose plugin out of the image of tools: it is one file without dependencies.
fn plugin(docker: &Docker) {
    let target = docker.dir().join("config/cli-plugins/docker-compose");
    let id = docker.docker(&["create", TOOLS, "true"]);
    let from = format!("{}:/usr/libexec/docker/cli-plugins/docker-compose", id.trim());
    docker.docker(&["cp", &from, &target.display().to_string()]);
    docker.docker(&["rm", id.trim()]);
    assert!(docker.run("docker", &["compose", "version"]).ok, "the compose plugin does not run");
}

/// The image of Rust: this machine's toolchain, and, since the image's own cargo may have no network,
/// the crates that cargo has fetched here, with a cargo that asks for no others. Where they aren't, why.
pub(crate) fn rust(docker: &Docker) -> Result<(), String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|dir| dir.join(".cargo")));
    let registry = home.ok_or("no home directory")?.join("registry");
    if !registry.join("cache").is_dir() {
        return Err(format!("cargo has no crates in {}", registry.display()));
    }
    let sysroot = said(Command::new("rustc").args(["--print", "sysroot"]));
    if !sysroot.ok {
        return Err(format!("rustc: {}", sysroot.err));
    }
    say(&format!("making {RUST}"));
    let context = docker.dir().join("context");
    std::fs::create_dir_all(&context).unwrap();
    // The layers with the toolchain come first: they are made once.
    let lines = format!(
        "FROM {BASE}\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
         gcc libc6-dev && rm -rf /var/lib/apt/lists/*\n\
         COPY rust/ /usr/local/\nENV CARGO_HOME=/usr/local/cargo\n\
         COPY registry/ /usr/local/cargo/registry/\n\
         RUN echo '[net]' >> /usr/local/cargo/config.toml && \
         echo 'offline = true' >> /usr/local/cargo/config.toml\n"
    );
    std::fs::write(context.join("Dockerfile"), lines).unwrap();
    let script = "tar -c --sort=name --transform='s,^\\(bin\\|lib\\)/,rust/&,;s,^\\(cache\\|index\\)/,registry/&,' \
                  -C \"$1\" Dockerfile -C \"$2\" bin/cargo bin/rustc lib -C \"$3\" cache index \
                  | docker build -q -t \"$4\" -";
    let mut pack = docker.command("sh");
    pack.env("DOCKER_BUILDKIT", "0").args(["-c", script, "sh"]);
    let made = said(pack.arg(&context).arg(sysroot.out.trim()).arg(&registry).arg(RUST));
    assert!(made.ok, "{RUST}: {}{}", made.out, made.err);
    Ok(())
}

/// An image of Rust whose cargo has built pgherd before, for what is not about compiling.
pub(crate) fn stub(docker: &Docker, project: &Path) {
    let context = docker.dir().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::copy(project.join("target/image/pgherd"), context.join("pgherd")).unwrap();
    let lines = "COPY pgherd /pgherd-before\n\
                 RUN echo 'install -D /pgherd-before /build/release/pgherd' > /usr/local/bin/cargo \
                 && sed -i '1i #!/bin/sh' /usr/local/bin/cargo && chmod 755 /usr/local/bin/cargo";
    build(docker, STUB, lines);
}
