//! Counters of network interfaces.

use anyhow::{Context as _, Result, anyhow};

use crate::netns::Namespace;

/// What an interface has received since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets that reached the interface's driver, whatever XDP then did with them.
    pub packets: u64,
    /// Packets that were lost before: veth's ring was full.
    pub lost: u64,
}

impl Received {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            lost: self.lost.saturating_sub(earlier.lost),
        }
    }
}

/// What `interface` in `namespace` has received.
///
/// # Errors
/// If there is no such interface.
pub fn received(namespace: &Namespace, interface: &str) -> Result<Received> {
    // `/proc/net` would be the main thread's.
    let table = namespace.run(|| {
        std::fs::read_to_string("/proc/thread-self/net/dev").context("cannot read interface counters")
    })?;
    parse(&table, interface).ok_or_else(|| {
        anyhow!(
            "there is no interface {interface} in namespace {}",
            namespace.name()
        )
    })
}

/// The index of `interface` in `namespace`.
///
/// # Errors
/// If there is no such interface.
pub fn index(namespace: &Namespace, interface: &str) -> Result<u32> {
    let output = namespace
        .command("ip")?
        .args(["-json", "link", "show", "dev", interface])
        .output()
        .context("`ip` did not start")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "there is no interface {interface} in namespace {}",
            namespace.name()
        )
    })?;
    links[0]["ifindex"]
        .as_u64()
        .and_then(|index| index.try_into().ok())
        .ok_or_else(|| anyhow!("`ip` gave no index for {interface}"))
}

/// `/proc/net/dev`: name, then bytes, packets, errors, dropped, … received.
fn parse(table: &str, interface: &str) -> Option<Received> {
    let columns = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, columns)| (name.trim() == interface).then_some(columns))?;
    let mut columns = columns.split_ascii_whitespace().map(str::parse::<u64>);
    let packets = columns.nth(1)?.ok()?;
    let lost = columns.nth(1)?.ok()?;
    Some(Received { packets, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_column() {
        let table = "Inter-|   Receive        |  Transmit\n face |bytes    packets errs drop fifo\n    lo:  100  2  3  4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(parse(table, "lo"), Some(Received { packets: 2, lost: 4 }));
        assert_eq!(parse(table, "eth0"), None);
    }
}
