//! Network namespaces, entered with `setns` for the network alone: `ip netns exec` would also
//! remount `/sys`, under which programs pinned in bpffs are not seen.

use std::{
    fs::File,
    marker::PhantomData,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{cleanup, sys};

/// Every namespace of every lab begins with this, then the process and the lab's number.
pub const PREFIX: &str = "enf-";

const FOLDER: &str = "/run/netns";

/// A network namespace. The last clone that is dropped removes it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    name: String,
}

/// This thread is in a namespace until the guard is dropped.
#[derive(Debug)]
pub struct Entered {
    before: OwnedFd,
    /// The guard must be dropped by the thread that entered.
    _not_send: PhantomData<*const ()>,
}

impl Namespace {
    /// Makes the namespace `NAME` with its loopback up.
    ///
    /// # Errors
    /// If this process is not root, or `ip` refuses.
    pub fn create(name: &str) -> Result<Self> {
        cleanup::add_namespace(name)?;
        let namespace = Self(Arc::new(Owned {
            name: name.to_owned(),
        }));
        ip(&["netns", "add", name])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that `nsenter --net=` takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.0.name)
    }

    /// Moves this thread into the namespace.
    ///
    /// # Errors
    /// If the namespace is gone or this process is not root.
    pub fn enter(&self) -> Result<Entered> {
        let before = File::open("/proc/thread-self/ns/net").context("cannot tell this thread's namespace")?;
        sys::enter_network(self.open()?.as_fd())
            .with_context(|| format!("cannot enter namespace {}", self.name()))?;
        Ok(Entered {
            before: before.into(),
            _not_send: PhantomData,
        })
    }

    /// Runs `work` in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// What `work` says, or that the namespace could not be entered.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _entered = self.enter()?;
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command whose process will be in the namespace. It ends with the thread that starts it.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        sys::confine(&mut command, self.open()?);
        Ok(command)
    }

    /// Runs iproute2's `ip` in the namespace.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let command = self.command("ip")?;
        finish(command, arguments).with_context(|| format!("in namespace {}", self.name()))
    }

    /// Sets a sysctl below `/proc/sys/net`, as `ipv4/ip_forward`.
    ///
    /// # Errors
    /// If the kernel lacks it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys/net").join(key), value)
                .with_context(|| format!("cannot set net/{key} to {value} in namespace {}", self.name()))
        })
    }

    fn open(&self) -> Result<OwnedFd> {
        let file = File::open(self.path()).with_context(|| format!("namespace {} is gone", self.name()))?;
        Ok(file.into())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = cleanup::remove_namespace(&self.name) {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(error) = sys::enter_network(self.before.as_fd()) {
            // Whatever ran next on this thread would run in the wrong network.
            eprintln!("lab: a thread cannot leave its namespace: {error}");
            std::process::abort();
        }
    }
}

/// Names of the namespaces that begin with `prefix`.
///
/// # Errors
/// If the folder of names cannot be read.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(FOLDER) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot list namespaces")?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes namespaces of labs whose process was killed and could not clean up.
///
/// # Errors
/// If one of them resists.
pub fn remove_stale() -> Result<()> {
    for name in list(PREFIX)? {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let deleted = cleanup::delete_namespace(&name);
            // Another lab may have been faster.
            if Path::new(FOLDER).join(&name).exists() {
                deleted?;
            }
        }
    }
    Ok(())
}

/// Runs iproute2's `ip` in this process's own namespace.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    finish(Command::new("ip"), arguments)
}

fn finish(mut command: Command, arguments: &[&str]) -> Result<()> {
    let output = command
        .args(arguments)
        .output()
        .map_err(|error| anyhow!("`ip` did not start: {error}; the lab needs iproute2"))?;
    if !output.status.success() {
        bail!(
            "`ip {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
