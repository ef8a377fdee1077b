//! What worlds did.

/// What worlds did, so that one knows that they do something.
#[derive(Clone, Debug, Default)]
pub(super) struct Lived {
    pub(super) steps: u64,
    pub(super) lives: u64,
    pub(super) crashes: u64,
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) evictions: u64,
    pub(super) failed_syncs: u64,
    pub(super) promised_pieces: u64,
    pub(super) excused_pieces: u64,
    pub(super) recovered_blocks: u64,
}

impl Lived {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.lives += other.lives;
        self.crashes += other.crashes;
        self.writes += other.writes;
        self.reads += other.reads;
        self.evictions += other.evictions;
        self.failed_syncs += other.failed_syncs;
        self.promised_pieces += other.promised_pieces;
        self.excused_pieces += other.excused_pieces;
        self.recovered_blocks += other.recovered_blocks;
    }

    /// Whether all that is to be looked at happens.
    pub(super) fn means_something(&self) -> bool {
        let all = [
            self.crashes,
            self.writes,
            self.reads,
            self.evictions,
            self.failed_syncs,
            self.promised_pieces,
            self.recovered_blocks,
        ];
        all.iter().all(|count| *count > self.lives / 50) && self.excused_pieces < self.promised_pieces / 4
    }
}
