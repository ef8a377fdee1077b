//! One scrape of the daemon's `/metrics`, as a map.

use std::collections::BTreeMap;

/// Samples by series: `darter_origin_requests_total{registry="a"}` to its value.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads OpenMetrics text: a series, a value and perhaps a time stamp on each line that is not a comment.
    ///
    /// # Panics
    /// When a line is none of that, which a real scraper would refuse too.
    pub fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Metrics { samples: lines.map(sample).collect() }
    }

    /// The sum of all series of that name, whatever their labels; none exists: 0, as a counter never counted.
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// The sum of the series of that name that carry each of `labels`, written `key="value"`.
    pub fn sum_where(&self, name: &str, labels: &[&str]) -> f64 {
        let carries = |series: &str| labels.iter().all(|label| series.contains(label));
        self.of(name).filter(|(series, _)| carries(series)).map(|(_, value)| value).sum()
    }

    /// Every series with its value, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.samples.iter().map(|(series, value)| (series.as_str(), *value))
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.iter().filter(move |(series, _)| {
            series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        })
    }
}

fn sample(line: &str) -> (String, f64) {
    // A label's value may hold blanks and braces, so the name ends at the last brace or else at the first
    // blank.
    let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1));
    let (series, rest) = line.split_at(end.unwrap_or_else(|| panic!("not a sample: {line:?}")));
    let value = rest.split_whitespace().next().and_then(|value| value.parse().ok());
    (series.to_owned(), value.unwrap_or_else(|| panic!("not a sample: {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP reads Reads.
# TYPE reads counter
reads_total{source=\"origin\",path=\"a } b\"} 3
reads_total{source=\"cache\"} 4.5 1700000000
used_bytes 65536
# EOF
";

    #[test]
    fn sums_over_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("reads_total"), 7.5);
        assert_eq!(metrics.sum_where("reads_total", &["source=\"origin\""]), 3.0);
        assert_eq!(metrics.sum("used_bytes"), 65536.0);
        assert_eq!(metrics.sum("used"), 0.0);
    }

    #[test]
    #[should_panic(expected = "not a sample")]
    fn refuses_what_is_not_a_sample() {
        Metrics::parse("reads_total many\n");
    }
}
