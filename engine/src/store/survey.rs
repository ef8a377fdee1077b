//! A look through what is held of a content, some pieces at a time: who looks at a large one need not keep its thread.

use super::stats::ContentStat;
use super::{Inner, Store};
use crate::content::Content;
use crate::content_id::Scope;

/// What was seen of a content so far.
#[derive(Debug)]
pub struct Survey<'a> {
    inner: &'a Inner,
    content: &'a Content,
    next: u32,
    held_bytes: u64,
    durable_pieces: u32,
}

impl Store {
    /// Begins a look through a content.
    pub fn survey<'a>(&'a self, content: &'a Content) -> Survey<'a> {
        Survey { inner: &self.inner, content, next: 0, held_bytes: 0, durable_pieces: 0 }
    }

    /// What one content says of itself.
    pub fn stat(&self, content: &Content) -> ContentStat {
        let mut survey = self.survey(content);
        let _ = survey.step(u32::MAX, |_, _| {});
        survey.end()
    }
}

impl Survey<'_> {
    /// Looks at so many pieces more, and tells of each of which something is here its number, and how many of its
    /// blocks are: 1 to 4. False when all have been looked at.
    pub fn step(&mut self, pieces: u32, mut each: impl FnMut(u32, u32)) -> bool {
        let (layout, slots) = (self.content.layout(), &self.inner.slots);
        let end = self.next.saturating_add(pieces).min(layout.piece_count());
        for (number, slot) in self.content.slots_of(self.next..end) {
            let Some(piece) = layout.piece(number) else { continue };
            let presence = slots.presence(slot);
            self.held_bytes += layout.present_bytes(piece, presence);
            self.durable_pieces += u32::from(slots.durable(slot) == layout.full_presence(piece));
            if presence.count_ones() > 0 {
                each(number, presence.count_ones());
            }
        }
        self.next = end;
        end < layout.piece_count()
    }

    /// What the content says of itself; of its pieces, those that were looked at count.
    pub fn end(self) -> ContentStat {
        let (content, layout) = (self.content, self.content.layout());
        ContentStat {
            id: content.id(),
            length_bytes: layout.length_bytes(),
            pieces: layout.piece_count(),
            naming: content.naming(),
            media_type: content.media_type().to_owned(),
            held_bytes: self.held_bytes,
            held_pieces: content.held_pieces(),
            durable_pieces: self.durable_pieces,
            verification: content.verification(),
            pinned: content.pinned(),
            registry: content.registry(),
            shared: content.scope() == Scope::Verified,
            created_at_s: content.created_at_s(),
            used_at_s: content.used_at_s(),
        }
    }
}
