//! What the owners have said of contents: whom to ask for their spans.
//!
//! Shared by all shards, and bounded: what was used longest ago is forgotten, and asked for again when it is needed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use darter_engine::{ContentId, RegistryScope};

/// Contents that are remembered, some 100 bytes each.
const ROUTES_MAX: usize = 65_536;

/// Remembers whether each span of a content has an owner of its own.
#[derive(Debug, Default)]
pub struct Routes {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the number of its last use.
    routes: HashMap<(ContentId, RegistryScope), (bool, u64)>,
    uses: u64,
}

impl Routes {
    /// Whether spans are owned each by itself, if the owner has said.
    pub fn by_span(&self, content: &ContentId, registry: RegistryScope) -> Option<bool> {
        let mut known = self.known();
        known.uses += 1;
        let uses = known.uses;
        let (by_span, used) = known.routes.get_mut(&(*content, registry))?;
        *used = uses;
        Some(*by_span)
    }

    /// The owner has said it.
    pub fn note(&self, content: &ContentId, registry: RegistryScope, by_span: bool) {
        let mut known = self.known();
        if known.routes.len() >= ROUTES_MAX {
            known.forget_the_oldest();
        }
        known.uses += 1;
        let uses = known.uses;
        known.routes.insert((*content, registry), (by_span, uses));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// A half of them, so that it does not happen often.
    fn forget_the_oldest(&mut self) {
        let mut uses: Vec<u64> = self.routes.values().map(|(_, used)| *used).collect();
        let middle = uses.len() / 2;
        let (_, middle, _) = uses.select_nth_unstable(middle);
        let middle = *middle;
        self.routes.retain(|_, (_, used)| *used > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_remembered_and_there_is_a_limit() {
        let routes = Routes::default();
        let registry = RegistryScope::of_origin("https://a");
        let content = |number: u32| ContentId::of_name(&number.to_string());
        for number in 0..ROUTES_MAX as u32 + 10 {
            routes.note(&content(number), registry, number % 2 == 0);
            assert_eq!(routes.by_span(&content(0), registry), Some(true));
        }
        assert!(routes.known().routes.len() <= ROUTES_MAX);
        assert_eq!(routes.by_span(&content(1), registry), None);
        assert_eq!(routes.by_span(&content(ROUTES_MAX as u32 + 9), registry), Some(false));
        assert_eq!(routes.by_span(&content(0), RegistryScope::of_origin("https://b")), None);
    }
}
