//! One turn of one side, and what many of them come to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::Measure;

/// What one turn measured.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Round(BTreeMap<Measure, f64>);

impl Round {
    /// With one value more.
    pub(crate) fn with(mut self, measure: Measure, value: f64) -> Self {
        self.0.insert(measure, value);
        self
    }

    pub(crate) fn value(&self, measure: Measure) -> Option<f64> {
        self.0.get(&measure).copied()
    }
}

/// The middle and the ends of a measure over rounds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` where nobody measured it.
    pub(crate) fn of(rounds: &[Round], measure: Measure) -> Option<Self> {
        let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.value(measure)).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(*values.get(middle.checked_sub(1)?)?, *values.get(middle)?),
            _ => values[middle],
        };
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts() {
        let rounds = |values: &[f64]| -> Vec<Round> {
            values.iter().map(|value| Round::default().with(Measure::ElapsedS, *value)).collect()
        };
        let check = |values: &[f64], median, min, max| {
            let spread = Spread::of(&rounds(values), Measure::ElapsedS);
            assert_eq!(spread, Some(Spread { median, min, max }));
        };
        check(&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0);
        check(&[3.0, 1.0], 2.0, 1.0, 3.0);
        assert_eq!(Spread::of(&rounds(&[1.0]), Measure::CpuS), None);
        assert_eq!(Spread::of(&[], Measure::CpuS), None);
    }
}
