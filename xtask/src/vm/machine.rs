//! Switches a virtual machine on, and reads what its tests say until it is off.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::EMULATOR;

/// Processors and memory. A machine whose host has fewer processors is slower and no less right.
const PROCESSORS: &str = "2";
const MEMORY: &str = "1536M";

/// Runs `kernel` on `image` until it switches itself off, for `patience` at most, and hands over each line of its
/// second serial port. The kernel's own messages go to the file `console`.
pub(super) fn run(
    kernel: &Path,
    image: &Path,
    console: &Path,
    patience: Duration,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let mut child = Machine(
        command(kernel, image, console)
            .spawn()
            .with_context(|| format!("{EMULATOR} does not start: run `cargo xtask setup`"))?,
    );
    let output = child.0.stdout.take().context("the emulator has no output")?;
    let (sender, lines) = mpsc::channel();
    // Ends with the emulator, whose output then ends.
    let reader = thread::spawn(move || {
        for text in BufReader::new(output).split(b'\n') {
            let Ok(text) = text else { break };
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + patience;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => line(String::from_utf8_lossy(&text).trim_end_matches('\r')),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!(
                "the machine was not done after {}; what its kernel says is in {}",
                crate::shell::seconds(patience),
                console.display()
            ),
        }
    }
    let status = child.0.wait()?;
    // It has nothing left to read.
    if reader.join().is_err() || !status.success() {
        bail!(
            "the emulator failed ({status}); what its kernel says is in {}",
            console.display()
        );
    }
    Ok(())
}

/// An emulator that ends with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(kernel: &Path, image: &Path, console: &Path) -> Command {
    let mut command = Command::new(EMULATOR);
    command
        // Not KVM, even where there is: build servers have none, and inside another virtual machine it is
        // there and does not work.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", PROCESSORS, "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        // A kernel that panics reboots at once, which ends the emulator.
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
