//! What the index may expect of its map, and no more: each operation on a name happens at one moment, and who finds a
//! value sees what was done before it was put there.
//!
//! It stands in for papaya's map, whose inside is papaya's to test. A name is one atomic that says which of all values
//! ever put here is the name's now; values are never moved, as papaya keeps them for those who look at them.

use std::sync::OnceLock;

use loom::sync::atomic::{AtomicUsize, Ordering};

const NAMES_MAX: usize = 8;
const VALUES_MAX: usize = 8;
const NONE: usize = usize::MAX;

/// A few values by a few names.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    names: [(OnceLock<K>, AtomicUsize); NAMES_MAX],
    values: [OnceLock<V>; VALUES_MAX],
}

impl<K: Clone + PartialEq, V> Map<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            names: std::array::from_fn(|_| (OnceLock::new(), AtomicUsize::new(NONE))),
            values: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// As papaya's guard, which frees what nobody looks at any more; here all stays.
    pub(crate) fn pin(&self) -> &Self {
        self
    }

    fn now(&self, name: &K) -> &AtomicUsize {
        let own = self.names.iter().find(|(slot, _)| slot.get_or_init(|| name.clone()) == name);
        match own {
            Some((_, now)) => now,
            None => panic!("a case has at most {NAMES_MAX} names"),
        }
    }

    fn keep(&self, mut value: V) -> usize {
        for (at, slot) in self.values.iter().enumerate() {
            match slot.set(value) {
                Ok(()) => return at,
                Err(back) => value = back,
            }
        }
        panic!("a case has at most {VALUES_MAX} values");
    }

    fn value(&self, at: usize) -> Option<&V> {
        self.values.get(at)?.get()
    }

    pub(crate) fn get(&self, name: &K) -> Option<&V> {
        self.value(self.now(name).load(Ordering::Acquire))
    }

    pub(crate) fn insert(&self, name: K, value: V) -> Option<&V> {
        self.value(self.now(&name).swap(self.keep(value), Ordering::AcqRel))
    }

    /// Unless there is one of that name.
    pub(crate) fn try_insert(&self, name: K, value: V) -> Result<(), &V> {
        let at = self.keep(value);
        let before = self.now(&name).compare_exchange(NONE, at, Ordering::AcqRel, Ordering::Acquire);
        before.map(drop).map_err(|before| match self.value(before) {
            Some(before) => before,
            None => unreachable!("a name has a value that was put here"),
        })
    }

    /// If it is as it should be to be removed: looked at and removed at one moment.
    pub(crate) fn remove_if(&self, name: &K, should_be: impl Fn(&K, &V) -> bool) -> Result<Option<&V>, &V> {
        let now = self.now(name);
        let mut before = now.load(Ordering::Acquire);
        loop {
            let Some(value) = self.value(before) else { return Ok(None) };
            if !should_be(name, value) {
                return Err(value);
            }
            match now.compare_exchange(before, NONE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(Some(value)),
                Err(other) => before = other,
            }
        }
    }
}
