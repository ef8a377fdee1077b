//! A seed brings a content to all nodes.

use super::*;
use crate::span::SpanIndex;
use crate::wire::{ORIGIN_BYTES_MAX, Preheat, Reach, ReachState, Refused, Spread, Text};

fn origin() -> Text<ORIGIN_BYTES_MAX> {
    Text::cut(cluster::REGISTRY)
}

fn spread(blob: &Blob) -> Spread {
    Spread {
        content: blob.id,
        by_digest: true,
        registry: registry(),
        origin: origin(),
        errand: errand("good"),
    }
}

fn preheat(blob: &Blob) -> Preheat {
    Preheat {
        content: blob.id,
        by_digest: true,
        registry: registry(),
        origin: origin(),
        length: blob.layout().length_bytes(),
        by_span: false,
        media_type: Text::default(),
        validator: Text::default(),
    }
}

/// What a seed says last of each node, and how it ended.
async fn heard(asker: &TestNode, seed: &TestNode, ask: Spread) -> (BTreeMap<NodeId, Reach>, Option<Refused>) {
    let mut exchange = asker.session(seed).await.ask(ask).await.expect("asked");
    let mut nodes = BTreeMap::new();
    loop {
        match exchange.next().await.expect("an answer") {
            Some(Message::Reached(reached)) => {
                nodes.extend(reached.nodes.iter().map(|reach| (reach.node.id, reach.clone())));
            }
            Some(Message::End(_)) => return (nodes, None),
            Some(Message::Refused(refused)) => return (nodes, Some(refused)),
            other => panic!("{other:?}"),
        }
    }
}

fn holds_all(node: &TestNode, blob: &Blob) -> bool {
    let Some(content) = node.store.find(&blob.id, registry()) else { return false };
    node.store.stat(&content).held_bytes == blob.layout().length_bytes()
}

#[test]
fn every_node_that_is_connected_has_it_and_who_cannot_says_so() {
    run(async {
        let blob = Blob::new("to all", 5);
        let cluster = TestCluster::new(1, 4, std::slice::from_ref(&blob)).await;
        let seed = &cluster.seeds[0];
        let [asker, slow, full, short] = &cluster.peers[..] else { panic!("four") };
        for peer in &cluster.peers {
            peer.session(seed).await;
        }
        until("all sessions", || seed.books.nodes().len() == 4).await;
        slow.origin.delay.set(Duration::from_millis(100));
        full.origin.keeps_nothing.set(true);
        short.origin.gathers.set(3);
        let (nodes, refused) = heard(asker, seed, spread(&blob)).await;
        assert_eq!((nodes.len(), refused), (5, None), "{nodes:?}");
        let length = blob.layout().length_bytes();
        for node in [seed, asker, slow] {
            let reach = &nodes[&node.node.id];
            assert_eq!((reach.state, reach.code), (ReachState::Whole, 0), "{reach:?}");
            assert!(holds_all(node, &blob));
        }
        assert_eq!(nodes[&slow.node.id].held_bytes, length);
        let failed =
            |node: &TestNode| (nodes[&node.node.id].state, Code::from_number(nodes[&node.node.id].code));
        assert_eq!(failed(full), (ReachState::Failed, Code::Unkept));
        assert_eq!(failed(short), (ReachState::Failed, Code::NotHeld));
        assert_eq!(seed.origin.total(), 0, "no origin is asked");
    });
}

/// A peer's certificate does not let a node fill others' stores.
#[test]
fn a_peer_tells_nobody_to_take_anything() {
    run(async {
        let blob = Blob::new("forbidden", 2);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let [asker, other] = &cluster.peers[..] else { panic!("two") };
        let session = asker.session(other).await;
        let mut exchange = session.ask(preheat(&blob)).await.expect("asked");
        let error = exchange.next().await.expect_err("it is no request of a peer");
        assert_eq!(error.code(), Code::Forbidden);
        assert!(other.store.find(&blob.id, registry()).is_none());
        // And a peer, asked in a seed's place, tells nobody either.
        let (nodes, refused) = heard(&cluster.seeds[0], asker, spread(&blob)).await;
        assert_eq!((nodes.len(), refused.map(|refused| refused.reason())), (0, Some(Code::NotOwner)));
    });
}

#[test]
fn who_takes_enough_already_is_busy_and_gets_it_later() {
    run(async {
        let blob = Blob::new("busy", 2);
        let cluster = TestCluster::new(1, 1, std::slice::from_ref(&blob)).await;
        let (seed, peer) = (&cluster.seeds[0], &cluster.peers[0]);
        let places =
            peer.books.preheats.acquire_many(crate::service::spread::PREHEATS_MAX as u32).await.unwrap();
        let mut exchange = seed.session(peer).await.ask(preheat(&blob)).await.expect("asked");
        let Ok(Some(Message::Refused(refused))) = exchange.next().await else { panic!("it is taken") };
        assert_eq!(refused.reason(), Code::Busy);
        let freed = async {
            sleep(Duration::from_millis(300)).await;
            drop(places);
        };
        let ((nodes, refused), ()) = tokio::join!(heard(peer, seed, spread(&blob)), freed);
        assert_eq!((nodes.len(), refused), (2, None));
        assert!(nodes.values().all(|reach| reach.state == ReachState::Whole), "{nodes:?}");

        let _places =
            seed.books.spreads.acquire_many(crate::service::spread::SPREADS_MAX as u32).await.unwrap();
        let (_, refused) = heard(peer, seed, spread(&blob)).await;
        assert_eq!(refused.map(|refused| refused.reason()), Some(Code::Busy));
    });
}

#[test]
fn what_is_wrong_or_leaves_is_not_spread() {
    run(async {
        let blob = Blob::new("wrong", 2);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let (seed, [asker, leaver]) = (&cluster.seeds[0], &cluster.peers[..]) else { panic!("two") };
        leaver.session(seed).await;
        until("its session", || !seed.books.nodes().is_empty()).await;
        leaver.books.leave();
        let (nodes, _) = heard(asker, seed, spread(&blob)).await;
        assert_eq!(Code::from_number(nodes[&leaver.node.id].code), Code::Leaving);
        let plot = Plot { span: SpanIndex::FIRST, ..blob.plot() };
        seed.books.purge(plot.content, plot.scope);
        let (nodes, refused) = heard(asker, seed, spread(&blob)).await;
        assert_eq!((nodes.len(), refused.map(|refused| refused.reason())), (0, Some(Code::WrongContent)));
    });
}

/// Who asked goes away: nobody takes more because of it.
#[test]
fn what_nobody_waits_for_is_let_go() {
    run(async {
        let blob = Blob::new("let go", 20);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let (seed, [asker, slow]) = (&cluster.seeds[0], &cluster.peers[..]) else { panic!("two") };
        slow.session(seed).await;
        until("its session", || !seed.books.nodes().is_empty()).await;
        slow.origin.delay.set(Duration::from_millis(200));
        let exchange = asker.session(seed).await.ask(spread(&blob)).await.expect("asked");
        let held = || {
            slow.store.find(&blob.id, registry()).map_or(0, |content| slow.store.stat(&content).held_bytes)
        };
        until("the first block", || held() > 0).await;
        let places = || (slow.books.preheats.available_permits(), seed.books.spreads.available_permits());
        let all = (crate::service::spread::PREHEATS_MAX, crate::service::spread::SPREADS_MAX);
        assert_eq!(places(), (all.0 - 1, all.1 - 1), "both are at work");
        drop(exchange);
        until("both have let go", || places() == all).await;
        assert!(held() < blob.layout().length_bytes());
    });
}
