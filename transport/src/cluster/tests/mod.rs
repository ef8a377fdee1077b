//! Clusters in one process: what is pulled comes once from the origin, whatever goes wrong among the nodes.

mod daemon;
mod nodes;
mod registry;
mod rogue;

use std::time::{Duration, Instant};

use self::nodes::*;
use self::registry::Registry;
use self::rogue::Rogue;
use crate::limits::Allowed;
use crate::tracker::Tracker;

const MIB: usize = 1 << 20;

/// All of these pull the blob at once.
async fn all_pull(nodes: &[&TestNode]) {
    let pulls = nodes.iter().map(|node| node.run(|daemon| async move { daemon.pull_whole().await }));
    join_all(pulls).await;
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) {
    let mut pinned: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pinned.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pinned.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE / 4;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn wrong_blocks(node: &TestNode) -> u64 {
    node.shared.counters().now().wrong_blocks
}

#[test]
fn a_cold_pull_by_one_node_costs_the_origin_the_blob_once() {
    let registry = Registry::new(20 * MIB + 5);
    let nodes = nodes(&secrets(), 1, 1, &registry);
    block_on(nodes[1].run(|daemon| async move { daemon.pull_whole().await }));
    assert_eq!(registry.given(), registry.bytes.len() as u64);
    let counted = nodes[1].shared.counters().now();
    assert_eq!((counted.from_owner_bytes, counted.wrong_blocks), (registry.bytes.len() as u64, 0));
}

/// Nobody has asked for them: it has not read its store for them.
#[test]
fn an_owner_knows_the_digests_of_what_it_has_brought_for_itself() {
    let registry = Registry::new(3 * MIB + 5);
    let nodes = nodes(&secrets(), 1, 1, &registry);
    let known = |node: &TestNode| node.shared.books().attestations().known(&registry.plot()).len();
    let owner = nodes[0].node.clone();
    block_on(async {
        nodes[1].run(|daemon| async move { daemon.meet(&owner).await }).await;
        until("the connection", || nodes[0].shared.peers().totals().nodes == 1).await;
        nodes[0].run(|daemon| async move { daemon.pull_whole().await }).await;
    });
    assert_eq!([known(&nodes[0]), known(&nodes[1])], [registry.layout().block_count(), 0]);
    block_on(nodes[1].run(|daemon| async move { daemon.pull_whole().await }));
    assert_eq!((wrong_blocks(&nodes[1]), registry.given()), (0, registry.bytes.len() as u64));
}

/// It may be the only node for long, and hashes what others ask for when they do.
#[test]
fn an_owner_without_company_hashes_nothing_for_others() {
    let registry = Registry::new(3 * MIB + 5);
    let nodes = nodes(&secrets(), 1, 0, &registry);
    block_on(nodes[0].run(|daemon| async move { daemon.pull_whole().await }));
    assert_eq!(nodes[0].shared.books().attestations().known(&registry.plot()).len(), 0);
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}

#[test]
fn eight_nodes_at_once_cost_the_origin_the_blob_once() {
    let registry = Registry::new(12 * MIB);
    let nodes = nodes(&secrets(), 3, 5, &registry);
    block_on(all_pull(&nodes.iter().collect::<Vec<_>>()));
    assert_eq!(registry.given(), registry.bytes.len() as u64);
    let from_parents: u64 = nodes.iter().map(|node| node.shared.counters().now().from_parents_bytes).sum();
    assert!(from_parents > registry.bytes.len() as u64, "{from_parents}: they give it to each other");
}

#[test]
fn readers_that_wait_cost_the_origin_the_blob_once() {
    let registry = Registry::new(6 * MIB + 1);
    let nodes = nodes(&secrets(), 2, 4, &registry);
    let reads = nodes.iter().map(|node| node.run(|daemon| async move { daemon.read_whole(5).await }));
    block_on(join_all(reads));
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}

/// A seed that has just become an owner knows nobody who holds what it owns; its deputy does.
#[test]
fn an_owner_that_has_no_map_yet_takes_it_before_it_goes_to_the_origin_for_itself() {
    let registry = Registry::new(4 * MIB + 77);
    let nodes = nodes(&secrets(), 3, 1, &registry);
    let [owner, deputy, third, peer] = &nodes[..] else { panic!("four") };
    block_on(async {
        all_pull(&[peer]).await;
        let blocks = registry.layout().block_count();
        let copies = |place| deputy.shared.books().map().tracker.copies(&registry.plot(), place);
        until("the deputy's map", || (0..blocks).all(|place| copies(place) > 0)).await;
        owner.run(|daemon| async move { daemon.forget().await }).await;
        owner.shared.books().map().tracker = Tracker::new();
        // The seeds change, and with them who has taken what over. Both of these stay what they were.
        third.run(|daemon| async move { daemon.cluster().leave().await }).await;
        until("the news", || owner.shared.seeds().live().len() == 2).await;
        all_pull(&[owner]).await;
    });
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}

#[test]
fn a_node_takes_no_more_of_others_than_its_limit_allows() {
    let registry = Registry::new(3 * MIB);
    let nodes = nodes(&secrets(), 1, 1, &registry);
    let limits = nodes[1].shared.books().limits();
    limits.set(Allowed { download_bytes_per_s: 6 << 20, ..Allowed::default() });
    let start = Instant::now();
    block_on(nodes[1].run(|daemon| async move { daemon.pull_whole().await }));
    // Half a second's worth; what may come at once after a rest is a twentieth of a second's.
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    assert!(limits.hits().download_bandwidth > 0);
}

/// Nobody is left who would bring it blocks, and one node still has them all.
#[test]
fn when_the_last_seed_dies_half_way_the_rest_of_a_bulk_comes_from_parents() {
    let registry = Registry::new(12 * MIB + 1);
    let mut nodes = nodes(&secrets(), 1, 2, &registry);
    let length = registry.bytes.len() as u64;
    block_on(async {
        nodes[1].run(|daemon| async move { daemon.pull_whole().await }).await;
        let child = nodes.pop().expect("three");
        // So slow that much is still to come when it is clear that no seed answers.
        let slow = Allowed { download_bytes_per_s: 3 << 20, ..Allowed::default() };
        child.shared.books().limits().set(slow);
        let pull = child.run(|daemon| async move { daemon.pull_whole().await });
        let dies = async {
            let counted = || child.shared.counters().now();
            until("a part", || counted().from_owner_bytes + counted().from_parents_bytes > 0).await;
            drop(nodes.remove(0));
        };
        tokio::join!(pull, dies);
        assert_eq!(wrong_blocks(&child), 0);
    });
    assert!(registry.given() < length * 3 / 2, "{} of {length}", registry.given());
}

/// Two parents flip one bit of each block that they send. Whoever reads is sent to them, since the owner has its two copies
/// elsewhere.
#[test]
fn of_parents_that_lie_nothing_is_kept_served_or_passed_on_and_they_are_expelled() {
    let registry = Registry::new(4 * MIB + 77);
    let secrets = secrets();
    let nodes = nodes(&secrets, 1, 3, &registry);
    let [owner, reader, puller, late] = &nodes[..] else { panic!("four") };
    block_on(async {
        owner.run(|daemon| async move { daemon.pull_whole().await }).await;
        let rogues = [(); 2].map(|()| Rogue::start(&secrets, owner, &registry));
        let is_expelled =
            |rogue: &Rogue| owner.shared.books().map().tracker.is_expelled(&rogue.id, Instant::now());
        // Each block that a node is given, and each that its store has, is compared with the registry's.
        reader.run(|daemon| async move { daemon.read_whole(5).await }).await;
        assert!(wrong_blocks(reader) > 0, "the owner names who says that it has everything");
        until("the expulsion of both", || rogues.iter().all(is_expelled)).await;
        let blocks = registry.layout().block_count() as usize;
        let at_reader = reader.node.clone();
        assert_eq!(late.run(|daemon| async move { daemon.take_all_of(&at_reader).await }).await, blocks);
        // Nobody is sent to them any more.
        let asked: Vec<u64> = rogues.iter().map(Rogue::asked).collect();
        all_pull(&[puller]).await;
        late.run(|daemon| async move { daemon.read_whole(5).await }).await;
        assert_eq!((wrong_blocks(puller), wrong_blocks(late)), (0, 0));
        assert_eq!(rogues.iter().map(Rogue::asked).collect::<Vec<_>>(), asked);
    });
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}

/// All that two parents have of a blob rots on their disks. Their checksums catch it; the owner has it still.
#[test]
fn what_rots_in_the_slabs_of_parents_is_healed_from_another_node() {
    let registry = Registry::new(4 * MIB + 77);
    let nodes = nodes(&secrets(), 1, 3, &registry);
    let [owner, first, second, child] = &nodes[..] else { panic!("four") };
    block_on(async {
        all_pull(&[owner, first, second]).await;
        let blocks = registry.layout().block_count();
        let copies = |place| owner.shared.books().map().tracker.copies(&registry.plot(), place);
        let two_copies = || (0..blocks).all(|place| copies(place) == 2);
        until("two copies of all", two_copies).await;
        assert_eq!([first, second].map(|node| node.rot(&registry)), [blocks as usize; 2]);
        // What was found right within this second is not looked at again.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        child.run(|daemon| async move { daemon.read_whole(5).await }).await;
        let counted = child.shared.counters().now();
        assert_eq!((counted.wrong_blocks, counted.left_to_origin_blocks), (0, 0));
        // The parents have said themselves what is gone.
        let lacks_something = |node: &TestNode| {
            let map = owner.shared.books().map();
            let plot = registry.plot();
            let of_node = map.tracker.holders(&plot).find(|holder| holder.node.id == node.node.id);
            of_node.is_none_or(|holder| holder.held.len() < blocks)
        };
        until("the map's correction", || lacks_something(first) || lacks_something(second)).await;
    });
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}
