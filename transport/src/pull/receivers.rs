//! Who wants which blocks of one plot, and is told what of them.
//!
//! A block goes to every receiver that wants it when it comes, once; after that the receiver wants it no longer. Of
//! each block one thing is said to each receiver: here it is, go to the origin, or refused.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;

use super::wanted::Pulled;
use crate::block_set::BlockSet;
use crate::wire::Errand;

/// Receivers of one plot; beyond them nobody is taken.
pub(super) const RECEIVERS_MAX: usize = 1024;

/// One [`Wanted`](super::Wanted), which may have blocks in several plots. Its channel ends with the last receiver.
#[derive(Debug)]
pub(super) struct Client {
    to: mpsc::Sender<Pulled>,
    errand: Errand,
    bulk: bool,
    /// It has been refused.
    over: Cell<bool>,
    /// Waits for the other end of the channel to be dropped.
    watch: OnceCell<AbortHandle>,
}

impl Client {
    pub(super) fn new(to: mpsc::Sender<Pulled>, errand: Errand, bulk: bool) -> Rc<Self> {
        Rc::new(Self { to, errand, bulk, over: Cell::new(false), watch: OnceCell::new() })
    }

    /// What waits for the caller's leaving holds a sender, so it ends with the client.
    pub(super) fn watched_by(&self, watch: AbortHandle) {
        // Once, when the client is made.
        let _ = self.watch.set(watch);
    }

    pub(super) fn to(&self) -> &mpsc::Sender<Pulled> {
        &self.to
    }

    /// Says several things in order, as its channel takes them.
    pub(super) fn say(self: &Rc<Self>, said: Vec<Pulled>) {
        let mut said = said.into_iter();
        while let Some(next) = said.next() {
            if let Err(mpsc::error::TrySendError::Full(next)) = self.to.try_send(next) {
                let client = self.clone();
                tokio::task::spawn_local(async move {
                    for next in std::iter::once(next).chain(said) {
                        if client.to.send(next).await.is_err() {
                            return;
                        }
                    }
                });
                return;
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get() || self.to.is_closed()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }
}

#[derive(Debug)]
struct Receiver {
    client: Rc<Client>,
    left: BlockSet,
    /// Of a client with blocks in many plots, one of the few at a time.
    _turn: OwnedSemaphorePermit,
}

/// The receivers of one plot.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    all: Vec<Receiver>,
    /// Of what is bulk, somebody waits for these now.
    hurried: BlockSet,
}

impl Receivers {
    /// False if there are too many.
    pub(super) fn add(&mut self, client: Rc<Client>, places: BlockSet, turn: OwnedSemaphorePermit) -> bool {
        let fits = self.all.len() < RECEIVERS_MAX;
        if fits && !places.is_empty() {
            self.all.push(Receiver { client, left: places, _turn: turn });
        }
        fits
    }

    /// A bulk is waited for now.
    pub(super) fn hurry(&mut self, places: &BlockSet) {
        self.hurried.add(places);
    }

    /// Nobody has left anything.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Forgets those that have gone.
    pub(super) fn prune(&mut self) {
        self.all.retain(|receiver| !receiver.client.is_over());
        self.hurried = self.hurried.and(&self.wanted(|_| true));
    }

    fn wanted(&self, of: impl Fn(&Client) -> bool) -> BlockSet {
        let mut wanted = BlockSet::EMPTY;
        let these = self.all.iter().filter(|receiver| of(&receiver.client));
        these.for_each(|receiver| wanted.add(&receiver.left));
        wanted
    }

    /// What somebody waits for, and what is wanted besides.
    pub(super) fn urgent_and_bulk(&self) -> (BlockSet, BlockSet) {
        let (waited_for, bulk) = (self.wanted(|client| !client.bulk), self.wanted(|client| client.bulk));
        let urgent = waited_for.or(&self.hurried.and(&bulk));
        (urgent, bulk.minus(&urgent))
    }

    /// Who gets this block: those that wait for it first. They want it no longer.
    pub(super) fn take(&mut self, place: u32) -> Vec<Rc<Client>> {
        let one = BlockSet::one(place);
        let mut takers: Vec<Rc<Client>> =
            self.part_with(&one).into_iter().map(|(client, _)| client).collect();
        takers.sort_by_key(|client| client.bulk);
        takers
    }

    /// Whoever wants any of these wants them no longer, and which those were.
    pub(super) fn part_with(&mut self, places: &BlockSet) -> Vec<(Rc<Client>, BlockSet)> {
        let mut parted = Vec::new();
        for receiver in self.all.iter_mut().filter(|receiver| !receiver.client.is_over()) {
            let parts = receiver.left.and(places);
            if !parts.is_empty() {
                receiver.left = receiver.left.minus(places);
                parted.push((receiver.client.clone(), parts));
            }
        }
        self.all.retain(|receiver| !receiver.left.is_empty());
        self.hurried = self.hurried.minus(places);
        parted
    }

    /// Takes out those who ask with this errand; all, when there is none.
    pub(super) fn refuse(&mut self, errand: Option<&Errand>) -> Vec<Rc<Client>> {
        let alike = |receiver: &mut Receiver| errand.is_none_or(|errand| *errand == receiver.client.errand);
        let refused: Vec<Receiver> = self.all.extract_if(.., alike).collect();
        // A client may have blocks here and elsewhere, or have been refused elsewhere.
        let told = |receiver: Receiver| (!receiver.client.over.replace(true)).then_some(receiver.client);
        refused.into_iter().filter_map(told).collect()
    }

    /// With whose errand these are to be asked for.
    pub(super) fn errand_for(&self, places: &BlockSet) -> Option<Errand> {
        let first = self.all.iter().find(|receiver| !receiver.left.and(places).is_empty());
        first.map(|receiver| receiver.client.errand.clone())
    }

    /// Whether all that want a bulk have room for what is on its way and for more.
    pub(super) fn has_room(&self, on_their_way: u32) -> bool {
        let bulks = self.all.iter().filter(|receiver| receiver.client.bulk);
        bulks.map(|receiver| receiver.client.to.capacity()).all(|room| room > on_their_way as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Opaque;
    use bytes::Bytes;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn client(bulk: bool, errand: &'static str) -> (Rc<Client>, mpsc::Receiver<Pulled>) {
        let (to, from) = mpsc::channel(4);
        (Client::new(to, Opaque::new(Bytes::from_static(errand.as_bytes())).unwrap(), bulk), from)
    }

    fn turn() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    fn set(places: impl IntoIterator<Item = u32>) -> BlockSet {
        places.into_iter().collect()
    }

    #[test]
    fn a_block_goes_once_to_everyone_who_wants_it_and_first_to_who_waits() {
        let mut receivers = Receivers::default();
        let ((bulk, _a), (waits, _b)) = (client(true, ""), client(false, ""));
        assert!(
            receivers.add(bulk.clone(), set(0..9), turn()) && receivers.add(waits.clone(), set([3]), turn())
        );
        assert_eq!(receivers.urgent_and_bulk(), (set([3]), set(0..9).minus(&set([3]))));
        let takers = receivers.take(3);
        assert!(takers.len() == 2 && Rc::ptr_eq(&takers[0], &waits) && Rc::ptr_eq(&takers[1], &bulk));
        assert!(receivers.take(3).is_empty());
        assert_eq!(receivers.take(4).len(), 1);
    }

    #[test]
    fn what_is_hurried_is_urgent_as_long_as_it_is_wanted() {
        let mut receivers = Receivers::default();
        let (bulk, from) = client(true, "");
        receivers.add(bulk, set(0..9), turn());
        receivers.hurry(&set([5, 20]));
        assert_eq!(receivers.urgent_and_bulk().0, set([5]));
        receivers.take(5);
        assert_eq!(receivers.urgent_and_bulk().0, BlockSet::EMPTY);
        drop(from);
        receivers.prune();
        assert!(receivers.is_empty());
    }

    #[test]
    fn a_verdict_is_for_those_who_asked_alike() {
        let mut receivers = Receivers::default();
        let ((a, _a), (b, _b)) = (client(false, "a"), client(false, "b"));
        receivers.add(a.clone(), set([1]), turn());
        receivers.add(b.clone(), set([1, 2]), turn());
        let errand = receivers.errand_for(&set([1])).unwrap();
        let refused = receivers.refuse(Some(&errand));
        assert!(refused.len() == 1 && Rc::ptr_eq(&refused[0], &a) && a.is_over());
        assert_eq!(receivers.errand_for(&set([1])).as_deref(), Some(&b"b"[..]));
        assert!(receivers.refuse(Some(&errand)).is_empty());
    }

    #[test]
    fn a_bulk_that_is_not_taken_has_no_room() {
        let mut receivers = Receivers::default();
        let (bulk, _from) = client(true, "");
        receivers.add(bulk, set(0..9), turn());
        assert!(receivers.has_room(3) && !receivers.has_room(4));
    }
}
