//! Which contents there are: by name for readers, by place for the keeper.
//!
//! Look-ups by name take no lock. An unverified content is found only under the registry that its bytes came
//! from; a verified one under every registry.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use crate::content::{Content, ContentSpec, Verification};
use crate::content_id::{ContentId, RegistryScope, Scope};
use crate::format::Geometry;
use crate::layout::Layout;
use crate::sync::{Map, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Index {
    by_name: Map<(ContentId, Scope), Arc<Content>>,
    places: Mutex<Places>,
}

/// The content records of the store, each free or a content's.
#[derive(Debug)]
pub(crate) struct Places {
    contents: Vec<Option<Arc<Content>>>,
    free: BTreeSet<u32>,
    /// Hidden ones that still have their places.
    gone: usize,
    next_tenure: u64,
    /// Entries of all piece tables together; their memory is bounded by this.
    table_entries: u64,
    table_entries_max: u64,
    length_bytes_max: u64,
}

/// Entries of all piece tables for each slot: lazily read images are known with eight times what is held of them.
const TABLE_ENTRIES_PER_SLOT: u64 = 12;

/// What became of a content that was to be found under another scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rescoped {
    /// It is.
    Done,
    /// There is such a content already.
    Taken,
    /// It was removed.
    Gone,
}

impl Index {
    pub(crate) fn new(geometry: Geometry) -> Self {
        let places = Places {
            contents: vec![None; geometry.contents() as usize],
            free: (0..geometry.contents()).collect(),
            gone: 0,
            next_tenure: 1,
            table_entries: 0,
            table_entries_max: u64::from(geometry.slots()) * TABLE_ENTRIES_PER_SLOT,
            length_bytes_max: geometry.capacity_bytes(),
        };
        Self { by_name: Map::new(), places: Mutex::new(places) }
    }

    /// At start: no content that is made later gets this tenure.
    pub(crate) fn note_tenure(&self, tenure: u64) {
        let mut places = self.places();
        places.next_tenure = places.next_tenure.max(tenure + 1);
    }

    /// At start. Of two contents of one name and scope the later one stays, and none beyond the bounds. Returns the one
    /// that does not: its record is to say so, or it would come back when the other has gone.
    pub(crate) fn restore(&self, content: Arc<Content>) -> Option<Arc<Content>> {
        let mut places = self.places();
        let name = (content.id(), content.scope());
        let by_name = self.by_name.pin();
        let earlier = by_name.get(&name).cloned();
        let is_later = earlier.as_ref().is_none_or(|earlier| earlier.tenure < content.tenure);
        if !is_later || !places.has_room_for(content.layout()) {
            content.set_gone();
            return Some(content);
        }
        if let Some(earlier) = &earlier {
            earlier.set_gone();
            places.contents[earlier.place as usize] = None;
            places.table_entries -= u64::from(earlier.layout().piece_count());
            places.free.insert(earlier.place);
        }
        by_name.insert(name, content.clone());
        let place = content.place;
        places.free.remove(&place);
        places.settle(place, content);
        earlier
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &ContentId, scope: RegistryScope) -> Option<Arc<Content>> {
        let by_name = self.by_name.pin();
        let verified = || by_name.get(&(*id, Scope::Verified));
        let unverified = || by_name.get(&(*id, Scope::Registry(scope)));
        // A content that passes between the first two looks is found by neither.
        verified().or_else(unverified).or_else(verified).cloned()
    }

    /// The content of that name, made if it is not there; `None` when there is no place for it.
    pub(crate) fn create(&self, spec: &ContentSpec) -> Option<Arc<Content>> {
        let mut places = self.places();
        let scope = RegistryScope::of_origin(&spec.registry);
        if let Some(found) = self.find(&spec.id, scope) {
            return Some(found);
        }
        if !places.has_room_for(spec.layout) {
            return None;
        }
        let place = places.free.pop_first()?;
        let content = Arc::new(Content::new(spec.clone(), place, places.next_tenure));
        places.next_tenure += 1;
        places.settle(place, content.clone());
        self.by_name.pin().insert((spec.id, Scope::Registry(scope)), content.clone());
        Some(content)
    }

    /// Takes the content out of sight. Its place is given back by [`Index::vacate`].
    pub(crate) fn hide(&self, content: &Arc<Content>) {
        // Under the lock under which scopes change, so that it is not put back under another name.
        let mut places = self.places();
        let is_first = !content.is_gone();
        if is_first && places.content(content.place).is_some_and(|found| Arc::ptr_eq(found, content)) {
            places.gone += 1;
        }
        content.set_gone();
        let name = (content.id(), content.scope());
        let _ = self.by_name.pin().remove_if(&name, |_, found| Arc::ptr_eq(found, content));
    }

    /// The place of a hidden content may be used again.
    pub(crate) fn vacate(&self, content: &Content) {
        let mut places = self.places();
        let place = content.place;
        let still_its_own =
            places.content(place).is_some_and(|found| found.tenure == content.tenure && found.is_gone());
        if still_its_own {
            places.contents[place as usize] = None;
            places.gone -= 1;
            places.table_entries -= u64::from(content.layout().piece_count());
            places.free.insert(place);
        }
    }

    /// Found under another scope from now on; as verified only if its digest still is right.
    pub(crate) fn rescope(&self, content: &Arc<Content>, scope: Scope) -> Rescoped {
        let _places = self.places();
        if content.is_gone() {
            return Rescoped::Gone;
        }
        let before = content.scope();
        let fell = scope == Scope::Verified && content.verification() != Verification::Passed;
        if before == scope || fell {
            return Rescoped::Done;
        }
        let by_name = self.by_name.pin();
        if by_name.try_insert((content.id(), scope), content.clone()).is_err() {
            return Rescoped::Taken;
        }
        let _ = by_name.remove_if(&(content.id(), before), |_, found| Arc::ptr_eq(found, content));
        content.set_scope(scope);
        Rescoped::Done
    }
}

impl Places {
    fn has_room_for(&self, layout: Layout) -> bool {
        layout.length_bytes() <= self.length_bytes_max
            && self.table_entries + u64::from(layout.piece_count()) <= self.table_entries_max
    }

    fn settle(&mut self, place: u32, content: Arc<Content>) {
        self.table_entries += u64::from(content.layout().piece_count());
        self.contents[place as usize] = Some(content);
    }

    pub(crate) fn content(&self, place: u32) -> Option<&Arc<Content>> {
        self.contents.get(place as usize)?.as_ref()
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.contents.iter().flatten()
    }

    /// The contents of some places: for looking through the table without holding its lock for long.
    pub(crate) fn some(&self, places: std::ops::Range<usize>) -> impl Iterator<Item = &Arc<Content>> {
        let end = places.end.min(self.contents.len());
        self.contents[places.start.min(end)..end].iter().flatten()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.contents.len() - self.free.len()
    }

    /// Without those that are hidden and whose places are still to be given back.
    pub(crate) fn live(&self) -> usize {
        self.len() - self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_id::Naming;

    const REGISTRIES: [&str; 2] = ["http://a", "http://b"];

    fn spec(name: usize, registry: &str) -> ContentSpec {
        ContentSpec {
            id: ContentId::of_name(&name.to_string()),
            naming: Naming::Digest,
            layout: Layout::new(1).unwrap(),
            registry: registry.into(),
            media_type: String::new(),
            validator: String::new(),
        }
    }

    #[test]
    fn what_is_hidden_is_not_counted_as_live() {
        let index = Index::new(Geometry::for_capacity(64 << 20).unwrap());
        let counts = || {
            let places = index.places();
            (places.len(), places.live())
        };
        let made = [0, 1].map(|name| index.create(&spec(name, REGISTRIES[0])).unwrap());
        assert_eq!(counts(), (2, 2));
        index.hide(&made[0]);
        index.hide(&made[0]);
        assert_eq!(counts(), (2, 1));
        index.vacate(&made[0]);
        index.vacate(&made[0]);
        assert_eq!(counts(), (1, 1));
        // One whose place another has is nothing that is hidden here.
        let again = index.create(&spec(2, REGISTRIES[0])).unwrap();
        index.hide(&made[0]);
        index.vacate(&made[0]);
        assert_eq!((counts(), again.is_gone()), ((2, 2), false));
    }

    /// What each interleaving of two threads is in `interleavings`, many threads are here, on the map that it is.
    #[test]
    fn names_and_places_agree_whoever_comes_and_goes() {
        const THREADS: usize = 4;
        const TURNS: usize = 5_000;
        const NAMES: usize = 3;
        let index = Index::new(Geometry::for_capacity(Geometry::CAPACITY_BYTES_MIN).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let index = &index;
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        let wanted = spec((turn + thread) % NAMES, REGISTRIES[turn / NAMES % 2]);
                        let registry = RegistryScope::of_origin(&wanted.registry);
                        let made = index.create(&wanted).unwrap();
                        assert_eq!(made.id(), wanted.id);
                        if let Some(found) = index.find(&wanted.id, registry) {
                            assert_eq!(found.id(), wanted.id);
                        }
                        let other = RegistryScope::of_origin(REGISTRIES[(turn + thread) % 2]);
                        match turn % 5 {
                            0 | 1 => drop(index.rescope(&made, Scope::Registry(other))),
                            2 | 3 => {
                                index.hide(&made);
                                let found = index.find(&wanted.id, registry);
                                assert!(!found.is_some_and(|found| Arc::ptr_eq(&found, &made)));
                                index.vacate(&made);
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
        let places = index.places();
        assert!(places.len() <= NAMES * REGISTRIES.len());
        for content in places.contents() {
            let Scope::Registry(registry) = content.scope() else { panic!("nothing was verified") };
            assert!(!content.is_gone());
            assert!(index.find(&content.id(), registry).is_some_and(|found| Arc::ptr_eq(&found, content)));
        }
        let names = (0..NAMES).flat_map(|name| REGISTRIES.map(|registry| spec(name, registry)));
        let found =
            names.filter(|spec| index.find(&spec.id, RegistryScope::of_origin(&spec.registry)).is_some());
        assert_eq!(found.count(), places.len(), "a name is left of a content that has no place");
    }
}
