//! Sources that were verified recently: the kernel keeps a share in reserve for each, by which they open new
//! connections while others use the limits up.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::maps::{MapData, MapError};
use enforcer_common::{
    layout::{Address, MAX_RECENT, RECENT_WORDS, Recent, control_flag, recent_bit, recent_source},
    limiter::FRESH,
    sketch::words,
};
use ipnet::IpNet;

use super::{KernelError, address::address, control::ControlBlock, object::Array};

/// How far what is known of a source may be behind: a source with many connections is written no more often.
const GRAIN_NS: u64 = 1_000_000_000;
/// How often sources with connections are seen anew, and forgotten ones removed.
const SWEEP_NS: u64 = 10_000_000_000;

/// The sources, at most [`MAX_RECENT`]: the one that has not been seen for longest goes first.
pub struct Recents(Mutex<State>);

struct State {
    map: aya::maps::HashMap<MapData, Address, Recent>,
    bits: Array<u64>,
    reserves: Array<u64>,
    control: ControlBlock,
    /// Bounded by [`MAX_RECENT`].
    sources: HashMap<Address, Recent>,
    /// The same, longest unseen first.
    order: BTreeSet<(u64, Address)>,
    /// How many sources each bit stands for.
    bit_counts: HashMap<(u32, u64), u32>,
    /// Places of reserves that nobody has.
    free: Vec<u32>,
    swept_ns: u64,
}

impl Recents {
    /// Over the given maps, and the sources that are in them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        map: aya::maps::HashMap<MapData, Address, Recent>,
        bits: Array<u64>,
        reserves: Array<u64>,
        control: ControlBlock,
    ) -> Result<Self, KernelError> {
        let sources: HashMap<Address, Recent> = map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("RECENT"))?;
        let taken: HashSet<u32> = sources.values().map(|entry| entry.place).collect();
        let order = sources
            .iter()
            .map(|(source, entry)| (entry.seen_ns, *source))
            .collect();
        let mut state = State {
            map,
            bits,
            reserves,
            control,
            sources,
            order,
            bit_counts: HashMap::new(),
            free: (0..MAX_RECENT)
                .rev()
                .filter(|place| !taken.contains(place))
                .collect(),
            swept_ns: 0,
        };
        state.rewrite_bits()?;
        state.tell_whether_any()?;
        Ok(Self(Mutex::new(state)))
    }

    /// Takes note that `source` has a verified connection, or has just had one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn saw(&self, source: IpAddr, now_ns: u64) -> Result<(), KernelError> {
        self.state().saw(recent_source(&address(source)), now_ns)
    }

    /// Sees the `clients` with connections anew, and forgets who was seen last before `lasts`. Does so at
    /// intervals, however often it is called.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sweep(
        &self,
        now_ns: u64,
        lasts: Duration,
        clients: impl FnOnce() -> Vec<IpNet>,
    ) -> Result<(), KernelError> {
        let mut state = self.state();
        if now_ns.saturating_sub(state.swept_ns) < SWEEP_NS {
            return Ok(());
        }
        state.swept_ns = now_ns;
        // More cannot be remembered, and would only push each other out.
        for client in clients().into_iter().take(MAX_RECENT as usize) {
            state.saw(recent_source(&address(client.network())), now_ns)?;
        }
        let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        while let Some((seen_ns, source)) = state.order.first().copied()
            && now_ns.saturating_sub(seen_ns) > lasts
        {
            state.forget(source)?;
        }
        state.tell_whether_any()
    }

    /// When the source of an address was seen last, if it is remembered.
    #[must_use]
    pub fn seen_ns(&self, source: IpAddr) -> Option<u64> {
        let source = recent_source(&address(source));
        self.state().sources.get(&source).map(|entry| entry.seen_ns)
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().sources.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn saw(&mut self, source: Address, now_ns: u64) -> Result<(), KernelError> {
        let known = self.sources.get(&source).copied();
        if let Some(entry) = known
            && now_ns.saturating_sub(entry.seen_ns) < GRAIN_NS
        {
            return Ok(());
        }
        let place = match known {
            Some(entry) => entry.place,
            None => match self.vacant_place()? {
                Some(place) => place,
                None => return Ok(()),
            },
        };
        let entry = Recent {
            seen_ns: now_ns,
            place,
            reserved: 0,
        };
        if let Err(error) = self.write(source, entry, known.is_none()) {
            if known.is_none() {
                self.free.push(place);
            }
            return Err(error);
        }
        if let Some(before) = self.sources.insert(source, entry) {
            self.order.remove(&(before.seen_ns, source));
        }
        self.order.insert((now_ns, source));
        if self.sources.len() == 1 {
            self.tell_whether_any()?;
        }
        Ok(())
    }

    /// Enters a source; a new one with full reserves.
    fn write(&mut self, source: Address, entry: Recent, is_new: bool) -> Result<(), KernelError> {
        if is_new {
            for place in [entry.place, entry.place + MAX_RECENT] {
                self.reserves
                    .set(place, FRESH, 0)
                    .map_err(KernelError::map("RESERVES"))?;
            }
            self.set_bit(&source)?;
        }
        self.map
            .insert(source, entry, 0)
            .map_err(KernelError::map("RECENT"))
    }

    /// A place that nobody has, or that of the source that has not been seen for longest.
    fn vacant_place(&mut self) -> Result<Option<u32>, KernelError> {
        if self.free.is_empty()
            && let Some((_, oldest)) = self.order.first().copied()
        {
            self.forget(oldest)?;
        }
        Ok(self.free.pop())
    }

    /// Forgets a source. Its bit stays as long as another one has it.
    fn forget(&mut self, source: Address) -> Result<(), KernelError> {
        match self.map.remove(&source) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(KernelError::map("RECENT")(error)),
        }
        if let Some(entry) = self.sources.remove(&source) {
            self.order.remove(&(entry.seen_ns, source));
            self.free.push(entry.place);
        }
        self.clear_bit(&source)
    }

    fn set_bit(&mut self, source: &Address) -> Result<(), KernelError> {
        let (word, bit) = bit_of(source);
        let bits = self.word(word)?;
        self.set_word(word, bits | bit)?;
        *self.bit_counts.entry((word, bit)).or_default() += 1;
        Ok(())
    }

    fn clear_bit(&mut self, source: &Address) -> Result<(), KernelError> {
        let (word, bit) = bit_of(source);
        if let Some(count) = self.bit_counts.get_mut(&(word, bit)) {
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
            self.bit_counts.remove(&(word, bit));
        }
        let bits = self.word(word)?;
        self.set_word(word, bits & !bit)
    }

    /// Sets the bits of the sources that there are, and no others.
    fn rewrite_bits(&mut self) -> Result<(), KernelError> {
        let mut words = vec![0; RECENT_WORDS as usize];
        for source in self.sources.keys() {
            let (word, bit) = bit_of(source);
            words[word as usize] |= bit;
            *self.bit_counts.entry((word, bit)).or_default() += 1;
        }
        (0..)
            .zip(words)
            .try_for_each(|(word, bits)| self.set_word(word, bits))
    }

    fn word(&self, word: u32) -> Result<u64, KernelError> {
        self.bits.get(&word, 0).map_err(KernelError::map("RECENT_BITS"))
    }

    fn set_word(&mut self, word: u32, bits: u64) -> Result<(), KernelError> {
        self.bits
            .set(word, bits, 0)
            .map_err(KernelError::map("RECENT_BITS"))
    }

    fn tell_whether_any(&self) -> Result<(), KernelError> {
        self.control
            .set_flag(control_flag::RECENTS, !self.sources.is_empty())
    }
}

fn bit_of(source: &Address) -> (u32, u64) {
    let (high, low) = words(source);
    recent_bit(high, low)
}
