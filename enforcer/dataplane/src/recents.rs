//! Sources that were verified recently: the kernel keeps a share in reserve for each, by which they open new
//! connections while others use the limits up.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use aya::maps::MapData;
use enforcer_common::{
    layout::{Address, MAX_RECENT, RECENT_WORDS, Recent, control_flag, recent_bit, recent_source},
    limiter::FRESH,
    sketch::words,
};
use ipnet::IpNet;

use super::{
    KernelError, address::address, control::ControlBlock, elements::Elements as _, object::Array,
    turns::Turns,
};
use enforcer_supervision::sync::{Rank, Ranked, without_waiting};

/// How far what is known of a source may be behind: a source with many connections is written no more often.
const GRAIN_NS: u64 = 1_000_000_000;
/// How often sources with connections are seen anew, and forgotten ones removed.
const SWEEP_NS: u64 = 10_000_000_000;

/// The sources, at most [`MAX_RECENT`]: the one that has not been seen for longest goes first. The gateway's workers share
/// the memory, for moments; the kernel is told by each worker for itself.
pub struct Recents {
    map: aya::maps::HashMap<MapData, Address, Recent>,
    bits: Array<u64>,
    reserves: Array<u64>,
    control: ControlBlock,
    state: Ranked<State>,
    /// How many sources there are.
    count: AtomicUsize,
}

struct State {
    /// Bounded by [`MAX_RECENT`].
    sources: HashMap<Address, Recent>,
    /// The same, longest unseen first.
    order: BTreeSet<(u64, Address)>,
    /// The bits in the kernel.
    words: Vec<u64>,
    /// How many sources each bit stands for.
    bit_counts: HashMap<(u32, u64), u32>,
    /// Places of reserves that nobody has.
    free: Vec<u32>,
    swept_ns: u64,
    turns: Turns<Entry>,
}

/// What is written in one step.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Source(Address),
    Word(u32),
}

/// What of a change the caller is to write, in this order.
#[derive(Default)]
struct Changed {
    /// Whose reserves are to be filled.
    reserve: Option<u32>,
    entries: Vec<Entry>,
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
            sources,
            order,
            words: vec![0; RECENT_WORDS as usize],
            bit_counts: HashMap::new(),
            free: (0..MAX_RECENT)
                .rev()
                .filter(|place| !taken.contains(place))
                .collect(),
            swept_ns: 0,
            turns: Turns::default(),
        };
        state.count_bits();
        // The bits of the sources that there are, and no others.
        for (word, value) in (0..).zip(&state.words) {
            bits.put("RECENT_BITS", &word, value)?;
        }
        let recents = Self {
            map,
            bits,
            reserves,
            control,
            count: AtomicUsize::new(state.sources.len()),
            state: Ranked::new(Rank::Recents, state),
        };
        recents.tell_whether_any()?;
        Ok(recents)
    }

    /// Takes note that `source` has a verified connection, or has just had one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn saw(&self, source: IpAddr, now_ns: u64) -> Result<(), KernelError> {
        without_waiting(|| self.saw_source(recent_source(&address(source)), now_ns))
    }

    fn saw_source(&self, source: Address, now_ns: u64) -> Result<(), KernelError> {
        let mut state = self.state.lock();
        let (changed, is_new) = state.saw(source, now_ns);
        let first = is_new && state.sources.len() == 1;
        self.count.store(state.sources.len(), SeqCst);
        drop(state);
        if let Err(error) = self.write(&changed) {
            if is_new {
                self.forget(source)?;
            }
            return Err(error);
        }
        if first {
            self.tell_whether_any()?;
        }
        Ok(())
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
        let mut state = self.state.lock();
        if now_ns.saturating_sub(state.swept_ns) < SWEEP_NS {
            return Ok(());
        }
        state.swept_ns = now_ns;
        drop(state);
        // More cannot be remembered, and would only push each other out.
        for client in clients().into_iter().take(MAX_RECENT as usize) {
            self.saw_source(recent_source(&address(client.network())), now_ns)?;
        }
        let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let oldest = self.state.lock().order.first().copied();
            match oldest {
                Some((seen_ns, source)) if now_ns.saturating_sub(seen_ns) > lasts => self.forget(source)?,
                _ => break,
            }
        }
        self.tell_whether_any()
    }

    /// When the source of an address was seen last, if it is remembered.
    #[must_use]
    pub fn seen_ns(&self, source: IpAddr) -> Option<u64> {
        let source = recent_source(&address(source));
        self.state.lock().sources.get(&source).map(|entry| entry.seen_ns)
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    fn forget(&self, source: Address) -> Result<(), KernelError> {
        let mut changed = Changed::default();
        let mut state = self.state.lock();
        state.forget(source, &mut changed);
        self.count.store(state.sources.len(), SeqCst);
        drop(state);
        self.write(&changed)
    }

    fn write(&self, changed: &Changed) -> Result<(), KernelError> {
        // One for the policies that decide, and one for those in shadow.
        let mut places = changed
            .reserve
            .iter()
            .flat_map(|place| [*place, place + MAX_RECENT]);
        let filled = places.try_for_each(|place| self.reserves.put("RESERVES", &place, &FRESH));
        // All of them, whatever becomes of one: their turns are to end.
        let settled = changed.entries.iter().map(|entry| self.settle(*entry));
        settled.fold(filled, Result::and)
    }

    /// Tells the kernel what is known of a source, or which bits a word has.
    fn settle(&self, entry: Entry) -> Result<(), KernelError> {
        loop {
            let written = match entry {
                Entry::Source(source) => {
                    let known = self.state.lock().sources.get(&source).copied();
                    match known {
                        Some(recent) => self.map.put("RECENT", &source, &recent),
                        None => self.map.remove_if_present("RECENT", &source).map(|_| ()),
                    }
                }
                Entry::Word(word) => {
                    let value = self.state.lock().words[word as usize];
                    self.bits.put("RECENT_BITS", &word, &value)
                }
            };
            if !self.state.lock().turns.again(entry) {
                return written;
            }
        }
    }

    fn tell_whether_any(&self) -> Result<(), KernelError> {
        self.control
            .follow(control_flag::RECENTS, || self.count.load(SeqCst) > 0)
    }
}

impl State {
    /// What is to be written, and whether the source is new.
    fn saw(&mut self, source: Address, now_ns: u64) -> (Changed, bool) {
        let mut changed = Changed::default();
        let known = self.sources.get(&source).copied();
        if let Some(entry) = known
            && now_ns.saturating_sub(entry.seen_ns) < GRAIN_NS
        {
            return (changed, false);
        }
        let place = match known {
            Some(entry) => Some(entry.place),
            None => self.vacant_place(&mut changed),
        };
        let Some(place) = place else {
            return (changed, false);
        };
        if known.is_none() {
            // A new one has full reserves.
            changed.reserve = Some(place);
            self.set_bit(&source, &mut changed);
        }
        let entry = Recent {
            seen_ns: now_ns,
            place,
            reserved: 0,
        };
        if let Some(before) = self.sources.insert(source, entry) {
            self.order.remove(&(before.seen_ns, source));
        }
        self.order.insert((now_ns, source));
        self.change(Entry::Source(source), &mut changed);
        (changed, known.is_none())
    }

    /// A place that nobody has, or that of the source that has not been seen for longest.
    fn vacant_place(&mut self, changed: &mut Changed) -> Option<u32> {
        if self.free.is_empty()
            && let Some((_, oldest)) = self.order.first().copied()
        {
            self.forget(oldest, changed);
        }
        self.free.pop()
    }

    /// Forgets a source. Its bit stays as long as another one has it.
    fn forget(&mut self, source: Address, changed: &mut Changed) {
        let Some(entry) = self.sources.remove(&source) else {
            return;
        };
        self.order.remove(&(entry.seen_ns, source));
        self.free.push(entry.place);
        self.change(Entry::Source(source), changed);
        let (word, bit) = bit_of(&source);
        if let Some(count) = self.bit_counts.get_mut(&(word, bit)) {
            *count -= 1;
            if *count == 0 {
                self.bit_counts.remove(&(word, bit));
                self.words[word as usize] &= !bit;
                self.change(Entry::Word(word), changed);
            }
        }
    }

    fn set_bit(&mut self, source: &Address, changed: &mut Changed) {
        let (word, bit) = bit_of(source);
        let count = self.bit_counts.entry((word, bit)).or_default();
        *count += 1;
        if *count == 1 {
            self.words[word as usize] |= bit;
            self.change(Entry::Word(word), changed);
        }
    }

    /// Has an entry written by the caller, unless another thread is at it.
    fn change(&mut self, entry: Entry, changed: &mut Changed) {
        if self.turns.begin(entry) {
            changed.entries.push(entry);
        }
    }

    fn count_bits(&mut self) {
        for source in self.sources.keys() {
            let (word, bit) = bit_of(source);
            self.words[word as usize] |= bit;
            *self.bit_counts.entry((word, bit)).or_default() += 1;
        }
    }
}

fn bit_of(source: &Address) -> (u32, u64) {
    let (high, low) = words(source);
    recent_bit(high, low)
}
