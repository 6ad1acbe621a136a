//! Where lines go: standard error, or a file that begins anew when it is long. What a file does not
//! take goes to standard error.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgherd_config::log::LogFile;

use super::line::{Form, Record};

/// Where lines go.
pub(super) struct Sink {
    file: Option<Rotated>,
    /// So many went to standard error instead of the file, since the file failed.
    astray: u64,
}

impl Sink {
    /// The file is opened with its first line.
    pub(super) fn new(file: Option<&LogFile>, name: &str) -> Self {
        let file = file.map(|file| Rotated {
            path: file.dir.join(name),
            mode: file.mode,
            size: file.size,
            keep: file.keep,
            open: None,
        });
        Self { file, astray: 0 }
    }

    /// Writes a line. It may take as long as a disk takes.
    pub(super) fn write(&mut self, line: &str, form: &Form) {
        let Some(file) = &mut self.file else { return to_standard_error(line) };
        if self.astray > 0 {
            let words = format!("{} lines went to standard error before this one", self.astray);
            if file.write(&form.line(&Record::own(words))).is_ok() {
                self.astray = 0;
            }
        }
        let Err(error) = file.write(line) else { return };
        if self.astray == 0 {
            let path = file.path.display();
            let words = format!("the log {path} can't be written ({error}); its lines follow here");
            to_standard_error(&form.line(&Record::own(words)));
        }
        self.astray += 1;
        to_standard_error(line);
    }
}

/// A broken standard error leaves nobody to tell.
fn to_standard_error(line: &str) {
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// A file, and the numbered ones before it (`patroni.log`, `patroni.log.1`, ...).
struct Rotated {
    path: PathBuf,
    mode: u32,
    size: u64,
    keep: u32,
    open: Option<(File, u64)>,
}

impl Rotated {
    fn write(&mut self, line: &str) -> io::Result<()> {
        let written = self.attempt(line);
        if written.is_err() {
            // Opened anew with the next line: the disk may be another by then.
            self.open = None;
        }
        written
    }

    fn attempt(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64;
        let full = |open: &(File, u64)| open.1 > 0 && open.1 + length > self.size;
        if self.keep > 0 && self.size > 0 && self.open.as_ref().is_some_and(full) {
            self.open = None;
            self.move_on()?;
        }
        if self.open.is_none() {
            self.open = Some(open(&self.path, self.mode)?);
        }
        let Some((file, written)) = &mut self.open else { return Ok(()) };
        file.write_all(line.as_bytes())?;
        *written += length;
        Ok(())
    }

    /// Every file gets the next number; the last one goes.
    fn move_on(&self) -> io::Result<()> {
        let numbered = |number: u32| match number {
            0 => self.path.clone(),
            _ => PathBuf::from(format!("{}.{number}", self.path.display())),
        };
        for number in (0..self.keep).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn open(path: &Path, mode: u32) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(mode).open(path)?;
    let known = file.metadata()?;
    // The umask may have taken something of it away; a file of others keeps what it has.
    if known.is_file() {
        let _ = file.set_permissions(Permissions::from_mode(mode));
    }
    Ok((file, known.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]
    use pgherd_config::LogSettings;

    use super::*;

    fn sink(dir: &Path, size: u64, keep: u32) -> Sink {
        let file = LogFile { dir: dir.to_owned(), mode: 0o640, size, keep };
        Sink::new(Some(&file), "x.log")
    }

    #[test]
    fn files_begin_anew_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let form = Form::of(&LogSettings::default());
        let mut log = sink(&dir.path().join("below"), 10, 2);
        for line in ["1234567\n", "2345678\n", "3\n", "4567890\n", "5678901\n"] {
            log.write(line, &form);
        }
        let read = |name: &str| fs::read_to_string(dir.path().join("below").join(name)).ok();
        assert_eq!(read("x.log").as_deref(), Some("5678901\n"));
        assert_eq!(read("x.log.1").as_deref(), Some("4567890\n"));
        assert_eq!(read("x.log.2").as_deref(), Some("2345678\n3\n"));
        assert_eq!(read("x.log.3"), None);
        let mode = fs::metadata(dir.path().join("below/x.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // A later process goes on where this one was.
        let mut later = sink(&dir.path().join("below"), 10, 2);
        later.write("6\n", &form);
        assert_eq!(read("x.log").as_deref(), Some("5678901\n6\n"));
    }

    #[test]
    fn a_full_disk_is_survived_and_said_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let form = Form::of(&LogSettings::default());
        let mut log = sink(dir.path(), 1_000, 2);
        log.write("to nowhere\n", &form);
        log.write("to nowhere\n", &form);
        fs::remove_file(&path).unwrap();
        log.write("there\n", &form);
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.contains("2 lines went to standard error before this one"), "{written}");
        assert!(written.ends_with("there\n"), "{written}");
    }
}
