//! Docker for the tests: the daemon that is there, or one started by hand below `target/stack`, and
//! commands with a deadline. Leaves what is run to the stack and its tests.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A daemon, and how to talk to it.
pub(crate) struct Docker {
    dir: PathBuf,
    host: Option<String>,
    daemon: Option<Child>,
}

impl Docker {
    /// One that works, or why there is none.
    pub(crate) fn find() -> Result<Self, String> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/stack");
        std::fs::create_dir_all(dir.join("config/cli-plugins")).map_err(|e| e.to_string())?;
        let dir = dir.canonicalize().map_err(|e| e.to_string())?;
        let mut docker = Self { dir, host: None, daemon: None };
        if !docker.run("docker", &["--version"]).ok {
            return Err("there is no docker command".to_owned());
        }
        if !docker.answers() {
            docker.start_daemon()?;
        }
        Ok(docker)
    }

    fn answers(&self) -> bool {
        self.run("docker", &["info", "--format", "{{.ServerVersion}}"]).ok
    }

    /// A daemon of our own: its data stays for the next run, so that images needn't be built again.
    fn start_daemon(&mut self) -> Result<(), String> {
        // The path of a socket has at most 108 bytes.
        let run = PathBuf::from(format!("/run/pgherd-stack-{}", std::process::id()));
        std::fs::create_dir_all(&run)
            .map_err(|e| format!("no docker daemon, and not root: {e}"))?;
        let socket = run.join("docker.sock");
        let log = std::fs::File::create(self.dir.join("dockerd.log")).map_err(|e| e.to_string())?;
        let mut command = Command::new("dockerd");
        command
            .arg("--data-root")
            .arg(self.dir.join("docker"))
            .arg("--exec-root")
            .arg(run.join("exec"))
            .arg("--pidfile")
            .arg(run.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--bip", "172.29.76.1/24"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log);
        let child =
            command.spawn().map_err(|e| format!("no docker daemon answers: dockerd: {e}"))?;
        self.daemon = Some(child);
        self.host = Some(format!("unix://{}", socket.display()));
        let until = Instant::now() + Duration::from_secs(60);
        while !self.answers() {
            let ended = self
                .daemon
                .as_mut()
                .is_none_or(|child| child.try_wait().is_ok_and(|s| s.is_some()));
            if ended || Instant::now() > until {
                let log = std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_owned();
                return Err(format!("dockerd does not start here: {last}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Where things of the tests are kept.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command with this daemon in its environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("DOCKER_BUILDKIT", "1").env("BUILDKIT_PROGRESS", "plain");
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        if self.dir.join("config/cli-plugins/docker-compose").exists() {
            command.env("DOCKER_CONFIG", self.dir.join("config"));
        }
        command
    }

    pub(crate) fn run(&self, program: &str, words: &[&str]) -> Said {
        said(self.command(program).args(words))
    }

    /// `docker WORDS`, which must succeed.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let said = self.run("docker", words);
        assert!(said.ok, "docker {}: {}{}", words.join(" "), said.out, said.err);
        said.out
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

/// Runs it to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match command.output() {
        Ok(output) => {
            Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
        }
        Err(error) => Said { ok: false, out: String::new(), err: error.to_string() },
    }
}
