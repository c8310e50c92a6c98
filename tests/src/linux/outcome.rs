//! What a run came to.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Way, generate::Case};

/// What became of the cases of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Cases that a policy denies.
    pub denied: u64,
    /// Those of them that the stack would have delivered.
    pub stopped: u64,
    /// Cases that no policy denies.
    pub free: u64,
    /// Those of them that the stack delivers by itself.
    pub deliverable: u64,
    /// Those of the latter that it delivers with the programs in the way.
    pub delivered: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub way: Way,
    pub packets: u64,
    pub took: Duration,
    /// The receivers had devices for VLANs.
    pub vlans: bool,
    pub all: Tally,
    /// By what is special about the cases.
    pub traits: BTreeMap<String, Tally>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "{:?}: {} packets in {seconds:.1} s, {:.0}/s, {} devices for VLANs",
            self.way,
            self.packets,
            self.packets as f64 / seconds,
            if self.vlans { "with" } else { "without" }
        )?;
        writeln!(
            f,
            "  {:15} {:>9} {:>11} {:>9} {:>11} {:>9}",
            "", "denied", "deliverable", "free", "deliverable", "delivered"
        )?;
        let all = ("all".to_owned(), self.all);
        for (name, tally) in std::iter::once((&all.0, &all.1)).chain(&self.traits) {
            writeln!(
                f,
                "  {name:15} {:>9} {:>11} {:>9} {:>11} {:>9}",
                tally.denied, tally.stopped, tally.free, tally.deliverable, tally.delivered
            )?;
        }
        Ok(())
    }
}

impl Outcome {
    pub(super) fn count(&mut self, case: &Case, mut change: impl FnMut(&mut Tally)) {
        change(&mut self.all);
        for special in &case.traits {
            change(self.traits.entry(format!("{special:?}")).or_default());
        }
    }

    /// How many packets of a kind the stack would have delivered, and the programs have not.
    #[must_use]
    pub fn stopped(&self, special: &str) -> u64 {
        self.traits.get(special).map_or(0, |tally| tally.stopped)
    }
}
