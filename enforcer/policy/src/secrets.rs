//! Where the secrets are that policies name: below one folder, so that who may write policies cannot have the agent send any
//! file that it can read to a host of their choice.
//!
//! The kernel keeps to that (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS`): no `..`, link or absolute path
//! leads out. Links that stay below the folder work, so the `..data` of Kubernetes' secrets does.

use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::problem::{Problem, Severity};
use enforcer_model::{CheckedBy, PolicySet};

/// Where secrets are unless configured.
pub const DEFAULT: &str = "/etc/enforcer/secrets";

/// The folder below which secrets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretsDir {
    pub path: PathBuf,
    /// Secrets elsewhere are refused. Else, for one release, they are used, and warned of.
    pub strict: bool,
}

/// This process's. Unset while files are only checked.
static FOLDER: OnceLock<SecretsDir> = OnceLock::new();

impl Default for SecretsDir {
    fn default() -> Self {
        Self {
            path: DEFAULT.into(),
            strict: false,
        }
    }
}

/// From now on, policies' secrets are read from below `folder` alone. Only the first call counts.
pub fn confine(folder: &SecretsDir) {
    FOLDER.get_or_init(|| folder.clone());
}

/// The bytes of a secret that policies name, of which there are `most` at most.
///
/// # Errors
/// It cannot be opened below the folder, cannot be read, or is longer.
pub fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    read_below(FOLDER.get(), path, most)
}

fn read_below(folder: Option<&SecretsDir>, path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file = match folder {
        Some(folder) => folder.open(path)?,
        None => File::open(path)?,
    };
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

impl SecretsDir {
    /// Whether the path says that it is below the folder.
    fn holds(&self, path: &Path) -> bool {
        self.below(path).is_some()
    }

    fn below(&self, path: &Path) -> Option<PathBuf> {
        let path = plain(path)?;
        let rest = path.strip_prefix(plain(&self.path)?).ok()?;
        (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let Some(rest) = self.below(path) else {
            if self.strict {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, self.outside()));
            }
            return File::open(path);
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let folder = openat2(
            CWD,
            &self.path,
            flags | OFlags::DIRECTORY,
            Mode::empty(),
            ResolveFlags::empty(),
        )?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&folder, &rest, flags, Mode::empty(), resolve).map_err(|error| match error {
            rustix::io::Errno::XDEV => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it leads out of {} (`secretsDir`)", self.path.display()),
            ),
            error => error.into(),
        })?;
        let file = File::from(file);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(file)
    }

    fn outside(&self) -> String {
        format!("it is not below {} (`secretsDir`)", self.path.display())
    }

    /// What is wrong with where the secrets of `set` are.
    pub fn problems(&self, set: &PolicySet, severity: Severity) -> Vec<Problem> {
        let secrets = set.issuers.iter().filter_map(|issuer| match &issuer.checked_by {
            CheckedBy::Introspection(asked) => Some((&issuer.origin, &asked.secret_file)),
            CheckedBy::Keys(_) => None,
        });
        let outside = secrets.filter(|(_, path)| !self.holds(path));
        outside
            .map(|(origin, path)| {
                let message = format!("the secret {}: {}", path.display(), self.outside());
                let hint =
                    "move the secret there; `secretsDir` in the agent's configuration names another folder";
                Problem {
                    severity,
                    line: origin.line,
                    column: 1,
                    path: "spec.introspection.clientSecretFile".to_owned(),
                    ..Problem::of_file(origin.file.clone(), message, Some(hint.to_owned()))
                }
            })
            .collect()
    }
}

/// The path from the root, without `.` and `..`, as it is written: links are not followed, since what is opened is opened
/// below the folder.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(path).ok()?.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    Some(plain)
}

/// What the running agent says of a set that it is to put in force.
pub fn concerns(set: &PolicySet) -> Vec<Problem> {
    let Some(folder) = FOLDER.get() else {
        return Vec::new();
    };
    let severity = if folder.strict {
        Severity::Error
    } else {
        Severity::Warning
    };
    folder.problems(set, severity)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn folder(path: PathBuf, strict: bool) -> SecretsDir {
        SecretsDir { path, strict }
    }

    #[test]
    fn l9_no_path_and_no_link_leads_out_of_the_folder() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("secrets");
        fs::create_dir_all(root.join("idp")).unwrap();
        fs::write(directory.path().join("key.pem"), "private").unwrap();
        fs::write(root.join("plain"), "hunter2\n").unwrap();
        // As Kubernetes mounts a secret.
        fs::create_dir(root.join("idp/..2026_11_30")).unwrap();
        fs::write(root.join("idp/..2026_11_30/secret"), "hunter3").unwrap();
        symlink("..2026_11_30", root.join("idp/..data")).unwrap();
        symlink("..data/secret", root.join("idp/secret")).unwrap();
        symlink("../key.pem", root.join("up")).unwrap();
        symlink(directory.path().join("key.pem"), root.join("absolute")).unwrap();
        symlink("/proc/self/fd/0", root.join("magic")).unwrap();
        let read = |name: &str, strict| {
            let read = read_below(Some(&folder(root.clone(), strict)), &root.join(name), 10);
            read.map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for strict in [true, false] {
            assert_eq!(read("plain", strict).unwrap(), "hunter2\n");
            assert_eq!(read("idp/secret", strict).unwrap(), "hunter3");
            assert_eq!(read("idp/../plain", strict).unwrap(), "hunter2\n");
            for out in ["up", "absolute", "magic", "idp", "absent", "."] {
                assert!(read(out, strict).is_err(), "{out}");
            }
        }
        for out in ["../key.pem", "idp/../../key.pem", "../secretsx"] {
            assert!(read(out, true).is_err(), "{out}");
        }
        let refused = read("up", true).unwrap_err().to_string();
        assert!(
            refused.contains("leads out of") && refused.contains("secretsDir"),
            "{refused}"
        );
        assert!(read_below(Some(&folder(root.clone(), true)), &root.join("plain"), 7).is_err());
        // Elsewhere: refused where the folder is configured, else used for one release.
        let elsewhere = directory.path().join("key.pem");
        let error = read_below(Some(&folder(root.clone(), true)), &elsewhere, 10).unwrap_err();
        assert!(error.to_string().contains("is not below"), "{error}");
        assert!(read_below(Some(&folder(root, false)), &elsewhere, 10).is_ok());
    }
}
