//! The numbers by which the kernel knows policies, limits, interfaces and shared limiters. A name keeps
//! its number from one generation to the next, so that counters and limiter states go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use enforcer_common::{
    layout::{MAX_INTERFACES, MAX_POLICIES, MAX_SHARED, TRIED_BUDGET},
    limiter::{Algorithm, Params},
};
use serde::{Deserialize, Serialize};

use super::KernelError;
use enforcer_model::{Budget, EgressLimit, Name, PacketLimit, PolicySet};

/// Who has which number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    policies: BTreeMap<Name, u32>,
    /// Numbers are never given twice, so that a limit's sources in the sketch are never taken for
    /// another's.
    limits: BTreeMap<LimitKey, u32>,
    next_limit: u32,
    positions: BTreeMap<String, u32>,
    /// By limit: the first of its shared limiters, and how many it has.
    shared: BTreeMap<u32, (u32, u32)>,
    /// By limit per identity: which of each identity's limiters it has. The first is never given: it is the
    /// budget of `verified`.
    columns: BTreeMap<u32, u32>,
}

/// What makes a limit the same one as before. What its states mean belongs to it: a bucket's state is
/// nonsense to a window, and one window's to another's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LimitKey {
    policy: Name,
    limit: Name,
    /// Its position among the limit's prefixes.
    level: u32,
    algorithm: Option<u32>,
    /// Of windows; buckets keep their states when their rate changes.
    window: Option<Duration>,
}

impl LimitKey {
    fn new(policy: &Name, limit: &PacketLimit, level: u32) -> Self {
        Self::of(policy, &limit.name, level, &limit.params, limit.budget)
    }

    fn of_egress(policy: &Name, limit: &EgressLimit) -> Self {
        Self::of(policy, &limit.name, 0, &limit.params, limit.budget)
    }

    fn of(policy: &Name, limit: &Name, level: u32, params: &Params, budget: Budget) -> Self {
        let algorithm = params.algorithm();
        let is_window = matches!(algorithm, Some(Algorithm::FixedWindow | Algorithm::SlidingWindow));
        Self {
            policy: policy.clone(),
            limit: limit.clone(),
            level,
            algorithm: algorithm.map(|algorithm| algorithm as u32),
            window: is_window.then(|| budget.rate.period()),
        }
    }
}

/// Who has which number, as the next agent reads it.
#[derive(Serialize, Deserialize)]
pub struct Record {
    policies: BTreeMap<String, u32>,
    limits: Vec<LimitRecord>,
    next_limit: u32,
    positions: BTreeMap<String, u32>,
    shared: Vec<(u32, u32, u32)>,
    columns: Vec<(u32, u32)>,
}

/// A [`LimitKey`] and its number.
#[derive(Serialize, Deserialize)]
struct LimitRecord {
    policy: String,
    limit: String,
    level: u32,
    algorithm: Option<u32>,
    window: Option<Duration>,
    number: u32,
}

impl From<&Numbers> for Record {
    fn from(numbers: &Numbers) -> Self {
        let limits = numbers.limits.iter().map(|(key, number)| LimitRecord {
            policy: key.policy.to_string(),
            limit: key.limit.to_string(),
            level: key.level,
            algorithm: key.algorithm,
            window: key.window,
            number: *number,
        });
        let shared = numbers.shared.iter();
        Self {
            policies: numbers
                .policies()
                .map(|(name, number)| (name.to_string(), number))
                .collect(),
            limits: limits.collect(),
            next_limit: numbers.next_limit,
            positions: numbers.positions.clone(),
            shared: shared
                .map(|(limit, (first, count))| (*limit, *first, *count))
                .collect(),
            columns: numbers
                .columns
                .iter()
                .map(|(limit, column)| (*limit, *column))
                .collect(),
        }
    }
}

impl TryFrom<Record> for Numbers {
    /// What is no name.
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let name = |text: String| text.parse::<Name>().map_err(|_| text);
        let limits = record.limits.into_iter().map(|limit| {
            let key = LimitKey {
                policy: name(limit.policy)?,
                limit: name(limit.limit)?,
                level: limit.level,
                algorithm: limit.algorithm,
                window: limit.window,
            };
            Ok((key, limit.number))
        });
        let policies = record.policies.into_iter();
        let shared = record.shared.into_iter();
        Ok(Self {
            policies: policies
                .map(|(policy, number)| Ok((name(policy)?, number)))
                .collect::<Result<_, String>>()?,
            limits: limits.collect::<Result<_, String>>()?,
            next_limit: record.next_limit,
            positions: record.positions,
            shared: shared
                .map(|(limit, first, count)| (limit, (first, count)))
                .collect(),
            columns: record.columns.into_iter().collect(),
        })
    }
}

impl Numbers {
    /// The policy's number.
    ///
    /// # Errors
    /// All numbers are taken.
    pub fn policy(&mut self, name: &Name) -> Result<u32, KernelError> {
        let taken: BTreeSet<u32> = self.policies.values().copied().collect();
        if let Some(&number) = self.policies.get(name) {
            return Ok(number);
        }
        let number = (0..MAX_POLICIES).find(|number| !taken.contains(number));
        let number = number.ok_or(KernelError::TooMany {
            what: "packet policies",
            limit: MAX_POLICIES as usize,
        })?;
        self.policies.insert(name.clone(), number);
        Ok(number)
    }

    /// The number of a level of a limit.
    pub fn limit(&mut self, policy: &Name, limit: &PacketLimit, level: u32) -> u32 {
        self.numbered(LimitKey::new(policy, limit, level))
    }

    /// The egress limit's number.
    pub fn egress_limit(&mut self, policy: &Name, limit: &EgressLimit) -> u32 {
        self.numbered(LimitKey::of_egress(policy, limit))
    }

    fn numbered(&mut self, key: LimitKey) -> u32 {
        let next = &mut self.next_limit;
        *self.limits.entry(key).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    /// The interface's place among the limiters of a limit per interface.
    ///
    /// # Errors
    /// All places are taken.
    pub fn position(&mut self, interface: &str) -> Result<u32, KernelError> {
        if let Some(&position) = self.positions.get(interface) {
            return Ok(position);
        }
        let taken: BTreeSet<u32> = self.positions.values().copied().collect();
        let position = (0..MAX_INTERFACES).find(|position| !taken.contains(position));
        let position = position.ok_or(KernelError::TooMany {
            what: "interfaces",
            limit: MAX_INTERFACES as usize,
        })?;
        self.positions.insert(interface.to_owned(), position);
        Ok(position)
    }

    /// The first of `count` shared limiters of a limit.
    ///
    /// # Errors
    /// There are not as many left.
    pub fn shared(&mut self, limit: u32, count: u32) -> Result<u32, KernelError> {
        if let Some(&(first, held)) = self.shared.get(&limit)
            && held >= count
        {
            return Ok(first);
        }
        self.shared.remove(&limit);
        let first = self.gap(count).ok_or(KernelError::TooMany {
            what: "limiters shared by services or interfaces",
            limit: MAX_SHARED as usize,
        })?;
        self.shared.insert(limit, (first, count));
        Ok(first)
    }

    /// The first of the shared limiters of a limit per interface: one for each place in use, and room
    /// for more to come.
    ///
    /// # Errors
    /// There are not as many left.
    pub fn shared_per_interface(&mut self, limit: u32) -> Result<u32, KernelError> {
        let places = self.positions.values().max().map_or(1, |last| last + 1);
        self.shared(limit, places.next_multiple_of(16))
    }

    /// Which of each identity's limiters a limit per identity has.
    ///
    /// # Errors
    /// All are taken.
    pub fn column(&mut self, limit: u32) -> Result<u32, KernelError> {
        if let Some(&column) = self.columns.get(&limit) {
            return Ok(column);
        }
        let taken: BTreeSet<u32> = self.columns.values().copied().collect();
        let column = (1..TRIED_BUDGET).find(|column| !taken.contains(column));
        let column = column.ok_or(KernelError::TooMany {
            what: "limits per identity, in all policies together",
            limit: TRIED_BUDGET as usize - 1,
        })?;
        self.columns.insert(limit, column);
        Ok(column)
    }

    /// Forgets what neither `set` nor the interfaces that there are speak of.
    pub fn retain(&mut self, set: &PolicySet, interfaces: &BTreeSet<String>) {
        let policies: BTreeSet<&Name> = set.packet_policies.iter().map(|policy| &policy.name).collect();
        let limits: BTreeSet<LimitKey> = set
            .packet_policies
            .iter()
            .flat_map(|policy| {
                let levels = |limit: &PacketLimit| 0..u32::try_from(limit.levels.len()).unwrap_or(0);
                let limits = policy.limits.iter().flat_map(move |limit| {
                    levels(limit).map(|level| LimitKey::new(&policy.name, limit, level))
                });
                let egress = policy.egress.limits.iter();
                limits.chain(egress.map(|limit| LimitKey::of_egress(&policy.name, limit)))
            })
            .collect();
        self.policies.retain(|name, _| policies.contains(name));
        self.limits.retain(|key, _| limits.contains(key));
        let limits: BTreeSet<u32> = self.limits.values().copied().collect();
        self.shared.retain(|limit, _| limits.contains(limit));
        self.columns.retain(|limit, _| limits.contains(limit));
        self.positions.retain(|name, _| interfaces.contains(name));
    }

    /// The policies and their numbers.
    pub fn policies(&self) -> impl Iterator<Item = (&Name, u32)> {
        self.policies.iter().map(|(name, number)| (name, *number))
    }

    /// The places of shared limiters that their limits did not have in `before`: others may have used them.
    pub fn newly_shared(&self, before: &Self) -> impl Iterator<Item = u32> {
        let new = self
            .shared
            .iter()
            .filter(|(limit, place)| before.shared.get(limit) != Some(place));
        new.flat_map(|(_, (first, count))| *first..first + count)
    }

    /// The limiters of each identity that their limits did not have in `before`: others may have used them.
    pub fn new_columns(&self, before: &Self) -> impl Iterator<Item = u32> {
        let new = self
            .columns
            .iter()
            .filter(|(limit, column)| before.columns.get(limit) != Some(column));
        new.map(|(_, column)| *column)
    }

    /// The first of `count` places that no limit holds.
    fn gap(&self, count: u32) -> Option<u32> {
        let mut held: Vec<(u32, u32)> = self.shared.values().copied().collect();
        held.sort_unstable();
        let mut from = 0;
        for (first, length) in held {
            if first - from >= count {
                return Some(from);
            }
            from = first + length;
        }
        (MAX_SHARED - from >= count).then_some(from)
    }
}

#[cfg(test)]
mod tests;
