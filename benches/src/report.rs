//! What was measured, as tables for people and as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::goal::{Goal, Reached};
use crate::machine::Machine;
use crate::measure::{Measure, digits};
use crate::rounds::{Round, Spread};
use crate::side::Side;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    tables: Vec<Table>,
}

/// One comparison: cases, in each some sides, of each some rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: &'static str,
    /// How it was measured.
    method: String,
    /// The columns in their order; of the first the spread is shown, and the ratio to Darter's.
    measures: Vec<Measure>,
    cases: Vec<Case>,
    goals: Vec<Goal>,
}

#[derive(Debug, Serialize)]
struct Case {
    name: String,
    sides: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    side: Side,
    rounds: Vec<Round>,
}

impl Table {
    /// Nothing is measured yet.
    pub(crate) fn new(title: &'static str, method: String, measures: &[Measure]) -> Self {
        Self { title, method, measures: measures.to_vec(), cases: Vec::new(), goals: Vec::new() }
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, case: impl ToString, side: Side, round: Round) {
        let name = case.to_string();
        let at = self.cases.iter().position(|case| case.name == name).unwrap_or_else(|| {
            self.cases.push(Case { name, sides: Vec::new() });
            self.cases.len() - 1
        });
        let sides = &mut self.cases[at].sides;
        match sides.iter_mut().find(|measured| measured.side == side) {
            Some(measured) => measured.rounds.push(round),
            None => {
                sides.push(Measured { side, rounds: vec![round] });
                // Who had the first turn says nothing.
                sides.sort_by_key(|measured| measured.side);
            }
        }
    }

    /// Says what a figure should be.
    pub(crate) fn want(&mut self, goal: Goal) {
        self.goals.push(goal);
    }

    fn median(&self, case: &str, side: Side, measure: Measure) -> Option<f64> {
        let case = self.cases.iter().find(|known| known.name == case)?;
        case.median(side, measure)
    }

    fn reached(&self) -> Vec<Reached> {
        let judge = |goal: &Goal| goal.judge(|side| self.median(&goal.case, side, goal.measure));
        self.goals.iter().map(judge).collect()
    }

    fn write(&self, text: &mut String) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "### {}\n\n{}\n", self.title, self.method);
        let mut head = "| | |".to_owned();
        let mut rule = "|---|---|".to_owned();
        for (number, measure) in self.measures.iter().enumerate() {
            let spread = if number == 0 { " (min–max)" } else { "" };
            let _ = write!(head, " {}{spread} |", measure.title());
            rule += "---|";
        }
        let _ = writeln!(text, "{head} ratio |\n{rule}---|");
        self.cases.iter().for_each(|case| case.write(&self.measures, text));
        let reached = self.reached();
        if !reached.is_empty() {
            *text += "\n| case | figure | wanted | is | reached |\n|---|---|---|---|---|\n";
            reached.iter().for_each(|reached| *text += &format!("{reached}\n"));
        }
        *text += "\n";
    }
}

impl Case {
    fn median(&self, side: Side, measure: Measure) -> Option<f64> {
        let measured = self.sides.iter().find(|measured| measured.side == side)?;
        Spread::of(&measured.rounds, measure).map(|spread| spread.median)
    }

    /// A row for each side, those of Darter first. The ratio is the first side's over this one's, of the first measure.
    fn write(&self, measures: &[Measure], text: &mut String) {
        for (number, Measured { side, rounds }) in self.sides.iter().enumerate() {
            let _ = write!(text, "| {} | {side} |", if number == 0 { &*self.name } else { "" });
            for (column, measure) in measures.iter().enumerate() {
                let _ = match Spread::of(rounds, *measure) {
                    None => write!(text, " |"),
                    Some(Spread { median, .. }) if column > 0 || rounds.len() < 2 => {
                        write!(text, " {} |", measure.shown(median))
                    }
                    Some(Spread { median, min, max }) => {
                        let [median, min, max] = [median, min, max].map(|value| measure.shown(value));
                        write!(text, " {median} ({min}–{max}) |")
                    }
                };
            }
            let first = measures.first().zip(self.sides.first());
            let ratio = first.filter(|_| number > 0).and_then(|(measure, first)| {
                Some(self.median(first.side, *measure)? / self.median(*side, *measure)?)
            });
            let _ = match ratio {
                Some(ratio) => writeln!(text, " **{}** |", digits(ratio)),
                None => writeln!(text, " |"),
            };
        }
    }
}

impl Report {
    /// Of this machine.
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, tables: Vec::new() }
    }

    /// Adds what a suite has measured.
    pub(crate) fn add(&mut self, tables: Vec<Table>) {
        self.tables.extend(tables);
    }

    /// Every round, with medians and goals.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let mut report = serde_json::to_value(self)?;
        for (shown, table) in report["tables"].as_array_mut().into_iter().flatten().zip(&self.tables) {
            shown["goals"] = serde_json::to_value(table.reached())?;
            let cases = shown["cases"].as_array_mut().into_iter().flatten().zip(&table.cases);
            for (shown, case) in cases {
                let sides = shown["sides"].as_array_mut().into_iter().flatten().zip(&case.sides);
                for (shown, measured) in sides {
                    let spreads: serde_json::Map<_, _> = (table.measures.iter())
                        .filter_map(|measure| Some((measure, Spread::of(&measured.rounds, *measure)?)))
                        .map(|(measure, spread)| {
                            let name = serde_json::to_value(measure)?.as_str().unwrap_or_default().to_owned();
                            Ok((name, serde_json::to_value(spread)?))
                        })
                        .collect::<serde_json::Result<_>>()?;
                    shown["spread"] = spreads.into();
                }
            }
        }
        serde_json::to_string_pretty(&report)
    }

    /// Markdown, as it stands in docs/performance.md.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}\n\nMedians. The ratio is the first line's first figure over this line's.\n\n",
            self.machine
        );
        self.tables.iter().for_each(|table| table.write(&mut text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goal::Bound;

    fn table() -> Table {
        let measures = [Measure::AnswersPerS, Measure::CpuSPerGb];
        let mut table = Table::new("Hits", "By hand.".into(), &measures);
        table.add("a", Side::NginxCache, Round::default().with(Measure::AnswersPerS, 1e3));
        for answers_per_s in [3e3, 1e3, 2e3] {
            table.add("a", Side::Darter, Round::default().with(Measure::AnswersPerS, answers_per_s));
        }
        let over = (Side::Darter, &[Side::NginxCache][..]);
        table.want(Goal::ratio("a", over, Measure::AnswersPerS, Bound::AtLeast(1.3)));
        table
    }

    #[test]
    fn a_table_shows_medians_spread_ratio_and_goal() {
        let mut text = String::new();
        table().write(&mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[4], "| | | answers/s (min–max) | CPU s/GB | ratio |");
        assert_eq!(lines[6], "| a | darter | 2000 (1000–3000) | | |");
        assert_eq!(lines[7], "|  | nginx cache | 1000 | | **2.00** |");
        assert_eq!(lines[11], "| a | darter over nginx cache: answers/s | ≥ 1.30× | 2.00× | yes |");
    }

    #[test]
    fn json_has_every_round_and_what_they_come_to() {
        let mut report = Report::new(Machine::here());
        report.add(vec![table()]);
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let side = &json["tables"][0]["cases"][0]["sides"][0];
        assert_eq!(side["rounds"][1]["answers_per_s"], 1e3);
        assert_eq!(side["spread"]["answers_per_s"]["median"], 2e3);
        assert_eq!(json["tables"][0]["goals"][0]["reached"], true);
    }
}
