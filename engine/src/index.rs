//! Which contents there are: by name for readers, by place for the keeper.
//!
//! Look-ups by name take no lock. An unverified content is found only under the registry that its bytes came
//! from; a verified one under every registry.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::content::{Content, ContentSpec};
use crate::content_id::{ContentId, RegistryScope, Scope};

#[derive(Debug)]
pub(crate) struct Index {
    by_name: papaya::HashMap<(ContentId, Scope), Arc<Content>>,
    places: Mutex<Places>,
}

/// The content records of the store, each free or a content's.
#[derive(Debug)]
pub(crate) struct Places {
    contents: Vec<Option<Arc<Content>>>,
    free: BTreeSet<u32>,
    next_tenure: u64,
}

impl Index {
    pub(crate) fn new(places: u32) -> Self {
        let places =
            Places { contents: vec![None; places as usize], free: (0..places).collect(), next_tenure: 1 };
        Self { by_name: papaya::HashMap::new(), places: Mutex::new(places) }
    }

    /// At start. A second content of the same name and scope is refused.
    pub(crate) fn restore(&self, content: Arc<Content>) -> bool {
        let mut places = self.places();
        places.next_tenure = places.next_tenure.max(content.tenure + 1);
        let name = (content.id(), content.scope());
        if self.by_name.pin().try_insert(name, content.clone()).is_err() {
            return false;
        }
        places.free.remove(&content.place);
        let place = content.place as usize;
        places.contents[place] = Some(content);
        true
    }

    pub(crate) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &ContentId, scope: RegistryScope) -> Option<Arc<Content>> {
        let by_name = self.by_name.pin();
        by_name.get(&(*id, Scope::Verified)).or_else(|| by_name.get(&(*id, Scope::Registry(scope)))).cloned()
    }

    /// The content of that name, made if it is not there; `None` when all places are taken.
    pub(crate) fn create(&self, spec: &ContentSpec) -> Option<Arc<Content>> {
        let mut places = self.places();
        let scope = RegistryScope::of_origin(&spec.registry);
        if let Some(found) = self.find(&spec.id, scope)
            && found.layout() == spec.layout
        {
            return Some(found);
        }
        let place = places.free.pop_first()?;
        let content = Arc::new(Content::new(spec.clone(), place, places.next_tenure));
        places.next_tenure += 1;
        places.contents[place as usize] = Some(content.clone());
        self.by_name.pin().insert((spec.id, Scope::Registry(scope)), content.clone());
        Some(content)
    }

    /// Takes the content out of sight. Its place is given back by [`Index::vacate`].
    pub(crate) fn hide(&self, content: &Arc<Content>) {
        content.set_gone();
        let by_name = self.by_name.pin();
        let name = (content.id(), content.scope());
        let _ = by_name.remove_if(&name, |_, found| Arc::ptr_eq(found, content));
    }

    /// The place of a hidden content may be used again.
    pub(crate) fn vacate(&self, content: &Content) {
        let mut places = self.places();
        let place = content.place;
        let still_its_own =
            places.content(place).is_some_and(|found| found.tenure == content.tenure && found.is_gone());
        if still_its_own {
            places.contents[place as usize] = None;
            places.free.insert(place);
        }
    }

    /// Found under another scope from now on. False if there is such a content already.
    pub(crate) fn rescope(&self, content: &Arc<Content>, scope: Scope) -> bool {
        let _places = self.places();
        let mut indexed_as = content.indexed_as.lock().unwrap_or_else(PoisonError::into_inner);
        if *indexed_as == scope {
            return true;
        }
        let by_name = self.by_name.pin();
        if by_name.try_insert((content.id(), scope), content.clone()).is_err() {
            return false;
        }
        let _ = by_name.remove_if(&(content.id(), *indexed_as), |_, found| Arc::ptr_eq(found, content));
        *indexed_as = scope;
        true
    }
}

impl Places {
    pub(crate) fn content(&self, place: u32) -> Option<&Arc<Content>> {
        self.contents.get(place as usize)?.as_ref()
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.contents.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.contents.len() - self.free.len()
    }
}
