//! Why a node refuses, and what who is refused does next.

use super::fields::{Opaque, Text};
use super::message::Refused;

/// What a [`Refused`] says. The number is also the error code that ends a QUIC stream or connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Code {
    /// No version in common.
    Version,
    /// The certificate does not allow this.
    Forbidden,
    /// Bytes that are no message, or a message that has no place here.
    Malformed,
    /// A kind of a later version.
    Unknown,
    /// As much goes on as the limits allow.
    Busy,
    /// Another seed owns this.
    NotOwner,
    /// The blocks are not held, or not under this scope.
    NotHeld,
    /// The content's bytes had another digest than its name.
    WrongContent,
    /// The origin's own verdict, which comes with it.
    Origin,
    /// The origin cannot be reached, or does not make sense.
    OriginTrouble,
    /// The content finds no room, or has no length: it cannot be shared.
    Unkept,
    /// The node goes.
    Leaving,
    /// Trouble of the node's own.
    Internal,
    /// A code of a later version.
    Other(u16),
}

/// What to do about a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reaction {
    /// Leave the node alone for a minute, and say so in the log: people must do something.
    LeaveNode,
    /// Do without what was asked for; the node is otherwise well.
    DoWithout,
    /// Ask again after so many milliseconds, or somebody else at once.
    AskAgain {
        /// Milliseconds.
        after_ms: u32,
    },
    /// Ask the node that the refusal names.
    AskInstead,
    /// Take the blocks off the node's map and ask another one.
    AskOther,
    /// Pass the verdict to those who asked alike.
    PassVerdict,
    /// Answer 502 for a minute and drop what is held.
    GiveUp,
    /// Go to the origin, as if there were no cluster.
    GoToOrigin,
}

/// The code, its number, its reaction.
const TABLE: [(Code, u16, Reaction); 13] = [
    (Code::Version, 1, Reaction::LeaveNode),
    (Code::Forbidden, 2, Reaction::LeaveNode),
    (Code::Malformed, 3, Reaction::LeaveNode),
    (Code::Unknown, 4, Reaction::DoWithout),
    (Code::Busy, 5, Reaction::AskAgain { after_ms: 0 }),
    (Code::NotOwner, 6, Reaction::AskInstead),
    (Code::NotHeld, 7, Reaction::AskOther),
    (Code::WrongContent, 8, Reaction::GiveUp),
    (Code::Origin, 9, Reaction::PassVerdict),
    (Code::OriginTrouble, 10, Reaction::GoToOrigin),
    (Code::Unkept, 11, Reaction::GoToOrigin),
    (Code::Leaving, 12, Reaction::AskOther),
    (Code::Internal, 13, Reaction::AskOther),
];

/// How soon a busy node may be asked again when it does not say.
const RETRY_MS: u32 = 50;
/// The longest that a node may tell another one to wait: what a client has patience for is a few seconds.
const RETRY_MS_MAX: u32 = 10_000;

impl Code {
    /// As a message or QUIC says it.
    pub fn from_number(number: u16) -> Self {
        TABLE
            .iter()
            .find(|(_, of_code, _)| *of_code == number)
            .map_or(Self::Other(number), |(code, ..)| *code)
    }

    /// For a message or QUIC.
    pub fn number(self) -> u16 {
        match self {
            Self::Other(number) => number,
            code => TABLE.iter().find(|(of_table, ..)| *of_table == code).map_or(0, |(_, number, _)| *number),
        }
    }
}

impl Code {
    /// Whether the node that says it, or is told it, is left alone until somebody has acted.
    #[must_use]
    pub fn leaves_node(self) -> bool {
        TABLE.iter().any(|(code, _, reaction)| *code == self && *reaction == Reaction::LeaveNode)
    }
}

impl Refused {
    /// Of a code, without more.
    #[must_use]
    pub fn of(code: Code, detail: &str) -> Self {
        let (detail, verdict) = (Text::cut(detail), Opaque::default());
        Self { code: code.number(), retry_ms: 0, instead: None, detail, verdict }
    }

    /// Why.
    pub fn reason(&self) -> Code {
        Code::from_number(self.code)
    }

    /// What to do now.
    pub fn reaction(&self) -> Reaction {
        let code = self.reason();
        match TABLE.iter().find(|(of_table, ..)| *of_table == code).map(|(.., reaction)| *reaction) {
            Some(Reaction::AskAgain { .. }) => {
                let after_ms = if self.retry_ms == 0 { RETRY_MS } else { self.retry_ms.min(RETRY_MS_MAX) };
                Reaction::AskAgain { after_ms }
            }
            // Nobody is named: then this node does not help.
            Some(Reaction::AskInstead) if self.instead.is_none() => Reaction::AskOther,
            Some(reaction) => reaction,
            None => Reaction::AskOther,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, retry_ms: u32) -> Refused {
        Refused { retry_ms, ..Refused::of(code, "") }
    }

    #[test]
    fn every_code_has_a_number_of_its_own() {
        for number in 0..100 {
            assert_eq!(Code::from_number(number).number(), number);
        }
        let document = include_str!("../../../docs/peer-protocol.md");
        for (code, number, _) in TABLE {
            assert!(document.contains(&format!("| {number} | `{code:?}` |")), "{number} {code:?}");
        }
    }

    #[test]
    fn nobody_is_sent_away_for_long() {
        let after_ms = |ms| Reaction::AskAgain { after_ms: ms };
        assert_eq!(refused(Code::Busy, 0).reaction(), after_ms(RETRY_MS));
        assert_eq!(refused(Code::Busy, 70).reaction(), after_ms(70));
        assert_eq!(refused(Code::Busy, u32::MAX).reaction(), after_ms(RETRY_MS_MAX));
    }

    #[test]
    fn what_is_not_understood_sends_to_another_node() {
        assert_eq!(refused(Code::Other(999), 0).reaction(), Reaction::AskOther);
        assert_eq!(refused(Code::NotOwner, 0).reaction(), Reaction::AskOther);
    }
}
