//! How a request ends that is not answered.

use std::time::Duration;

use crate::exchange::ExchangeError;
use crate::node::Node;
use crate::wire::{Code, Opaque, Refused, Text};

/// A refusal for a reason.
pub(super) fn because(code: Code, detail: &str) -> Refused {
    let (detail, verdict) = (Text::cut(detail), Opaque::default());
    Refused { code: code.number(), retry_ms: 0, instead: None, detail, verdict }
}

/// Another seed is to be asked.
pub(super) fn not_owner(instead: Option<Node>) -> Refused {
    Refused { instead, ..because(Code::NotOwner, "another seed owns this") }
}

/// Too much goes on; to be asked again after so long.
pub(super) fn busy(after: Duration) -> Refused {
    let retry_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(1);
    Refused { retry_ms, ..because(Code::Busy, "as much goes on as may") }
}

/// Why an answer ends before its time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Stop {
    /// The other side is told why.
    #[error("refused: {}", &*.0.detail)]
    Refuse(Refused),
    /// The other side hears nothing more.
    #[error(transparent)]
    Over(#[from] ExchangeError),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refuse(refused)
    }
}
