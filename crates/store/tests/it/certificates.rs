//! Certificates for tests, made by the openssl command. Shared with the tests of whole clusters.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A directory with an authority (`ca.pem`) and what it signed.
pub(crate) struct Certificates {
    openssl: PathBuf,
    dir: PathBuf,
}

impl Certificates {
    /// In a directory that is there.
    pub(crate) fn new(openssl: PathBuf, dir: PathBuf) -> Self {
        let made = Self { openssl, dir };
        made.authority("ca");
        made
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// `NAME.pem` and `NAME.key`, believed by nobody yet.
    pub(crate) fn authority(&self, name: &str) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.run(&[
            &["req", "-x509", "-keyout", &key, "-out", &pem],
            &EC[..],
            &["-subj", &subject],
        ]);
    }

    /// `FILE.pem` and `FILE.key` for `common_name` and `names` (`DNS:a,IP:::1`), signed by `ca`.
    pub(crate) fn sign(&self, file: &str, common_name: &str, names: &str, days: &str) {
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

    fn run(&self, words: &[&[&str]]) {
        let output = Command::new(&self.openssl)
            .current_dir(&self.dir)
            .args(words.concat())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {words:?}: {output:?}");
    }
}

const EC: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
