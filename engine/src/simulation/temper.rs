//! What kind of world one is, and what its disk does.

use std::time::Duration;

use super::disk::Odds;
use super::rng::Rng;

/// What kind of world this is.
#[derive(Clone, Debug)]
pub(super) struct Temper {
    pub(super) ttl: Option<Duration>,
    /// Writes of the liar, in 1000.
    pub(super) lies: u32,
    /// Bits that flip at rest, bad sectors, and files that are cut short, per 1000 steps.
    pub(super) flips: u32,
    pub(super) bad_sectors: u32,
    pub(super) cuts: u32,
    pub(super) lives: usize,
    pub(super) calm: bool,
}

impl Temper {
    /// With the odds of the disk.
    pub(super) fn by_chance(rng: &mut Rng) -> (Self, Odds) {
        let mut odds = Odds { interleaves: [0, 100, 500, 900][rng.below(4)], ..Odds::default() };
        let mut temper = Self {
            ttl: rng.chance(150).then_some(Duration::from_secs(600)),
            lies: [0, 100, 400][rng.below(3)],
            flips: 0,
            bad_sectors: 0,
            cuts: 0,
            lives: 2 + rng.below(4),
            calm: true,
        };
        // Most worlds have one trouble beside loss of power: with several at a time each excuses too much.
        match rng.below(8) {
            0 | 1 => {}
            2 => odds.sync_fails = 150,
            3 => (temper.flips, temper.lies) = (60, 200),
            4 => (odds.read_fails, odds.read_flips) = (20, 20),
            5 => (odds.write_fails, temper.bad_sectors) = (30, 30),
            6 => (odds.mapping_fails, temper.cuts) = (10, 8),
            _ => {
                odds = Odds {
                    sync_fails: 30,
                    write_fails: 10,
                    read_fails: 5,
                    read_flips: 5,
                    mapping_fails: 2,
                    ..odds
                };
                (temper.flips, temper.bad_sectors, temper.cuts) = (10, 10, 2);
            }
        }
        temper.calm = odds.sync_fails + odds.write_fails + odds.read_fails + odds.read_flips == 0
            && odds.mapping_fails + temper.flips + temper.bad_sectors + temper.cuts == 0;
        (temper, odds)
    }
}
