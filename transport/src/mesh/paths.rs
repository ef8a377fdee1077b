//! What this shard remembers of the ways to other nodes: whom to leave alone, and where only TCP gets through.
//!
//! Pure: the clock is handed in. Both memories have a limit; what would be forgotten anyway first goes first.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::node::NodeId;

/// Nodes and addresses that are remembered, each.
pub(super) const REMEMBERED_MAX: usize = 4096;
/// After the first attempt that fails; twice as long after each further one.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// The longest: a seed that has come back is found again within it.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// For a node that somebody has to mend first.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(60);
/// How long a way is taken for one that has no UDP.
const TCP_ONLY: Duration = Duration::from_secs(600);

/// Whom an attempt is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    /// A node that is known by its name.
    Node(NodeId),
    /// Whoever is there.
    Address(SocketAddr),
}

#[derive(Debug)]
pub(super) struct Paths {
    failures: HashMap<Target, Failure>,
    tcp_only: HashMap<SocketAddr, Instant>,
    chance: Chance,
}

#[derive(Debug)]
struct Failure {
    times: u32,
    until: Instant,
    /// After this nobody remembers it.
    forgotten_at: Instant,
    reason: String,
}

impl Paths {
    pub(super) fn new(chance: Chance) -> Self {
        Self { failures: HashMap::new(), tcp_only: HashMap::new(), chance }
    }

    /// How long still the target is left alone, and why.
    pub(super) fn left_alone(&self, target: Target, now: Instant) -> Option<(Duration, &str)> {
        let failure = self.failures.get(&target)?;
        let after = failure.until.checked_duration_since(now).filter(|after| !after.is_zero())?;
        Some((after, &failure.reason))
    }

    /// An attempt has failed. Nodes that have lost the same one do not all come back at the same moment.
    pub(super) fn failed(&mut self, target: Target, reason: String, now: Instant) {
        let remembered = self.failures.get(&target).filter(|failure| now < failure.forgotten_at);
        let times = remembered.map_or(0, |failure| failure.times) + 1;
        let pause = PAUSE.saturating_mul(1 << (times - 1).min(16)).min(PAUSE_MAX);
        // A quarter more or less.
        let share = 75 + self.chance.below(51) as u32;
        let until = now + pause * share / 100;
        self.remember(target, Failure { times, until, forgotten_at: until + PAUSE_MAX, reason }, now);
    }

    /// The node may not be spoken to before somebody has acted. Whether this is news.
    pub(super) fn leave_alone(&mut self, target: Target, reason: String, now: Instant) -> bool {
        let news = self.left_alone(target, now).is_none();
        let until = now + LEFT_ALONE;
        self.remember(target, Failure { times: 1, until, forgotten_at: until, reason }, now);
        news
    }

    /// The target has been reached, or has come by itself.
    pub(super) fn stands(&mut self, target: Target) {
        self.failures.remove(&target);
    }

    /// Whether only TCP got through the last time.
    pub(super) fn is_tcp_only(&self, address: SocketAddr, now: Instant) -> bool {
        self.tcp_only.get(&address).is_some_and(|until| now < *until)
    }

    /// By what an address was reached just now.
    pub(super) fn reached(&mut self, address: SocketAddr, tcp_only: bool, now: Instant) {
        if tcp_only {
            make_room(&mut self.tcp_only, &address, |until| *until, now);
            self.tcp_only.insert(address, now + TCP_ONLY);
        } else {
            self.tcp_only.remove(&address);
        }
    }

    fn remember(&mut self, target: Target, failure: Failure, now: Instant) {
        make_room(&mut self.failures, &target, |failure| failure.forgotten_at, now);
        self.failures.insert(target, failure);
    }
}

/// Forgets what is past when there is no room, and the next to be past if that is not enough.
fn make_room<K: Copy + Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    key: &K,
    until: impl Fn(&V) -> Instant,
    now: Instant,
) {
    if map.len() < REMEMBERED_MAX || map.contains_key(key) {
        return;
    }
    map.retain(|_, value| now < until(value));
    if map.len() >= REMEMBERED_MAX {
        let first = map.iter().min_by_key(|(_, value)| until(value)).map(|(key, _)| *key);
        first.map(|first| map.remove(&first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        Paths::new(Chance::seeded(1))
    }

    fn node(number: u32) -> Target {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        Target::Node(NodeId::from_bytes(id))
    }

    fn address(number: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(number).into(), 1)
    }

    #[test]
    fn a_node_that_fails_is_tried_ever_later_until_it_stands() {
        let (mut paths, start) = (paths(), Instant::now());
        let mut now = start;
        for expected_ms in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(paths.left_alone(node(1), now), None);
            paths.failed(node(1), "no".into(), now);
            let (after, reason) = paths.left_alone(node(1), now).expect("left alone");
            let after_ms = after.as_millis();
            assert!((expected_ms * 3 / 4..=expected_ms * 5 / 4).contains(&after_ms), "{after_ms}");
            assert_eq!(reason, "no");
            assert!(paths.left_alone(node(2), now).is_none());
            now += after;
        }
        paths.stands(node(1));
        paths.failed(node(1), "no".into(), now);
        assert!(paths.left_alone(node(1), now).expect("left alone").0 < 2 * PAUSE);
        // What is long ago counts no more.
        paths.failed(node(1), "no".into(), now + 4 * PAUSE_MAX);
        assert!(paths.left_alone(node(1), now + 4 * PAUSE_MAX).expect("left alone").0 < 2 * PAUSE);
    }

    #[test]
    fn a_node_that_somebody_has_to_mend_has_a_minute() {
        let (mut paths, now) = (paths(), Instant::now());
        assert!(paths.leave_alone(node(1), "version".into(), now));
        assert!(!paths.leave_alone(node(1), "version".into(), now + LEFT_ALONE / 2), "said already");
        assert!(paths.left_alone(node(1), now + LEFT_ALONE).is_some());
        assert!(paths.left_alone(node(1), now + LEFT_ALONE * 3 / 2).is_none());
    }

    #[test]
    fn a_way_without_udp_is_remembered_for_a_while() {
        let (mut paths, now) = (paths(), Instant::now());
        paths.reached(address(1), true, now);
        assert!(paths.is_tcp_only(address(1), now) && !paths.is_tcp_only(address(2), now));
        assert!(!paths.is_tcp_only(address(1), now + TCP_ONLY));
        paths.reached(address(1), false, now);
        assert!(!paths.is_tcp_only(address(1), now));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut paths, now) = (paths(), Instant::now());
        paths.leave_alone(node(0), "version".into(), now);
        for number in 1..3 * REMEMBERED_MAX as u32 {
            paths.failed(node(number), "no".into(), now);
            paths.reached(address(number), true, now);
        }
        assert_eq!((paths.failures.len(), paths.tcp_only.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(paths.left_alone(node(0), now).is_some(), "what lasts longest stays");
    }
}
