//! The stack as its users have it: a copy of the compose file and of what it names, in a directory
//! of its own, with passwords filled in. Leaves what is done to it to the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Config;

use crate::docker::{Docker, Said, said};
use crate::images;
use crate::say;
use crate::writer::{config, number_now};

pub(crate) const SUPERUSER: &str = "superuser-4711";
pub(crate) const APP: &str = "it's $the \\app";
pub(crate) const WRITE: u16 = 24_532;
pub(crate) const READ: u16 = 24_533;
const PROJECT: &str = "pgherd-test";
/// The first three numbers of every address.
pub(crate) const PREFIX: &str = "172.29.77";

/// The services that have to be well, and `pg-cluster-init` beside them.
pub(crate) const NODES: [&str; 3] = ["pg-0", "pg-1", "pg-2"];
pub(crate) const ETCD: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

/// A member as `/cluster` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) state: String,
}

/// A running stack.
pub(crate) struct Stack {
    pub(crate) docker: Arc<Docker>,
    pub(crate) project: PathBuf,
    /// What is set in the shell beside the files.
    shell: Vec<(&'static str, String)>,
}

impl Stack {
    /// The files, and the images.
    pub(crate) fn prepare(docker: Docker) -> Self {
        let project = docker.dir().join("project");
        let _ = std::fs::remove_dir_all(&project);
        std::fs::create_dir_all(&project).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in [
            "docker-compose.yml",
            "Dockerfile",
            ".dockerignore",
            "LICENSE",
            "config",
            "init-scripts",
        ] {
            let copied =
                said(std::process::Command::new("cp").arg("-a").arg(root.join(name)).arg(&project));
            assert!(copied.ok, "{}", copied.err);
        }
        let stack = Self { docker: Arc::new(docker), project, shell: Vec::new() };
        images::make(&stack.docker, &stack.project);
        stack.write_environment(&[]);
        let example = stack.project.join("init-scripts/init_users_dbs.sql.example");
        std::fs::copy(example, stack.project.join("init-scripts/10_users_dbs.sql")).unwrap();
        stack.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "1"]);
        let began = Instant::now();
        stack.compose(&["build", "--quiet", "pg-0"]);
        say(&format!("the image is built after {} s", began.elapsed().as_secs()));
        stack
    }

    /// What somebody has who has just cloned the repository: the files that git knows, as they are
    /// here. Ports and addresses are the tests' own; it can't run beside the other.
    pub(crate) fn cloned(&self) -> Self {
        let project = self.docker.dir().join("cloned");
        let _ = std::fs::remove_dir_all(&project);
        std::fs::create_dir_all(&project).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let script = "git ls-files -z | tar -c --null -T - | tar -x -C \"$1\"";
        let mut copy = std::process::Command::new("sh");
        copy.current_dir(root).args(["-c", script, "sh"]).arg(&project);
        let copied = said(&mut copy);
        assert!(copied.ok, "{}", copied.err);
        let shell = vec![
            ("PGHERD_IMAGE", "pgherd-cloned:17".to_owned()),
            // An optimised build takes too long for every run of the tests: PROFILE=release does it.
            ("PROFILE", std::env::var("PROFILE").unwrap_or_else(|_| "dev".to_owned())),
            ("POSTGRES_WRITE_HOST_PORT", WRITE.to_string()),
            ("POSTGRES_READ_HOST_PORT", READ.to_string()),
            ("POSTGRES_PORT", "24540".to_owned()),
            ("ETCD_CLIENT_PORT", "24579".to_owned()),
            ("INFRA_PREFIX", PREFIX.to_owned()),
        ];
        Self { docker: Arc::clone(&self.docker), project, shell }
    }

    /// `.env.postgres` as the example says, with what has no default; `more` wins.
    pub(crate) fn write_environment(&self, more: &[(&str, &str)]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let example = std::fs::read_to_string(root.join(".env.postgres.example")).unwrap();
        let quoted = format!("'{}'", APP.replace('\'', "\\'"));
        let write = WRITE.to_string();
        let read = READ.to_string();
        let ours = [
            ("PGPASSWORD_SUPERUSER", SUPERUSER),
            ("PGPASSWORD_STANDBY", "standby-4711"),
            ("APP_PASSWORD", &quoted),
            ("POSTGRES_WRITE_HOST_PORT", &write),
            ("POSTGRES_READ_HOST_PORT", &read),
            ("POSTGRES_PORT", "24540"),
            ("ETCD_CLIENT_PORT", "24579"),
            ("INFRA_PREFIX", PREFIX),
            ("BINARY", "prebuilt"),
        ];
        let lines: String =
            ours.iter().chain(more).map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(self.project.join(".env.postgres"), format!("{example}\n{lines}")).unwrap();
        let link = self.project.join(".env");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(".env.postgres", link).unwrap();
    }

    /// `docker compose WORDS`.
    pub(crate) fn try_compose(&self, words: &[&str]) -> Said {
        let mut command = self.docker.command("docker");
        command.current_dir(&self.project).env("COMPOSE_PROJECT_NAME", PROJECT);
        command.envs(self.shell.iter().map(|(name, value)| (name, value)));
        said(command.arg("compose").args(words))
    }

    /// The same, which must succeed.
    pub(crate) fn compose(&self, words: &[&str]) -> String {
        let said = self.try_compose(words);
        assert!(said.ok, "docker compose {}: {}{}", words.join(" "), said.out, said.err);
        format!("{}{}", said.out, said.err)
    }

    /// A container's name.
    pub(crate) fn container(service: &str) -> String {
        format!("{PROJECT}-{service}-1")
    }

    pub(crate) fn network() -> String {
        format!("{PROJECT}_infra_net")
    }

    pub(crate) fn volume(service: &str) -> String {
        format!("{PROJECT}_{}-data", service.replace('-', ""))
    }

    /// A program in a service's container.
    pub(crate) fn exec(&self, service: &str, words: &[&str]) -> Said {
        self.try_compose(&[&["exec", "-T", service], words].concat())
    }

    /// The members, as any agent that answers tells them.
    pub(crate) fn members(&self) -> Vec<Member> {
        for node in NODES {
            let said = self.exec(node, &["curl", "-sf", "-m", "3", "localhost:8008/cluster"]);
            let Ok(body) = serde_json::from_str::<Value>(&said.out) else { continue };
            let text =
                |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
            let members = body["members"].as_array().cloned().unwrap_or_default();
            return members
                .iter()
                .map(|it| Member {
                    name: text(it, "name"),
                    role: text(it, "role"),
                    state: text(it, "state"),
                })
                .collect();
        }
        Vec::new()
    }

    pub(crate) fn leader(&self) -> String {
        self.until(Duration::from_secs(60), "a leader", || {
            self.members().into_iter().find(|it| it.role == "leader").map(|it| it.name)
        })
    }

    pub(crate) fn replica(&self) -> String {
        let leader = self.leader();
        let other = NODES.iter().find(|name| **name != leader).unwrap();
        (*other).to_owned()
    }

    /// Waits until all three nodes are there and replicas stream, and the router takes writes.
    pub(crate) fn whole(&self) -> Duration {
        let began = Instant::now();
        self.until(Duration::from_secs(120), "a whole cluster", || {
            let members = self.members();
            let running = members.iter().filter(|it| {
                let wanted = if it.role == "leader" { "running" } else { "streaming" };
                NODES.contains(&it.name.as_str()) && it.state == wanted
            });
            let led = members.iter().any(|it| it.role == "leader");
            let writes = "SELECT (NOT pg_is_in_recovery())::int::bigint";
            (led && running.count() == 3 && number_now(&write_port(), writes) == Some(1))
                .then_some(())
        });
        began.elapsed()
    }

    /// Asks again until there is an answer.
    pub(crate) fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut ask: impl FnMut() -> Option<T>,
    ) -> T {
        let until = Instant::now() + limit;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if Instant::now() > until {
                let logs = self.try_compose(&["logs", "--no-color", "--tail", "25"]);
                panic!("no {what} within {limit:?}; {:?}\n{}", self.members(), logs.out);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.try_compose(&["down", "--volumes", "--remove-orphans", "--timeout", "5"]);
    }
}

/// As clients of this machine come in.
pub(crate) fn write_port() -> Config {
    config(WRITE, SUPERUSER)
}

pub(crate) fn read_port() -> Config {
    config(READ, SUPERUSER)
}
