//! Writing a table by difference: what it holds already is not written again.

use super::KernelError;

/// A table's entries, in order of their keys.
pub type Entries<K, V> = Vec<(K, V)>;

/// How the entries of a table are told apart and written.
pub trait Table<K, V> {
    /// By which keys are sorted.
    type Order: Ord;

    /// Where a key stands.
    fn order(key: &K) -> Self::Order;

    /// Whether what is held serves as well as what is wanted.
    fn serves(held: &V, wanted: &V) -> bool;

    /// Enters or replaces an entry.
    ///
    /// # Errors
    /// The map is full or the kernel refuses.
    fn put(&mut self, key: &K, value: &V) -> Result<(), KernelError>;

    /// Takes an entry out, if it is there.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove(&mut self, key: &K) -> Result<(), KernelError>;
}

/// Sorts entries as they are written one after the other: of several with one key, the last counts.
#[must_use]
pub fn sorted<K: Copy, V: Copy, T: Table<K, V>>(mut entries: Entries<K, V>) -> Entries<K, V> {
    entries.sort_by_key(|(key, _)| T::order(key));
    entries.dedup_by(|later, earlier| {
        let same = T::order(&later.0) == T::order(&earlier.0);
        if same {
            earlier.1 = later.1;
        }
        same
    });
    entries
}

/// Makes `table`, which holds `held`, hold what is `wanted`; how many entries were written or removed. Both are sorted. What
/// the table holds in the end is known, whatever fails.
///
/// # Errors
/// The table refuses.
pub fn write_difference<K: Copy, V: Copy, T: Table<K, V>>(
    table: &mut T,
    held: &mut Entries<K, V>,
    mut wanted: Entries<K, V>,
) -> Result<usize, KernelError> {
    // First what goes, so that a table is never fuller than it may be.
    let mut writes = 0;
    let (mut at, mut result) = (0, Ok(()));
    held.retain(|(key, _)| {
        let order = T::order(key);
        while wanted.get(at).is_some_and(|(next, _)| T::order(next) < order) {
            at += 1;
        }
        if result.is_err() || wanted.get(at).is_some_and(|(next, _)| T::order(next) == order) {
            return true;
        }
        result = table.remove(key);
        writes += usize::from(result.is_ok());
        result.is_err()
    });
    result?;
    // What is left has keys that are wanted.
    let mut at = 0;
    for index in 0..wanted.len() {
        let (key, value) = wanted[index];
        let known = held.get(at).filter(|(next, _)| T::order(next) == T::order(&key));
        if let Some((_, known)) = known
            && T::serves(known, &value)
        {
            wanted[index].1 = *known;
        } else {
            if let Err(error) = table.put(&key, &value) {
                wanted.truncate(index);
                wanted.extend_from_slice(&held[at..]);
                *held = wanted;
                return Err(error);
            }
            writes += 1;
        }
        at += usize::from(known.is_some());
    }
    *held = wanted;
    Ok(writes)
}

/// Whether two moments are the same but for how exactly they were computed from the calendar.
#[must_use]
pub fn same_moment(a_ns: u64, b_ns: u64) -> bool {
    a_ns.abs_diff(b_ns) < 100_000_000
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Map {
        entries: BTreeMap<u8, u8>,
        /// How many calls still succeed.
        left: usize,
    }

    impl Map {
        fn call(&mut self) -> Result<(), KernelError> {
            if self.left == 0 {
                return Err(KernelError::Randomness);
            }
            self.left -= 1;
            Ok(())
        }
    }

    impl Table<u8, u8> for Map {
        type Order = u8;

        fn order(key: &u8) -> u8 {
            *key
        }

        fn serves(held: &u8, wanted: &u8) -> bool {
            held.abs_diff(*wanted) < 2
        }

        fn put(&mut self, key: &u8, value: &u8) -> Result<(), KernelError> {
            self.call()?;
            self.entries.insert(*key, *value);
            Ok(())
        }

        fn remove(&mut self, key: &u8) -> Result<(), KernelError> {
            self.call()?;
            self.entries.remove(key);
            Ok(())
        }
    }

    fn written(map: &Map) -> Entries<u8, u8> {
        map.entries.iter().map(|(key, value)| (*key, *value)).collect()
    }

    #[test]
    fn only_differences_are_written() {
        let mut map = Map {
            left: usize::MAX,
            ..Map::default()
        };
        let mut held = Vec::new();
        let first = vec![(1, 10), (2, 20), (4, 40)];
        assert_eq!(write_difference(&mut map, &mut held, first.clone()).unwrap(), 3);
        assert_eq!(write_difference(&mut map, &mut held, first).unwrap(), 0);
        // One goes, one comes, one changes, and one is as good as it was.
        let second = vec![(1, 11), (3, 30), (4, 50)];
        assert_eq!(write_difference(&mut map, &mut held, second).unwrap(), 3);
        assert_eq!(held, [(1, 10), (3, 30), (4, 50)]);
        assert_eq!(written(&map), held);
        assert_eq!(write_difference(&mut map, &mut held, Vec::new()).unwrap(), 3);
        assert_eq!(written(&map), []);
    }

    #[test]
    fn what_is_held_is_known_wherever_it_fails() {
        let (first, second) = (
            vec![(1, 10), (2, 20), (4, 40)],
            vec![(0, 1), (2, 25), (4, 40), (5, 50)],
        );
        for left in 0..=4 {
            let mut map = Map {
                left: usize::MAX,
                ..Map::default()
            };
            let mut held = Vec::new();
            write_difference(&mut map, &mut held, first.clone()).unwrap();
            map.left = left;
            let result = write_difference(&mut map, &mut held, second.clone());
            assert_eq!(result.is_ok(), left == 4, "{left}");
            assert_eq!(written(&map), held, "{left}");
            map.left = usize::MAX;
            write_difference(&mut map, &mut held, second.clone()).unwrap();
            assert_eq!(written(&map), second, "{left}");
        }
    }

    #[test]
    fn the_last_of_one_key_counts() {
        assert_eq!(
            sorted::<u8, u8, Map>(vec![(2, 1), (1, 1), (2, 2), (1, 2), (2, 3)]),
            [(1, 2), (2, 3)]
        );
    }
}
