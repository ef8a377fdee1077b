//! Where registries redirect to: every blob of a large registry is, and one hop for each request would double the
//! way to each of its blocks.

use std::collections::HashMap;
use std::rc::Rc;

use super::demand::FetchKey;
use crate::origin::{Place, Target};

/// Contents whose place is known.
const PLACES_MAX: usize = 4096;

/// The place of each content, for the credentials that it was given to. Nothing here knows when an address expires:
/// its host says so.
#[derive(Debug, Default)]
pub(super) struct Places {
    of: HashMap<FetchKey, (Rc<Target>, Place)>,
}

impl Places {
    pub(super) fn find(&self, key: &FetchKey, target: &Target) -> Option<Place> {
        let (redirected, place) = self.of.get(key)?;
        redirected.asks_like(target).then(|| place.clone())
    }

    /// When all room is taken all are forgotten: each costs one hop to learn again.
    pub(super) fn insert(&mut self, key: FetchKey, target: Rc<Target>, place: Place) {
        if self.of.len() >= PLACES_MAX {
            self.of.clear();
        }
        self.of.insert(key, (target, place));
    }

    pub(super) fn forget(&mut self, key: &FetchKey) {
        self.of.remove(key);
    }
}
