//! Certificates for tests, made by the openssl command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::find;

/// A directory with an authority (`ca.pem`) and what it signed.
pub struct Certificates {
    openssl: PathBuf,
    dir: tempfile::TempDir,
}

impl Certificates {
    pub fn new() -> Option<Self> {
        let openssl = find("PGHERD_OPENSSL", "openssl")?;
        let made = Self { openssl, dir: tempfile::tempdir().unwrap() };
        made.authority("ca");
        Some(made)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// `NAME.pem` and `NAME.key`, believed by nobody yet.
    pub fn authority(&self, name: &str) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.run(&[
            &["req", "-x509", "-keyout", &key, "-out", &pem],
            &EC[..],
            &["-subj", &subject],
        ]);
    }

    /// `FILE.pem` and `FILE.key` for `common_name` and `names` (`DNS:a,IP:::1`), signed by `ca`.
    pub fn sign(&self, file: &str, common_name: &str, names: &str, days: &str) {
        let [key, csr, pem, ext] =
            ["key", "csr", "pem", "ext"].map(|kind| format!("{file}.{kind}"));
        let subject = format!("/CN={common_name}");
        self.run(&[&["req", "-keyout", &key, "-out", &csr], &EC[..], &["-subj", &subject]]);
        std::fs::write(self.path(&ext), format!("subjectAltName={names}")).unwrap();
        self.run(&[
            &["x509", "-req", "-in", &csr, "-out", &pem, "-CA", "ca.pem", "-CAkey", "ca.key"],
            &["-CAcreateserial", "-days", days, "-extfile", &ext],
        ]);
    }

    /// Puts certificate and key of `from` where those of `to` are, as a rotation does.
    pub fn rotate(&self, from: &str, to: &str) {
        for kind in ["key", "pem"] {
            let copy = self.path(&format!("{to}.new"));
            std::fs::copy(self.path(&format!("{from}.{kind}")), &copy).unwrap();
            std::fs::rename(copy, self.path(&format!("{to}.{kind}"))).unwrap();
        }
    }

    fn run(&self, words: &[&[&str]]) {
        let output = Command::new(&self.openssl)
            .current_dir(self.dir.path())
            .args(words.concat())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {words:?}: {output:?}");
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

const EC: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
