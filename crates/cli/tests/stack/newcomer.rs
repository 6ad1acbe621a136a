//! The first command of somebody who has cloned the repository: the image is compiled from source.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::images::{self, STUB};
use crate::stack::{SUPERUSER, Stack, write_port};
use crate::writer::execute;
use crate::{say, trial};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("newcomer_without_buildkit", without_buildkit),
        trial("newcomer_from_source", from_source),
    ]
}

/// What the README says, word for word, with the questions that come up on the way. Rust's image is
/// made here; the Dockerfile and the compose file are those of everybody.
fn from_source(stack: &Stack) {
    if let Err(why) = images::rust(&stack.docker) {
        say(&format!("SKIPPED: the image was not compiled from source: {why}"));
        return;
    }
    let clone = stack.cloned();
    // Before the file is there, `.env` leads nowhere.
    let said = clone.try_compose(&["up", "-d"]);
    assert!(!said.ok && said.err.contains(".env.postgres"), "{said:?}");
    let (example, file) =
        (clone.project.join(".env.postgres.example"), clone.project.join(".env.postgres"));
    std::fs::copy(&example, &file).unwrap();
    let said = clone.try_compose(&["up", "-d"]);
    let sentence = "choose one and write it into .env.postgres";
    assert!(!said.ok && said.err.contains(sentence), "{said:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("PGPASSWORD_SUPERUSER=\n", &format!("PGPASSWORD_SUPERUSER={SUPERUSER}\n"))
        .replace("PGPASSWORD_STANDBY=\n", "PGPASSWORD_STANDBY=standby-4711\n");
    std::fs::write(&file, text).unwrap();
    let began = Instant::now();
    // So that it is built, whatever an earlier run has left.
    clone.docker.run("docker", &["image", "rm", "-f", "pgherd-cloned:17"]);
    clone.compose(&["up", "-d"]);
    say(&format!("compiled, built and up after {} s", began.elapsed().as_secs()));
    execute(&write_port(), "CREATE TABLE newcomer AS SELECT 1 AS n", LIMIT);
    clone.whole();
    say(&format!("three nodes after {} s", began.elapsed().as_secs()));
    let version = clone.exec("pg-0", &["pgherd", "--version"]);
    assert!(version.ok, "{version:?}");
    let format = "{{.Size}}";
    let size = clone.docker.docker(&["image", "inspect", "-f", format, "pgherd-cloned:17"]);
    say(&format!("its image has {} bytes", size.trim()));
}

/// Debian's docker.io has no BuildKit for `docker build`. That builder goes through every stage; the
/// compiler is left out of it here.
fn without_buildkit(stack: &Stack) {
    images::stub(&stack.docker, &stack.project);
    let clone = stack.cloned();
    let mut build = clone.docker.command("docker");
    build.env("DOCKER_BUILDKIT", "0").current_dir(&clone.project);
    let argument = format!("RUST_IMAGE={STUB}");
    build.args(["build", "-q", "-t", "pgherd-classic:17", "--build-arg", &argument, "."]);
    let began = Instant::now();
    let built = crate::docker::said(&mut build);
    assert!(built.ok, "{}{}", built.out, built.err);
    say(&format!("built without BuildKit after {} s", began.elapsed().as_secs()));
    let words = ["run", "--rm", "pgherd-classic:17", "--version"];
    let version = clone.docker.docker(&words);
    assert!(version.starts_with("pgherd "), "{version}");
}
