//! What operators and failed authentication have denied, each with a lifetime and a reason.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aya::maps::{HashMap, MapData, lpm_trie::Key};
use enforcer_common::{
    layout::{
        Access, AccessKey, DenialReason, DeniedPrefix, IPV4_LIST, NO_POLICY, REASON_BYTES, access_flag,
        control_flag, table, table_kind,
    },
    verdict::Reason,
};
use ipnet::IpNet;

use super::{
    AccessMap, KernelError,
    address::{access_key, prefix},
    control::ControlBlock,
    elements::Elements as _,
    turns::Turns,
};
use enforcer_model::Action;
use enforcer_supervision::sync::{Rank, Ranked, without_waiting};
use enforcer_sys::clock::{after, monotonic_ns};

/// Denials at one time, at most; a further one is refused.
pub const MAX_DENIALS: usize = enforcer_common::layout::MAX_DENIALS as usize;

/// Why denials are there, in words, by their key: kept with them.
pub type Reasons = HashMap<MapData, DeniedPrefix, DenialReason>;

/// Of those, how many failed authentication cannot use up.
const FOR_OPERATORS: usize = 4_096;

/// How many automatic denials a network of that length may have, the narrowest first.
const SHARES_OF_IPV4: [(u8, usize); 1] = [(16, 8_192)];
const SHARES_OF_IPV6: [(u8, usize); 3] = [(56, 256), (48, 1_024), (32, 8_192)];

/// The denials in force. A clone speaks of the same ones. The memory is locked for moments; the kernel is told by each
/// thread for itself.
#[derive(Clone)]
pub struct Denials(Arc<Inner>);

struct Inner {
    access: AccessMap,
    control: ControlBlock,
    reasons: Reasons,
    state: Ranked<State>,
    /// How many of operators there are, and how many automatic ones.
    counts: [AtomicUsize; 2],
}

struct State {
    entries: Entries,
    turns: Turns<Place>,
}

/// Whose denial, of what.
type Place = (DeniedBy, IpNet);

/// Operators' denials and automatic ones, by prefix. Neither hides the other.
#[derive(Default)]
struct Entries {
    operator: BTreeMap<IpNet, Denial>,
    automatic: BTreeMap<IpNet, Denial>,
}

impl Entries {
    fn of(&self, by: DeniedBy) -> &BTreeMap<IpNet, Denial> {
        match by {
            DeniedBy::Operator => &self.operator,
            DeniedBy::Authentication => &self.automatic,
        }
    }

    fn get(&self, (by, prefix): Place) -> Option<&Denial> {
        self.of(by).get(&prefix)
    }

    fn of_mut(&mut self, by: DeniedBy) -> &mut BTreeMap<IpNet, Denial> {
        match by {
            DeniedBy::Operator => &mut self.operator,
            DeniedBy::Authentication => &mut self.automatic,
        }
    }

    /// The share that a network around `prefix` has used up, so that there is no automatic denial in it any more: whoever has
    /// a whole network does not use up everybody's.
    fn share_used_up(&self, prefix: &IpNet) -> Option<usize> {
        if self.automatic.contains_key(prefix) {
            return None;
        }
        let shares = match prefix {
            IpNet::V4(_) => &SHARES_OF_IPV4[..],
            IpNet::V6(_) => &SHARES_OF_IPV6[..],
        };
        let is_used_up = |&(length, most): &(u8, usize)| {
            let Ok(around) = IpNet::new(prefix.network(), length) else {
                return false;
            };
            let inside = self
                .automatic
                .range(around.trunc()..=IpNet::from(around.broadcast()));
            inside.take(most).count() == most
        };
        shares
            .iter()
            .find(|share| is_used_up(share))
            .map(|(_, most)| *most)
    }

    fn len(&self) -> usize {
        self.operator.len() + self.automatic.len()
    }

    /// All of them, an operator's first.
    fn all(&self) -> impl Iterator<Item = (&IpNet, &Denial)> {
        self.operator.iter().chain(&self.automatic)
    }
}

/// One denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who asked for it.
    pub by: DeniedBy,
    /// Why, in words.
    pub reason: Arc<str>,
    /// When it ends, on the monotonic clock.
    pub expires_ns: u64,
    /// What becomes of its packets.
    pub action: Action,
}

/// Who asked for a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeniedBy {
    /// A person, by the command line.
    Operator,
    /// The gateway, for failed authentication.
    Authentication,
}

impl DeniedBy {
    /// The kernel's reason.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Operator => Reason::DeniedByOperator,
            Self::Authentication => Reason::DeniedForAuthentication,
        }
    }

    /// Both.
    const ALL: [Self; 2] = [Self::Operator, Self::Authentication];

    /// Whose list it is on.
    fn list(self) -> u32 {
        let kind = match self {
            Self::Operator => table_kind::OPERATOR,
            Self::Authentication => table_kind::AUTOMATIC,
        };
        table(kind, 0, 0)
    }

    /// Says to the programs that there are any.
    fn flag(self) -> u64 {
        match self {
            Self::Operator => control_flag::OPERATOR,
            Self::Authentication => control_flag::AUTOMATIC,
        }
    }
}

impl Denials {
    /// Those that are in the given maps: an earlier agent's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(access: AccessMap, reasons: Reasons, control: ControlBlock) -> Result<Self, KernelError> {
        let mut entries = Entries::default();
        for (key, entry) in access.entries()? {
            let list = key.data().table & !IPV4_LIST;
            let by = DeniedBy::ALL.into_iter().find(|by| by.list() == list);
            let Some((by, prefix)) = by.zip(prefix(&key)) else {
                continue;
            };
            let reason = reasons.get(&denied(&key), 0).ok();
            entries.of_mut(by).insert(
                prefix,
                Denial {
                    by,
                    reason: reason.as_ref().and_then(text).unwrap_or("not recorded").into(),
                    expires_ns: entry.expires_ns,
                    action: if entry.flags & access_flag::RESET == 0 {
                        Action::Drop
                    } else {
                        Action::Reset
                    },
                },
            );
        }
        for by in DeniedBy::ALL {
            control.set_flag(by.flag(), !entries.of(by).is_empty())?;
        }
        let turns = Turns::default();
        let denials = Self(Arc::new(Inner {
            access,
            control,
            reasons,
            counts: DeniedBy::ALL.map(|by| AtomicUsize::new(entries.of(by).len())),
            state: Ranked::new(Rank::Denials, State { entries, turns }),
        }));
        denials.expire()?;
        Ok(denials)
    }

    /// Denies `prefix` for a while. What an operator and what the agent has denied holds apart from each other.
    ///
    /// # Errors
    /// There are `MAX_DENIALS` already, or the kernel refuses.
    pub fn deny(
        &self,
        prefix: IpNet,
        by: DeniedBy,
        reason: &str,
        lasts: Duration,
        action: Action,
    ) -> Result<(), KernelError> {
        let prefix = prefix.trunc();
        let denial = Denial {
            by,
            reason: reason.into(),
            expires_ns: after(monotonic_ns(), lasts),
            action,
        };
        without_waiting(|| {
            // What has ended makes room for operators; the controller sees to it for the others, each interval.
            if by == DeniedBy::Operator {
                self.expire()?;
            }
            self.0.enter(prefix, &denial)
        })
    }

    /// Takes denials of exactly this prefix back, an operator's and an automatic one; whether there was any.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow(&self, prefix: IpNet) -> Result<bool, KernelError> {
        let prefix = prefix.trunc();
        let mut state = self.0.state.lock();
        let State { entries, turns } = &mut *state;
        let removed = DeniedBy::ALL.map(|by| entries.of_mut(by).remove(&prefix).is_some());
        let places = DeniedBy::ALL.map(|by| (by, prefix)).into_iter().zip(removed);
        let mine: Vec<Place> = places
            .filter(|(place, removed)| *removed && turns.begin(*place))
            .map(|(place, _)| place)
            .collect();
        self.0.count(entries);
        drop(state);
        self.0.settle_all(mine)?;
        Ok(removed.contains(&true))
    }

    /// The denial that `address` is under: an operator's, else an automatic one.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(IpNet, Denial)> {
        if DeniedBy::ALL.into_iter().all(|by| !self.0.has(by)) {
            return None;
        }
        let address = address.to_canonical();
        let now_ns = monotonic_ns();
        let state = self.0.state.lock();
        DeniedBy::ALL
            .into_iter()
            .find_map(|by| find(state.entries.of(by), address, |denial| denial.expires_ns > now_ns))
    }

    /// All denials in force, in order of prefix. A prefix may be denied by an operator, and automatically too.
    #[must_use]
    pub fn list(&self) -> Vec<(IpNet, Denial)> {
        let now_ns = monotonic_ns();
        let state = self.0.state.lock();
        let mut list: Vec<(IpNet, Denial)> = state
            .entries
            .all()
            .filter(|(_, denial)| denial.expires_ns > now_ns)
            .map(|(prefix, denial)| (*prefix, denial.clone()))
            .collect();
        drop(state);
        list.sort_by_key(|(prefix, _)| *prefix);
        list
    }

    /// Forgets what has ended; the kernel has not heeded it since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn expire(&self) -> Result<(), KernelError> {
        let now_ns = monotonic_ns();
        let mut state = self.0.state.lock();
        let State { entries, turns } = &mut *state;
        let mut ended = Vec::new();
        for by in DeniedBy::ALL {
            let over = entries
                .of_mut(by)
                .extract_if(.., |_, denial| denial.expires_ns <= now_ns);
            ended.extend(
                over.map(|(prefix, _)| (by, prefix))
                    .filter(|place| turns.begin(*place)),
            );
        }
        self.0.count(entries);
        drop(state);
        if ended.is_empty() {
            return Ok(());
        }
        self.0.settle_all(ended)
    }
}

impl Inner {
    fn enter(&self, prefix: IpNet, denial: &Denial) -> Result<(), KernelError> {
        let by = denial.by;
        let mut state = self.state.lock();
        let State { entries, turns } = &mut *state;
        let room = match by {
            DeniedBy::Operator => MAX_DENIALS,
            DeniedBy::Authentication => MAX_DENIALS - FOR_OPERATORS,
        };
        if entries.get((by, prefix)).is_none() && entries.len() >= room {
            let (what, limit) = ("denials", room);
            return Err(KernelError::TooMany { what, limit });
        }
        if by == DeniedBy::Authentication
            && let Some(limit) = entries.share_used_up(&prefix)
        {
            let what = "denials of one network";
            return Err(KernelError::TooMany { what, limit });
        }
        let before = entries.of_mut(by).insert(prefix, denial.clone());
        let mine = turns.begin((by, prefix));
        self.count(entries);
        drop(state);
        if mine && let Err(error) = self.settle((by, prefix)) {
            self.take_back(prefix, denial, before);
            return Err(error);
        }
        self.tell_whether_any(by)
    }

    /// A denial that the kernel refused does not count, unless another has taken its place meanwhile.
    fn take_back(&self, prefix: IpNet, denial: &Denial, before: Option<Denial>) {
        let mut state = self.state.lock();
        if state.entries.get((denial.by, prefix)) != Some(denial) {
            return;
        }
        let entries = state.entries.of_mut(denial.by);
        match before {
            Some(before) => drop(entries.insert(prefix, before)),
            None => drop(entries.remove(&prefix)),
        }
        self.count(&state.entries);
    }

    /// Takes note of how many there are.
    fn count(&self, entries: &Entries) {
        for (by, count) in DeniedBy::ALL.into_iter().zip(&self.counts) {
            count.store(entries.of(by).len(), SeqCst);
        }
    }

    fn has(&self, by: DeniedBy) -> bool {
        self.counts[by as usize].load(SeqCst) > 0
    }

    /// Settles all of them, whatever becomes of one.
    fn settle_all(&self, places: Vec<Place>) -> Result<(), KernelError> {
        let settled = places.into_iter().map(|place| self.settle(place));
        settled.fold(Ok(()), Result::and)?;
        let told = DeniedBy::ALL.map(|by| self.tell_whether_any(by));
        told.into_iter().fold(Ok(()), Result::and)
    }

    /// Tells the kernel whether a prefix is denied, and keeps the reason.
    fn settle(&self, (by, prefix): Place) -> Result<(), KernelError> {
        loop {
            let denial = self.state.lock().entries.get((by, prefix)).cloned();
            let written = match denial {
                Some(denial) => self.write(prefix, &denial),
                None => self.remove(by, prefix),
            };
            if !self.state.lock().turns.again((by, prefix)) {
                return written;
            }
        }
    }

    fn write(&self, prefix: IpNet, denial: &Denial) -> Result<(), KernelError> {
        let key = access_key(denial.by.list(), prefix);
        let resets = denial.action == Action::Reset;
        let entry = Access::new(denial.expires_ns, denial.by.reason(), NO_POLICY).resetting(resets);
        self.reasons
            .put("REASONS", &denied(&key), &recorded(&denial.reason))?;
        self.access.insert(&key, entry)
    }

    fn remove(&self, by: DeniedBy, prefix: IpNet) -> Result<(), KernelError> {
        let key = access_key(by.list(), prefix);
        self.access.remove(&key)?;
        self.reasons
            .remove_if_present("REASONS", &denied(&key))
            .map(|_| ())
    }

    fn tell_whether_any(&self, by: DeniedBy) -> Result<(), KernelError> {
        // Asked for each denial, and the answer seldom changes.
        if (self.control.current().flags & by.flag() != 0) == self.has(by) {
            return Ok(());
        }
        self.control.follow(by.flag(), || self.has(by))
    }
}

/// The longest prefix of `address` whose denial `holds`. Each length is looked up, since the gateway asks for every
/// connection that a load balancer hands on, and there may be tens of thousands of denials.
fn find(
    entries: &BTreeMap<IpNet, Denial>,
    address: IpAddr,
    holds: impl Fn(&Denial) -> bool,
) -> Option<(IpNet, Denial)> {
    if entries.is_empty() {
        return None;
    }
    let longest = IpNet::from(address).max_prefix_len();
    (0..=longest).rev().find_map(|length| {
        let prefix = IpNet::new(address, length).ok()?.trunc();
        let denial = entries.get(&prefix).filter(|denial| holds(denial))?;
        Some((prefix, denial.clone()))
    })
}

fn denied(key: &Key<AccessKey>) -> DeniedPrefix {
    let AccessKey { table, address } = key.data();
    DeniedPrefix {
        table,
        address,
        length: key.prefix_len(),
    }
}

/// A reason as it is kept, cut at a character if it is too long.
fn recorded(reason: &str) -> DenialReason {
    let length = reason.floor_char_boundary(REASON_BYTES);
    let mut text = [0; REASON_BYTES];
    text[..length].copy_from_slice(&reason.as_bytes()[..length]);
    DenialReason {
        length: u32::try_from(length).unwrap_or(0),
        text,
    }
}

fn text(reason: &DenialReason) -> Option<&str> {
    std::str::from_utf8(reason.text.get(..reason.length as usize)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_one_network_does_not_use_up_the_automatic_denials() {
        let mut entries = Entries::default();
        let denial = Denial {
            by: DeniedBy::Authentication,
            reason: "test".into(),
            expires_ns: 0,
            action: Action::Drop,
        };
        let client = |network: u128, n: u128| -> IpNet {
            let address = std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) | (network << 80) | (n << 64));
            IpNet::new(address.into(), 64).unwrap()
        };
        let mut taken = 0;
        for n in 0..2_000 {
            let prefix = client(1, n);
            if entries.share_used_up(&prefix).is_none() {
                entries.automatic.insert(prefix, denial.clone());
                taken += 1;
            }
        }
        assert_eq!(taken, 1_024, "a /48");
        assert_eq!(entries.share_used_up(&client(1, 0)), None, "it is denied already");
        assert_eq!(entries.share_used_up(&client(1, 1_999)), Some(1_024));
        assert_eq!(entries.share_used_up(&client(2, 0)), None, "another /48");
        assert_eq!(entries.share_used_up(&"192.0.2.1/32".parse().unwrap()), None);
    }

    #[test]
    fn the_longest_prefix_that_holds_is_found() {
        let denial = |reason: &str, expires_ns| Denial {
            by: DeniedBy::Operator,
            reason: reason.into(),
            expires_ns,
            action: Action::Drop,
        };
        let entries: BTreeMap<IpNet, Denial> = [
            ("192.0.2.0/24", "net", 20),
            ("192.0.2.7/32", "host", 10),
            ("0.0.0.0/1", "half", 30),
            ("2001:db8::/32", "v6", 20),
            ("2001:db8::7/128", "v6 host", 20),
        ]
        .into_iter()
        .map(|(prefix, reason, ends)| (prefix.parse().unwrap(), denial(reason, ends)))
        .collect();
        for (address, now_ns, expected) in [
            ("192.0.2.7", 5, Some("host")),
            ("192.0.2.7", 15, Some("net")),
            ("192.0.2.8", 5, Some("net")),
            ("127.0.0.1", 5, Some("half")),
            ("128.0.0.1", 5, None),
            ("2001:db8::7", 5, Some("v6 host")),
            ("2001:db8:1::", 5, Some("v6")),
            ("2001:db8::7", 25, None),
            ("::c000:207", 5, None),
        ] {
            let found = find(&entries, address.parse().unwrap(), |denial| {
                denial.expires_ns > now_ns
            });
            let reason = found.as_ref().map(|(_, denial)| &*denial.reason);
            assert_eq!(reason, expected, "{address} at {now_ns}");
        }
    }
}
