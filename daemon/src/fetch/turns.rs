//! How many bodies of origins are read at a time in the whole node, and who is next.
//!
//! Each has memory that no pool knows of: the HTTP client reads up to [`BODY_BYTES`] ahead of what is taken from it, and
//! takes what it gets from a socket that has much, as one that waited for a buffer has. So a body is begun only in
//! turn. A registry that does not answer holds up nobody: a request without an answer gives its turn back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::demand::FetchError;
use crate::origin::{BlobAnswer, OriginError, Place};

/// What the HTTP client holds of one body at most: a chunk that is handed over and the next one, each as large as its
/// longest read (hyper's limit, which reqwest does not let anyone change).
const BODY_BYTES: u64 = 2 * (8192 + 4096 * 100);
/// Of all bodies: 32 MiB. The heap comes to twice as much: buffers of all sizes leave holes in it that nothing fits into
/// (measured: 40 to 70 MiB beside 64 that were in use).
const BODIES_BYTES_MAX: u64 = 32 << 20;
/// The least that a node can work with, in whatever memory: one content's requests.
const TURNS_MIN: u64 = 4;
/// How long a request without an answer keeps its turn.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often one that waits for its turn looks whether anyone still waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The turns of one node; for all shards.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

/// An answer, and where it came from if not from where it was asked for.
pub(super) type Answer = Result<(BlobAnswer, Option<Place>), OriginError>;

impl Turns {
    /// As many as fit, with what the heap makes of them, into an eighth of the memory that the node may take.
    pub(crate) fn within(memory_max: Option<u64>) -> Self {
        Self(Arc::new(Semaphore::new(turns_max(memory_max))))
    }

    /// Whether who asks now has to wait.
    pub(super) fn are_taken(&self) -> bool {
        self.0.available_permits() == 0
    }

    /// Asks when it is its turn. A body keeps the turn until it is dropped.
    ///
    /// # Errors
    /// Nobody waits for it any more, and it is not its turn yet.
    pub(super) async fn ask(
        &self,
        asking: impl Future<Output = Answer>,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Answer, FetchError> {
        let turn = self.next(&is_wanted).await?;
        let mut asking = pin!(asking);
        let (mut answer, turn) = match tokio::time::timeout(ANSWER_WITHIN, asking.as_mut()).await {
            Ok(answer) => (answer, Some(turn)),
            Err(_) => {
                drop(turn);
                (asking.await, None)
            }
        };
        if let Ok((BlobAnswer::Bytes(stream), _)) = &mut answer {
            let turn = match turn {
                Some(turn) => turn,
                None => self.next(&is_wanted).await?,
            };
            stream.hold(turn);
        }
        Ok(answer)
    }

    async fn next(&self, is_wanted: &impl Fn() -> bool) -> Result<OwnedSemaphorePermit, FetchError> {
        let mut turn = pin!(self.0.clone().acquire_owned());
        loop {
            match tokio::time::timeout(LOOK_EVERY, turn.as_mut()).await {
                Ok(turn) => return turn.map_err(|_| FetchError::Busy),
                Err(_) if !is_wanted() => return Err(FetchError::Busy),
                Err(_) => {}
            }
        }
    }
}

fn turns_max(memory_max: Option<u64>) -> usize {
    let bytes = memory_max.map_or(BODIES_BYTES_MAX, |memory| BODIES_BYTES_MAX.min(memory / 16));
    (bytes / BODY_BYTES).max(TURNS_MIN) as usize
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use http::{HeaderMap, StatusCode};
    use tokio::sync::Notify;

    use super::*;
    use crate::origin::{BlobStream, Verdict};

    /// With one turn.
    fn check<F: Future<Output = ()>>(test: impl FnOnce(Turns) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let test = test(Turns(Arc::new(Semaphore::new(1))));
        let in_time = async { tokio::time::timeout(Duration::from_secs(60), test).await };
        runtime.block_on(in_time).expect("nobody waits for ever");
    }

    fn body() -> Answer {
        Ok((BlobAnswer::Bytes(BlobStream::empty()), None))
    }

    #[test]
    fn turns_follow_memory() {
        assert_eq!(turns_max(None), 40);
        assert_eq!(turns_max(Some(1 << 40)), 40);
        assert_eq!(turns_max(Some(256 << 20)), 20);
        assert_eq!(turns_max(Some(1 << 20)), 4);
    }

    #[test]
    fn a_body_keeps_its_turn_and_a_refusal_does_not() {
        check(async |turns| {
            let first = turns.ask(async { body() }, || true).await.unwrap();
            let is_over = Cell::new(false);
            let second = turns.ask(
                async {
                    assert!(is_over.get(), "two bodies in one turn");
                    body()
                },
                || true,
            );
            let over = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                is_over.set(true);
                drop(first);
            };
            let (second, ()) = tokio::join!(second, over);
            drop(second);
            let verdict = Verdict::without_body(StatusCode::FORBIDDEN, &HeaderMap::new());
            let _refused = turns.ask(async { Ok((BlobAnswer::Verdict(verdict), None)) }, || true).await;
            assert_eq!(turns.0.available_permits(), 1);
        });
    }

    #[test]
    fn what_nobody_waits_for_does_not_wait_for_its_turn() {
        check(async |turns| {
            let _first = turns.ask(async { body() }, || true).await.unwrap();
            let unwanted = turns.ask(async { panic!("it is asked") }, || false).await;
            assert!(matches!(unwanted, Err(FetchError::Busy)), "{unwanted:?}");
        });
    }

    #[test]
    fn an_origin_that_does_not_answer_holds_up_nobody() {
        check(async |turns| {
            let answers = Notify::new();
            let silent = turns.ask(
                async {
                    answers.notified().await;
                    body()
                },
                || true,
            );
            let other = async {
                drop(turns.ask(async { body() }, || true).await.unwrap());
                answers.notify_one();
            };
            let (late, ()) = tokio::join!(silent, other);
            assert!(late.is_ok());
            assert_eq!(turns.0.available_permits(), 0, "a body that comes late has a turn too");
        });
    }
}
