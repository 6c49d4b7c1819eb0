//! Maps and sets in the order of their keys, on sorted vectors.
//!
//! Whatever is in here is compiled again wherever the component runs first, and the standard library's trees are a seventh of it: each kind of key and value brings a
//! tree of its own, with a sort to fill it. Vectors are a tenth of that. What the connector keeps so is a page, a batch or a list of projects,
//! which comes nearly in order; a key that belongs far before the last one moves those behind it.

use std::borrow::Borrow;
use std::collections::BinaryHeap;
use std::ops::{Deref, DerefMut};

use litemap::LiteMap;

/// Values by their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortedMap<K, V>(LiteMap<K, V>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(LiteMap::new_vec())
    }
}

impl<K, V> SortedMap<K, V> {
    pub(crate) fn into_values(self) -> impl Iterator<Item = V> {
        self.into_iter().map(|(_, value)| value)
    }
}

impl<K, V> Deref for SortedMap<K, V> {
    type Target = LiteMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V> DerefMut for SortedMap<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    /// One by one: the library's own way sorts, which is as much code again.
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (key, value) in pairs {
            self.0.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut map = Self::default();
        map.extend(pairs);
        map
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_tuple_vec().into_iter()
    }
}

impl<'m, K, V> IntoIterator for &'m SortedMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = <&'m LiteMap<K, V> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.0).into_iter()
    }
}

/// Keys, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortedSet<K>(SortedMap<K, ()>);

impl<K> Default for SortedSet<K> {
    fn default() -> Self {
        Self(SortedMap::default())
    }
}

impl<K: Ord> SortedSet<K> {
    /// Whether it was not there before.
    pub(crate) fn insert(&mut self, key: K) -> bool {
        self.0.insert(key, ()).is_none()
    }

    pub(crate) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.0.remove(key);
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.0.retain(|key, ()| keep(key));
    }
}

impl<K> SortedSet<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
}

impl<K: Ord> Extend<K> for SortedSet<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        for key in keys {
            self.insert(key);
        }
    }
}

impl<K: Ord> FromIterator<K> for SortedSet<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        let mut set = Self::default();
        set.extend(keys);
        set
    }
}

impl<K> IntoIterator for SortedSet<K> {
    type Item = K;
    type IntoIter = std::iter::Map<std::vec::IntoIter<(K, ())>, fn((K, ())) -> K>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().map(|(key, ())| key)
    }
}

/// In ascending order.
pub(crate) fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items
        .into_iter()
        .collect::<BinaryHeap<T>>()
        .into_sorted_vec()
}

/// In ascending order of their keys; what has the same key stays in the order in which it came.
pub(crate) fn sorted_by_key<T, K: Ord>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let keys = items
        .iter()
        .flatten()
        .enumerate()
        .map(|(place, item)| (key(item), place));
    let order = sorted(keys);
    let in_order = order
        .into_iter()
        .filter_map(|(_, place)| items[place].take());
    in_order.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_holds_what_the_standard_librarys_holds(pairs: Vec<(u8, u16)>, gone: Vec<u8>) {
            let mut ours: SortedMap<u8, u16> = pairs.iter().copied().collect();
            let mut theirs: BTreeMap<u8, u16> = pairs.into_iter().collect();
            for key in gone {
                prop_assert_eq!(ours.remove(&key), theirs.remove(&key));
                prop_assert!(ours.get(&key).is_none());
            }
            prop_assert!(ours.iter().eq(&theirs));
            prop_assert!((&ours).into_iter().eq(&theirs));
            prop_assert!(ours.clone().into_values().eq(theirs.clone().into_values()));
            prop_assert!(ours.into_iter().eq(theirs));
        }

        #[test]
        fn a_set_tells_what_is_new_and_keeps_what_it_is_told_to(keys: Vec<u8>, from: u8) {
            let mut ours = SortedSet::default();
            let mut theirs = BTreeSet::new();
            prop_assert!(ours.is_empty());
            for key in keys {
                prop_assert_eq!(ours.insert(key), theirs.insert(key));
                prop_assert!(ours.contains(&key));
            }
            ours.retain(|key| *key >= from);
            theirs.retain(|key| *key >= from);
            ours.remove(&from);
            theirs.remove(&from);
            prop_assert!(ours.iter().eq(&theirs));
            prop_assert!(ours.into_iter().eq(theirs));
        }

        #[test]
        fn what_has_the_same_key_stays_in_its_order(items: Vec<(u8, u16)>) {
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(sorted_by_key(items.clone(), |(key, _)| *key), expected.clone());
            expected.sort_unstable();
            prop_assert_eq!(sorted(items), expected);
        }
    }
}
