//! One boot of this node, as its client reads a content lazily: recorded until a list of it is known, and then
//! followed.
//!
//! ```text
//!              recalled: nobody has a list               over
//!  asking ──────────────────────────────────▶ recording ──────▶ the owner is told
//!    │                                            ▲  (asking counts as recording: what was read meanwhile stays)
//!    └── recalled: here is one ──▶ following ── over ──▶ nothing to tell
//! ```
//!
//! It is over when its list is full or walked to the end, when the client has rested, and in any case after a while: what
//! a program reads when it has started is another program's business.
//!
//! Pure: reads go in with the time, blocks to bring come out. Who asks the owner and brings them is elsewhere.

use std::time::{Duration, Instant};

use darter_engine::{BlockIndex, BlockRun, Layout};

use crate::boot_list::{BootList, Follower, Recorder};
use crate::wire::BootRun;

/// A client that has read nothing for so long has started, or waits for something else than blocks.
pub const RESTS: Duration = Duration::from_secs(10);
/// Nothing is recorded or followed for longer.
pub const LASTS: Duration = Duration::from_secs(60);
/// Of fewer blocks no list is made, 1 MiB: a client that only looks would keep the list of the first boot from coming,
/// as the first one stays.
pub const RECORDED_MIN_BLOCKS: u32 = 16;

/// A client reads a content lazily.
#[derive(Debug)]
pub struct Boot {
    layout: Layout,
    part: Part,
    began: Instant,
    last_read: Instant,
}

#[derive(Debug)]
enum Part {
    /// It is not known yet whether there is a list.
    Asking(Recorder),
    Recording(Recorder),
    /// There is no room for more in the list.
    Full(Recorder),
    Following(Follower),
}

impl Boot {
    /// Of a content with that layout; nothing was read yet.
    #[must_use]
    pub fn begin(layout: Layout, now: Instant) -> Self {
        Self { layout, part: Part::Asking(Recorder::new()), began: now, last_read: now }
    }

    /// The client reads a run: the blocks to bring ahead of it, in their order.
    pub fn read(&mut self, run: BlockRun, now: Instant) -> Vec<BlockIndex> {
        self.last_read = now;
        match &mut self.part {
            Part::Asking(recorder) => {
                // When it is full, what it has is enough to see whether a list begins alike.
                recorder.read(run);
                Vec::new()
            }
            Part::Recording(recorder) => {
                if !recorder.read(run) {
                    self.part = Part::Full(std::mem::take(recorder));
                }
                Vec::new()
            }
            Part::Full(_) => Vec::new(),
            Part::Following(follower) => follow(follower, run),
        }
    }

    /// What the owner knows of a boot of this; empty if it knows nothing. The blocks to bring ahead of the client.
    pub fn recalled(&mut self, list: &[BootRun]) -> Vec<BlockIndex> {
        let Part::Asking(recorder) = &mut self.part else { return Vec::new() };
        let recorder = std::mem::take(recorder);
        if list.is_empty() {
            self.part = Part::Recording(recorder);
            return Vec::new();
        }
        let mut follower = Follower::new(list, self.layout);
        let mut ahead = Vec::new();
        for run in recorder.list().iter() {
            let end = run.first.saturating_add(run.count.into());
            let run = self.layout.run(run.first, end);
            run.into_iter().for_each(|run| ahead.extend(follow(&mut follower, run)));
        }
        ahead.retain(|block| !recorder.has(*block));
        self.part = Part::Following(follower);
        ahead
    }

    /// Whether nothing more is to be learned or brought.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        let is_done = match &self.part {
            Part::Asking(_) | Part::Recording(_) => false,
            Part::Full(_) => true,
            Part::Following(follower) => follower.is_done(),
        };
        let since = |then: Instant| now.saturating_duration_since(then);
        is_done || since(self.last_read) >= RESTS || since(self.began) >= LASTS
    }

    /// Whether a list is followed.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self.part, Part::Following(_))
    }

    /// What the owner is to be told; `None` where there was a list, or too little was read.
    #[must_use]
    pub fn end(self) -> Option<BootList> {
        let (Part::Asking(recorder) | Part::Recording(recorder) | Part::Full(recorder)) = self.part else {
            return None;
        };
        let list = recorder.list();
        let blocks: u32 = list.iter().map(|run| u32::from(run.count)).sum();
        (blocks >= RECORDED_MIN_BLOCKS).then_some(list)
    }
}

fn follow(follower: &mut Follower, run: BlockRun) -> Vec<BlockIndex> {
    let mut ahead = Vec::new();
    run.blocks().for_each(|block| ahead.extend_from_slice(follower.read(block)));
    // What the client reads itself in this moment is not ahead of it.
    ahead.retain(|block| !run.contains(*block));
    ahead
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::List;

    fn layout() -> Layout {
        Layout::new(1000 << 16).unwrap()
    }

    fn run(first: u32, count: u32) -> BlockRun {
        layout().run(first, first + count).unwrap()
    }

    fn numbers(blocks: &[BlockIndex]) -> Vec<u32> {
        blocks.iter().map(|block| block.number()).collect()
    }

    fn list(runs: &[(u32, u16)]) -> BootList {
        List::first_of(runs.iter().map(|(first, count)| BootRun { first: *first, count: *count }))
    }

    #[test]
    fn the_first_boot_is_told_when_the_client_rests() {
        let began = Instant::now();
        let mut boot = Boot::begin(layout(), began);
        assert!(boot.read(run(900, 2), began).is_empty());
        assert!(boot.recalled(&[]).is_empty());
        assert!(boot.read(run(3, 20), began + Duration::from_secs(1)).is_empty());
        assert!(!boot.is_over(began + RESTS) && boot.is_over(began + RESTS + Duration::from_secs(1)));
        assert_eq!(boot.end(), Some(list(&[(900, 2), (3, 20)])));
    }

    #[test]
    fn a_client_that_never_rests_is_recorded_for_a_minute() {
        let began = Instant::now();
        let mut boot = Boot::begin(layout(), began);
        boot.recalled(&[]);
        for second in 0..60 {
            let now = began + Duration::from_secs(second);
            assert!(!boot.is_over(now));
            boot.read(run(second as u32, 1), now);
        }
        assert!(boot.is_over(began + LASTS));
    }

    #[test]
    fn who_only_looks_makes_no_list() {
        let mut boot = Boot::begin(layout(), Instant::now());
        boot.read(run(7, RECORDED_MIN_BLOCKS - 1), Instant::now());
        assert_eq!(boot.end(), None);
    }

    /// The answer comes when the client has read on: the list is followed from where it is.
    #[test]
    fn a_list_is_followed_from_where_the_client_is() {
        let began = Instant::now();
        let mut boot = Boot::begin(layout(), began);
        boot.read(run(900, 2), began);
        boot.read(run(0, 5), began);
        let ahead = boot.recalled(&list(&[(900, 2), (0, 300)]));
        assert!(boot.follows());
        assert_eq!(numbers(&ahead), (5..64).collect::<Vec<u32>>(), "but for what was read, and in order");
        assert_eq!(numbers(&boot.read(run(5, 11), began)), (64..80).collect::<Vec<u32>>());
        assert!(boot.recalled(&list(&[(1, 9)])).is_empty(), "one answer is enough");
        assert_eq!(boot.end(), None);
    }

    #[test]
    fn a_list_that_is_walked_to_its_end_is_over() {
        let began = Instant::now();
        let mut boot = Boot::begin(layout(), began);
        boot.recalled(&list(&[(10, 20)]));
        boot.read(run(10, 19), began);
        assert!(!boot.is_over(began));
        boot.read(run(29, 1), began);
        assert!(boot.is_over(began));
    }

    #[test]
    fn a_list_of_blocks_that_there_are_none_of_is_over_at_once() {
        let mut boot = Boot::begin(layout(), Instant::now());
        assert!(boot.recalled(&list(&[(1000, u16::MAX), (u32::MAX, 1)])).is_empty());
        assert!(boot.is_over(Instant::now()));
    }

    #[test]
    fn a_full_list_is_over() {
        let layout = Layout::new(100_000 << 16).unwrap();
        let (mut boot, now) = (Boot::begin(layout, Instant::now()), Instant::now());
        boot.recalled(&[]);
        for number in 0..20_000 {
            boot.read(layout.run(number * 2, number * 2 + 1).unwrap(), now);
        }
        assert!(boot.is_over(now));
        assert_eq!(boot.end().map(|list| list.len()), Some(crate::wire::BOOT_RUNS_MAX));
    }
}
