//! Statuses of HTTP as label values, of which there are few whatever a registry answers.

/// Told by themselves, in their order.
const CODES: [u16; 26] = [
    200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 412, 416, 429, 431,
    500, 501, 502, 503, 504,
];
/// All others, by their first digit.
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// A status, or the class of one that is seldom seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Status(usize);

impl Status {
    /// How many there are.
    pub(super) const COUNT: usize = CODES.len() + CLASSES.len();

    pub(super) fn of(code: u16) -> Self {
        let class = usize::from(code / 100);
        let class = if class < CLASSES.len() { class } else { 0 };
        Self(CODES.binary_search(&code).unwrap_or(CODES.len() + class))
    }

    /// Each of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Below [`Self::COUNT`].
    pub(super) fn index(self) -> usize {
        self.0
    }

    /// The first digit of the code; 0 for what is none of HTTP.
    pub(super) fn class(self) -> u16 {
        match self.0.checked_sub(CODES.len()) {
            None => CODES[self.0] / 100,
            Some(class) => class as u16,
        }
    }

    /// `206`, `4xx`.
    pub(super) fn label(self) -> String {
        match self.0.checked_sub(CODES.len()) {
            None => CODES[self.0].to_string(),
            Some(class) => CLASSES[class].to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_of_few_labels() {
        let check = |code, label| assert_eq!(Status::of(code).label(), label, "{code}");
        check(200, "200");
        check(206, "206");
        check(504, "504");
        check(299, "2xx");
        check(418, "4xx");
        check(599, "5xx");
        check(999, "other");
        check(0, "other");
        check(u16::MAX, "other");
        assert!(CODES.is_sorted());
        assert!((0..=u16::MAX).all(|code| Status::of(code).index() < Status::COUNT));
        assert!(Status::all().all(|status| !status.label().is_empty()));
        assert_eq!([206, 418, 503, 599, 999, 0].map(|code| Status::of(code).class()), [2, 4, 5, 5, 0, 0]);
    }
}
