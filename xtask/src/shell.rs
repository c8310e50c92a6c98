//! Runs other programs, and says what runs and how long it took.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead as _, BufReader, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where set-up puts programs that only the checks need: nothing else on the machine sees them.
///
/// The tests look here too, and they know only their own folder: not cargo's target folder.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A cargo command in the workspace's folder.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// The arguments that select every crate but the kernel's, which build for another machine.
pub(crate) const HOST_CRATES: [&str; 6] = [
    "--workspace",
    "--exclude",
    "enforcer-ebpf",
    "--exclude",
    "lab-ebpf",
    "--locked",
];

/// Runs a command to its end, its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("`{}` could not be started", shown(command)))?;
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", shown(command))
}

/// Runs a command to its end, its output shown, and hands each line of standard output to `line`.
pub(crate) fn run_reading(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    run_quietly(command, |text| {
        println!("{text}");
        line(text);
    })
}

/// Runs a command to its end and hands each line of standard output to `line`, not shown.
pub(crate) fn run_quietly(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` could not be started", shown(command)))?;
    if let Some(output) = child.stdout.take() {
        for text in BufReader::new(output).split(b'\n') {
            let text = text.with_context(|| format!("the output of `{}` broke off", shown(command)))?;
            line(&String::from_utf8_lossy(&text));
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", shown(command))
}

/// The standard output of a command that succeeds; nothing if it fails or does not exist.
pub(crate) fn output_of<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is. Debian keeps network programs out of ordinary users' search path.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command that has the rights of root, through sudo where the user is not root.
pub(crate) fn privileged(name: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(name));
    }
    if program("sudo").is_none() {
        bail!("`{name}` needs root, and there is no sudo: run the same command as root");
    }
    let mut command = Command::new("sudo");
    if !std::io::stdin().is_terminal() {
        // Nobody is there to type a password.
        command.arg("--non-interactive");
    }
    command.arg(name);
    Ok(command)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        == Some("0")
}

/// Refuses to go on without root. `what` is done, and why that needs root; `command` is what was typed.
pub(crate) fn require_root(what: &str, command: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("{what}, which needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask {command}`")
}

/// Does one step: says what, does it, says how long it took.
pub(crate) fn step<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {what}");
    let started = Instant::now();
    let done = act();
    let result = if done.is_ok() { "done" } else { "failed" };
    println!("   {result}, {}", seconds(started.elapsed()));
    done
}

/// `1.2 s`, or `3 min 05 s` when it is long.
pub(crate) fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 100 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// The command as somebody would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        let _ = write!(text, " {}", argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_failing_command_is_named_with_its_arguments() {
        let error = run(Command::new("/bin/false").arg("--x"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("`false --x` failed"), "{error}");
    }

    #[test]
    fn output_lines_are_handed_over() {
        let mut lines = Vec::new();
        run_reading(Command::new("printf").arg("one\\ntwo\\n"), |line| {
            lines.push(line.to_owned());
        })
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_missing_program_has_no_output() {
        assert_eq!(output_of("/nonexistent/program", ["--version"]), None);
        assert_eq!(program("no-such-program-anywhere"), None);
        assert!(program("sh").is_some());
    }
}
