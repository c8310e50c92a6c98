//! Files of which something is made, and made anew when they change.
//!
//! What is looked at often is what the file system says of them; links are followed, so that a
//! replaced link (as Kubernetes replaces `..data`) is a change. Only if that differs are they read, and
//! only other contents are a change. What cannot be used leaves what was made before.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::digest::{Context, SHA256};

use super::error::TlsError;
use crate::file_stamp::Stamp;

/// A file is read up to this many bytes.
pub const MAX_FILE: u64 = 16 * 1024 * 1024;

/// How often files that change while they are read are read again.
const ATTEMPTS: usize = 3;

/// SHA-256 of all contents.
pub type Digest = [u8; 32];

/// Something, with the files of which it was made.
#[derive(Debug)]
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    /// `None`: read them in any case.
    seen: Option<Vec<Stamp>>,
    digest: Digest,
    value: Arc<T>,
}

/// The contents of files at one time.
#[derive(Debug)]
pub struct Contents {
    /// In the order of the paths.
    pub files: Vec<Vec<u8>>,
    pub digest: Digest,
    stamps: Option<Vec<Stamp>>,
}

impl<T> Watched<T> {
    /// Reads the files and makes the value of them.
    pub fn load(
        paths: Vec<PathBuf>,
        make: impl FnOnce(&Contents) -> Result<T, TlsError>,
    ) -> Result<Self, TlsError> {
        let contents = Contents::read(&paths)?;
        Ok(Self {
            value: Arc::new(make(&contents)?),
            paths,
            seen: contents.stamps,
            digest: contents.digest,
        })
    }

    /// What was made last.
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// Makes the value anew if the files have changed. Whether it has.
    pub fn look(&mut self, make: impl FnOnce(&Contents) -> Result<T, TlsError>) -> Result<bool, TlsError> {
        if let Some(seen) = &self.seen
            && stamps(&self.paths).is_ok_and(|now| now == *seen)
        {
            return Ok(false);
        }
        // Until all is well again, each look reads.
        self.seen = None;
        let contents = Contents::read(&self.paths)?;
        let changed = contents.digest != self.digest;
        if changed {
            self.value = Arc::new(make(&contents)?);
            self.digest = contents.digest;
        }
        self.seen = contents.stamps;
        Ok(changed)
    }
}

impl Contents {
    /// Reads files, again if one of them changes meanwhile: a certificate and its key are replaced
    /// together.
    pub fn read(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let before = stamps(paths)?;
            let files: Vec<_> = paths.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
            if left > 0 && stamps(paths)? != before {
                continue;
            }
            let mut digest = Context::new(&SHA256);
            for file in &files {
                digest.update(&(file.len() as u64).to_be_bytes());
                digest.update(file);
            }
            let mut out = Digest::default();
            out.copy_from_slice(digest.finish().as_ref());
            let now = SystemTime::now();
            return Ok(Self {
                files,
                digest: out,
                stamps: before.iter().all(|stamp| stamp.is_settled(now)).then_some(before),
            });
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Result<Vec<Stamp>, TlsError> {
    let stamp = |path: &PathBuf| {
        let data = fs::metadata(path).map_err(|source| unreadable(path, source))?;
        Ok(Stamp::from(&data))
    };
    paths.iter().map(stamp).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let data = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !data.is_file() {
        // Opening a FIFO would wait for whoever writes.
        return Err(unreadable(path, io::Error::other("it is not a regular file")));
    }
    if data.len() > MAX_FILE {
        return Err(TlsError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> TlsError {
    TlsError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_contents_are_a_change_and_bad_ones_leave_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "one").unwrap();
        let make = |contents: &Contents| match &contents.files[0][..] {
            b"bad" => Err(TlsError::NoCertificate),
            good => Ok(good.to_vec()),
        };
        let mut watched = Watched::load(vec![path.clone()], make).unwrap();
        assert!(!watched.look(make).unwrap());
        fs::write(&path, "bad").unwrap();
        assert!(watched.look(make).is_err());
        assert!(watched.look(make).is_err(), "it is said as long as it is so");
        assert_eq!(**watched.value(), b"one");
        fs::write(&path, "one").unwrap();
        assert!(!watched.look(make).unwrap());
        fs::write(&path, "two").unwrap();
        assert!(watched.look(make).unwrap());
        assert_eq!(**watched.value(), b"two");
        fs::remove_file(&path).unwrap();
        assert!(matches!(watched.look(make), Err(TlsError::Read { .. })));
        assert_eq!(**watched.value(), b"two");
    }
}
