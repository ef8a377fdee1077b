//! How a node finds the others: by the addresses that it was given, again and again.
//!
//! Who resolves names sends addresses whenever they change. A seed goes on looking at those that no member has, so that
//! two clusters that began apart grow together; another node needs one seed, which tells it the rest.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::chance::Chance;
use crate::mesh::{Mesh, Unreachable};
use crate::node::{Node, Role};
use crate::seeds::{Seeds, Standing};
use crate::session::Session;
use crate::wire::SEEDS_MAX;

/// Pauses between rounds in which nobody was reached, the first and the longest.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often a seed that has found others looks at the addresses that none of them has.
const LOOK_AROUND: Duration = Duration::from_secs(30);
/// How long a seed waits for a name to be resolved before it takes itself for the first one.
const NAMES_PATIENCE: Duration = Duration::from_secs(5);
/// Addresses that are tried at a time.
const TRIES_MAX: usize = 8;

/// What came of looking.
#[derive(Debug)]
pub(super) enum Met {
    /// There is a seed.
    Seed(Node),
    /// Each address was tried, and nobody is there.
    Nobody,
}

/// Looks for other seeds until nobody hears of them any more.
pub(super) async fn look_for_seeds(
    mesh: Rc<Mesh>,
    seeds: Arc<Seeds>,
    mut found: watch::Receiver<Vec<SocketAddr>>,
    met: mpsc::Sender<Met>,
) {
    let began_at = Instant::now();
    let mut pause = ROUND_PAUSE.0;
    loop {
        let known: HashSet<SocketAddr> = seeds.live().iter().map(|seed| seed.node.address).collect();
        let mut addresses = found.borrow_and_update().clone();
        let names_may_come = addresses.is_empty() && found.has_changed().is_ok();
        addresses.retain(|address| *address != seeds.own().address && !known.contains(address));
        let mut tries = Tries::new(&mesh, addresses);
        let mut met_one = false;
        while let Some(session) = tries.next().await {
            if session.role() == Role::Seed {
                met_one = true;
                if met.send(Met::Seed(session.node().clone())).await.is_err() {
                    return;
                }
            } else {
                tracing::debug!(node = %session.node().id, "a node to join at is no seed");
            }
        }
        let has_others = seeds.live().iter().any(|seed| seed.node.id != seeds.own().id);
        let patience_over = !names_may_come || began_at.elapsed() >= NAMES_PATIENCE;
        if !met_one && !has_others && patience_over && met.send(Met::Nobody).await.is_err() {
            return;
        }
        let wait = if met_one || has_others { LOOK_AROUND } else { pause };
        pause = if met_one || has_others { ROUND_PAUSE.0 } else { (2 * pause).min(ROUND_PAUSE.1) };
        pause_or_change(&mut found, &seeds, has_others || met_one, wait).await;
    }
}

/// Waits, but not when there are other addresses, or when the last of the others is lost.
async fn pause_or_change(
    found: &mut watch::Receiver<Vec<SocketAddr>>,
    seeds: &Seeds,
    has_others: bool,
    wait: Duration,
) {
    let mut changes = seeds.changes();
    let lost = async {
        // Others that were met are members a moment later.
        let mut had_others = false;
        loop {
            let others = seeds.live().iter().any(|seed| seed.node.id != seeds.own().id);
            if has_others && had_others && !others {
                return;
            }
            had_others |= others;
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = sleep(wait) => {}
        () = lost => {}
        () = changed(found) => {}
    }
}

/// Keeps a session with one seed, until this node leaves.
pub(super) async fn keep_to_a_seed(
    mesh: Rc<Mesh>,
    seeds: Arc<Seeds>,
    mut found: watch::Receiver<Vec<SocketAddr>>,
) {
    let first = seeds.own().id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut chance = Chance::seeded(first);
    let mut pause = ROUND_PAUSE.0;
    let mut changes = seeds.changes();
    let leaving = async { while seeds.standing() != Standing::Leaving && changes.changed().await.is_ok() {} };
    let keeping = async {
        loop {
            found.mark_unchanged();
            match reach_a_seed(&mesh, &seeds, &found, &mut chance).await {
                Some(session) => {
                    pause = ROUND_PAUSE.0;
                    attend(&session, &seeds).await;
                    tracing::debug!(seed = %session.node().id, "the session with the seed has ended");
                }
                None => {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = changed(&mut found) => {}
                    }
                    pause = (2 * pause).min(ROUND_PAUSE.1);
                }
            }
        }
    };
    tokio::select! {
        () = leaving => {}
        () = keeping => {}
    }
}

/// A session with a seed: one that stands, one with a seed that this node was told of, or one where it was told to join.
async fn reach_a_seed(
    mesh: &Rc<Mesh>,
    seeds: &Seeds,
    found: &watch::Receiver<Vec<SocketAddr>>,
    chance: &mut Chance,
) -> Option<Rc<Session>> {
    let of_use = |session: &Rc<Session>| session.role() == Role::Seed && !session.is_leaving();
    if let Some(session) = mesh.sessions().into_iter().find(of_use) {
        return Some(session);
    }
    let mut addresses: Vec<SocketAddr> = seeds.live().iter().map(|seed| seed.node.address).collect();
    // Each node begins at another seed, else one has all of them.
    (1..addresses.len()).rev().for_each(|last| addresses.swap(last, chance.below(last + 1)));
    let known: HashSet<SocketAddr> = addresses.iter().copied().collect();
    addresses.extend(found.borrow().iter().filter(|address| !known.contains(address)));
    let mut tries = Tries::new(mesh, addresses);
    while let Some(session) = tries.next().await {
        if of_use(&session) {
            return Some(session);
        }
    }
    None
}

/// Until the session is over or of no use; what time brings meanwhile is taken up.
async fn attend(session: &Session, seeds: &Seeds) {
    let mut changes = seeds.changes();
    while !session.is_over() && !session.is_leaving() {
        let later = Instant::now() + LOOK_AROUND;
        let next = seeds.moves_at().map_or(later, |at| at.min(later));
        tokio::select! {
            () = session.over() => {}
            _ = changes.changed() => {}
            () = sleep_until(next.into()) => seeds.settle(),
        }
    }
}

/// Waits for other addresses: for ever when nobody is left who could send some.
async fn changed(found: &mut watch::Receiver<Vec<SocketAddr>>) {
    if found.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Addresses that are tried, some at a time.
struct Tries {
    mesh: Rc<Mesh>,
    left: std::vec::IntoIter<SocketAddr>,
    trying: JoinSet<Result<Rc<Session>, Unreachable>>,
}

impl Tries {
    fn new(mesh: &Rc<Mesh>, mut addresses: Vec<SocketAddr>) -> Self {
        addresses.truncate(2 * SEEDS_MAX);
        Self { mesh: Rc::clone(mesh), left: addresses.into_iter(), trying: JoinSet::new() }
    }

    /// The next that answered.
    async fn next(&mut self) -> Option<Rc<Session>> {
        loop {
            while self.trying.len() < TRIES_MAX
                && let Some(address) = self.left.next()
            {
                let mesh = Rc::clone(&self.mesh);
                self.trying.spawn_local(async move { mesh.greet(address).await });
            }
            match self.trying.join_next().await? {
                Ok(Ok(session)) => return Some(session),
                Ok(Err(Unreachable::Oneself(_))) => {}
                Ok(Err(error)) => tracing::debug!(%error, "nobody to join at"),
                Err(error) => tracing::error!(%error, "an attempt to join broke off"),
            }
        }
    }
}
