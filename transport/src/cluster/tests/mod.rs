//! Clusters in one process: what is pulled comes once from the origin, whatever goes wrong among the nodes.

mod nodes;

use self::nodes::*;
use super::*;

const MIB: usize = 1 << 20;

/// All of these pull the blob at once.
async fn all_pull(nodes: &[TestNode]) {
    let mut pulls = Vec::new();
    for node in nodes {
        pulls.push(node.run(|daemon| async move { daemon.pull_whole().await }));
    }
    join_all(pulls).await;
}

async fn join_all<F: Future>(futures: Vec<F>) {
    let mut pinned: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pinned.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pinned.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn a_cold_pull_by_one_node_costs_the_origin_the_blob_once() {
    let registry = Registry::new(20 * MIB + 5);
    let nodes = nodes(1, 1, &registry);
    block_on(nodes[1].run(|daemon| async move { daemon.pull_whole().await }));
    assert_eq!(registry.given(), registry.bytes.len() as u64);
    let counted = nodes[1].shared.counters().now();
    assert_eq!((counted.from_owner_bytes, counted.wrong_blocks), (registry.bytes.len() as u64, 0));
}

#[test]
fn eight_nodes_at_once_cost_the_origin_the_blob_once() {
    let registry = Registry::new(24 * MIB);
    let nodes = nodes(3, 5, &registry);
    block_on(all_pull(&nodes));
    assert_eq!(registry.given_percent(), 100);
    let from_parents: u64 = nodes.iter().map(|node| node.shared.counters().now().from_parents_bytes).sum();
    assert!(from_parents > registry.bytes.len() as u64, "{from_parents}: they give it to each other");
}

#[test]
fn readers_that_wait_cost_the_origin_the_blob_once() {
    let registry = Registry::new(6 * MIB + 1);
    let nodes = nodes(2, 4, &registry);
    let reads =
        nodes.iter().map(|node| node.run(|daemon| async move { daemon.read_whole(5).await })).collect();
    block_on(join_all(reads));
    assert_eq!(registry.given(), registry.bytes.len() as u64);
}
