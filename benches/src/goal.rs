//! What a figure should be, and whether it is.

use std::fmt;

use serde::Serialize;

use crate::measure::{Measure, digits};
use crate::side::Side;

/// How far a figure may go.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

/// A figure that is wanted: a median, or its ratio to the best of some others in the same case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) case: String,
    pub(crate) measure: Measure,
    pub(crate) of: Side,
    /// Nobody: the figure itself counts.
    pub(crate) over: Vec<Side>,
    pub(crate) bound: Bound,
}

/// A goal with the figure that was reached.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reached {
    #[serde(flatten)]
    pub(crate) goal: Goal,
    /// `None`: it was not measured.
    pub(crate) figure: Option<f64>,
    pub(crate) reached: bool,
}

impl Goal {
    /// A goal of the value itself.
    pub(crate) fn value(case: impl Into<String>, of: Side, measure: Measure, bound: Bound) -> Self {
        Self { case: case.into(), measure, of, over: Vec::new(), bound }
    }

    /// A goal of the ratio to the best of `over`.
    pub(crate) fn ratio(
        case: impl Into<String>,
        (of, over): (Side, &[Side]),
        measure: Measure,
        bound: Bound,
    ) -> Self {
        Self { case: case.into(), measure, of, over: over.to_vec(), bound }
    }

    /// What it comes to with these medians of the case.
    pub(crate) fn judge(&self, median: impl Fn(Side) -> Option<f64>) -> Reached {
        let better = |a: f64, b: f64| if self.measure.more_is_better() { a.max(b) } else { a.min(b) };
        let own = median(self.of);
        let figure = match self.over.is_empty() {
            true => own,
            false => {
                let best = self.over.iter().filter_map(|side| median(*side)).reduce(better);
                own.zip(best).map(|(own, best)| own / best)
            }
        };
        Reached { goal: self.clone(), figure, reached: figure.is_some_and(|figure| self.bound.holds(figure)) }
    }

    fn shown(&self, value: f64) -> String {
        match self.over.is_empty() {
            true => self.measure.shown(value),
            false => format!("{}×", digits(value)),
        }
    }
}

impl fmt::Display for Reached {
    /// A row of a table: case, what, wanted, reached, and a word.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Goal { case, measure, of, over, bound } = &self.goal;
        let over: Vec<String> = over.iter().map(ToString::to_string).collect();
        let what = match over.is_empty() {
            true => format!("{of}: {}", measure.title()),
            false => format!("{of} over {}: {}", over.join(" or "), measure.title()),
        };
        let (sign, bound) = match bound {
            Bound::AtLeast(least) => ("≥", least),
            Bound::AtMost(most) => ("≤", most),
        };
        let figure = self.figure.map_or_else(|| "not measured".into(), |figure| self.goal.shown(figure));
        let word = if self.reached { "yes" } else { "**no**" };
        write!(out, "| {case} | {what} | {sign} {} | {figure} | {word} |", self.goal.shown(*bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_to_the_best_of_the_others() {
        let check = |measure, bound, expected: (f64, bool)| {
            let over = [Side::NginxRead, Side::NginxSendfile];
            let goal = Goal::ratio("case", (Side::Darter, &over), measure, bound);
            let reached = goal.judge(|side| match side {
                Side::Darter => Some(6.0),
                Side::NginxRead => Some(3.0),
                Side::NginxSendfile => Some(4.0),
                _ => None,
            });
            assert_eq!((reached.figure, reached.reached), (Some(expected.0), expected.1));
        };
        check(Measure::AnswersPerS, Bound::AtLeast(1.5), (1.5, true));
        check(Measure::AnswersPerS, Bound::AtLeast(1.6), (1.5, false));
        check(Measure::CpuSPerGb, Bound::AtMost(2.0), (2.0, true));
        check(Measure::CpuSPerGb, Bound::AtMost(1.9), (2.0, false));
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        let goal = Goal::value("case", Side::Darter, Measure::ElapsedS, Bound::AtMost(0.5));
        assert!(!goal.judge(|_| None).reached);
        assert!(goal.judge(|_| None).to_string().contains("not measured"));
        assert!(goal.judge(|_| Some(0.4)).to_string().ends_with("| ≤ 0.500 | 0.400 | yes |"));
    }
}
