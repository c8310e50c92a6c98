//! Sysctls of this network namespace, set for a time and given back.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// What SYN defence lacks: a sysctl that is not as it needs it, and cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Its name, as `sysctl` knows it.
    pub sysctl: &'static str,
    /// What it should be.
    pub wanted: &'static str,
    /// What it is; empty if it cannot be read.
    pub found: String,
    /// Why it could not be set.
    pub why: String,
    /// What follows.
    pub effect: &'static str,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sysctl,
            wanted,
            found,
            why,
            effect,
        } = self;
        let found = if found.is_empty() { "unknown" } else { found };
        write!(
            f,
            "{sysctl} is {found}, not {wanted} ({why}): {effect}; set it with sysctl"
        )
    }
}

/// A sysctl that is set while it is needed, and then given back.
pub struct Borrowed {
    path: PathBuf,
    name: &'static str,
    wanted: &'static str,
    effect: &'static str,
    /// Values that may be changed into the wanted one; others are the operator's decision.
    from: &'static [&'static str],
    /// What it was before this agent set it.
    before: Option<String>,
    holds: bool,
}

impl Borrowed {
    /// The stack makes cookies for every SYN, not only for those that its queue has no room for.
    pub fn cookies() -> Self {
        Self::at(
            Path::new("/proc/sys/net/ipv4/tcp_syncookies"),
            "net.ipv4.tcp_syncookies",
            "SYNs are answered before the stack only while a listener's queue is full",
            &["0", "1"],
        )
    }

    /// Timestamps without an offset for each pair of addresses, which only the stack can compute.
    pub fn timestamps() -> Self {
        Self::at(
            Path::new("/proc/sys/net/ipv4/tcp_timestamps"),
            "net.ipv4.tcp_timestamps",
            "connections made through cookies have no window scale, SACK and timestamps",
            &["1"],
        )
    }

    fn at(path: &Path, name: &'static str, effect: &'static str, from: &'static [&'static str]) -> Self {
        Self {
            path: path.to_owned(),
            name,
            wanted: "2",
            effect,
            from,
            before: None,
            holds: false,
        }
    }

    /// Whether it is as wanted, as far as known.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Sets it if it is needed, gives it back if not; what is lacking.
    pub fn want(&mut self, needed: bool) -> Option<Shortfall> {
        if !needed {
            self.restore();
            return None;
        }
        let found = self.read().unwrap_or_default();
        self.holds = found == self.wanted;
        if self.holds {
            return None;
        }
        let why = if self.from.contains(&found.as_str()) {
            match fs::write(&self.path, self.wanted) {
                Ok(()) => {
                    tracing::info!(sysctl = self.name, from = found, to = self.wanted, "sysctl set");
                    self.before.get_or_insert(found);
                    self.holds = true;
                    return None;
                }
                Err(error) => reason(&error),
            }
        } else {
            "it is left as the operator has it".to_owned()
        };
        Some(Shortfall {
            sysctl: self.name,
            wanted: self.wanted,
            found,
            why,
            effect: self.effect,
        })
    }

    /// Gives it back, unless somebody else has changed it since.
    pub fn restore(&mut self) {
        self.holds = false;
        let Some(before) = self.before.take() else { return };
        if self.read().is_ok_and(|value| value == self.wanted) {
            match fs::write(&self.path, &before) {
                Ok(()) => tracing::info!(sysctl = self.name, to = before, "sysctl given back"),
                Err(error) => {
                    tracing::error!(sysctl = self.name, to = before, %error, "sysctl not given back");
                }
            }
        }
    }

    fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.path)?.trim().to_owned())
    }
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EROFS) => "/proc/sys is read-only for the agent".to_owned(),
        Some(libc::EACCES | libc::EPERM) => "the agent may not set it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(value: &str) -> (tempfile::NamedTempFile, Borrowed) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{value}\n")).unwrap();
        let borrowed = Borrowed::at(file.path(), "net.test", "it is a test", &["0", "1"]);
        (file, borrowed)
    }

    fn value(file: &tempfile::NamedTempFile) -> String {
        fs::read_to_string(file.path()).unwrap().trim().to_owned()
    }

    #[test]
    fn it_is_set_and_given_back() {
        let (file, mut borrowed) = sysctl("1");
        assert_eq!(borrowed.want(true), None);
        assert_eq!((value(&file).as_str(), borrowed.holds()), ("2", true));
        assert_eq!(borrowed.want(true), None);
        assert_eq!(borrowed.want(false), None);
        assert_eq!((value(&file).as_str(), borrowed.holds()), ("1", false));
    }

    #[test]
    fn what_was_right_before_is_left_alone() {
        let (file, mut borrowed) = sysctl("2");
        assert_eq!(borrowed.want(true), None);
        borrowed.restore();
        assert_eq!(value(&file), "2");
    }

    #[test]
    fn what_somebody_else_has_changed_is_not_given_back() {
        let (file, mut borrowed) = sysctl("0");
        assert_eq!(borrowed.want(true), None);
        fs::write(file.path(), "1").unwrap();
        borrowed.restore();
        assert_eq!(value(&file), "1");
    }

    #[test]
    fn a_value_that_an_operator_chose_for_a_reason_stays() {
        let (file, mut borrowed) = sysctl("3");
        let shortfall = borrowed.want(true).unwrap();
        assert_eq!((shortfall.found.as_str(), borrowed.holds()), ("3", false));
        assert_eq!(value(&file), "3");
    }

    #[test]
    fn one_that_is_not_there_is_named() {
        let mut borrowed = Borrowed::at(
            Path::new("/nonexistent/sysctl"),
            "net.test",
            "it is a test",
            &["1"],
        );
        let shortfall = borrowed.want(true).unwrap();
        assert!(
            shortfall.to_string().contains("net.test is unknown"),
            "{shortfall}"
        );
    }
}
