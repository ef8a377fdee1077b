//! What nodes answer, on real lanes.

mod cluster;
mod spread;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use self::cluster::{Answer, Blob, TestCluster, TestNode, errand, registry, run, until, want};
use super::*;
use crate::wire::{
    Attested, BlockDigest, BootRun, Booted, Change, Complain, Describe, Errand, Fault, FindParents, Have,
    Holds, List, Load, MapOf, Prove, Recall, Take, Want, Watch,
};

fn ids(answer: &Answer) -> Vec<NodeId> {
    answer.holders.iter().map(|holder| holder.node.id).collect()
}

/// Twelve nodes boot one image: each block leaves the origin once and the owner twice.
#[test]
fn the_owner_sends_two_copies_and_names_holders_after_that() {
    run(async {
        let blob = Blob::new("two copies", 4);
        let cluster = TestCluster::new(1, 5, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        let mut copies = 0;
        for peer in &cluster.peers {
            let answer = peer.want(owner, &blob, &[0, 1, 2, 3]).await;
            copies += answer.blocks.len();
            if answer.blocks.is_empty() {
                assert!(!answer.holders.is_empty() && answer.attested.len() == 4, "{answer:?}");
                assert!(!ids(&answer).contains(&peer.node.id));
            } else {
                let of_blocks: Vec<u32> = answer.blocks.keys().copied().collect();
                assert_eq!(answer.attested.keys().copied().collect::<Vec<_>>(), of_blocks);
                peer.holds(&blob, &of_blocks).await;
                peer.register(owner, &blob, &of_blocks).await;
            }
        }
        assert_eq!((copies, owner.origin.total()), (8, 4));
        // Who was named sends.
        let answer = cluster.peers[4].want(owner, &blob, &[2]).await;
        let parent = cluster.peers.iter().find(|peer| peer.node.id == ids(&answer)[0]).unwrap();
        assert_eq!(cluster.peers[4].take(parent, &blob, &[2], 0).await.blocks.len(), 1);
    });
}

#[test]
fn however_many_ask_at_once_the_origin_is_asked_once() {
    run(async {
        let blob = Blob::new("at once", 70);
        let cluster = TestCluster::new(1, 6, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        owner.origin.delay.set(Duration::from_millis(3));
        let places: Vec<u32> = (0..70).collect();
        let (peers, blob, places) = (&cluster.peers, &blob, &places[..]);
        let (a, b, c, d, e, f) = tokio::join!(
            peers[0].want(owner, blob, places),
            peers[1].want(owner, blob, places),
            peers[2].want(owner, blob, &places[10..30]),
            peers[3].want(owner, blob, places),
            peers[4].want(owner, blob, &places[..5]),
            peers[5].want(owner, blob, places),
        );
        let sent: usize = [&a, &b, &c, &d, &e, &f].iter().map(|answer| answer.blocks.len()).sum();
        assert_eq!((owner.origin.total(), sent), (70, 140));
        assert!([a, b, c, d, e, f].iter().all(|answer| answer.refused.is_none()));
    });
}

/// The store of the owner is full: what was brought goes to who asked, and the next one is told that it is not kept.
#[test]
fn what_finds_no_room_is_sent_all_the_same() {
    run(async {
        let blob = Blob::new("unkept", 3);
        let cluster = TestCluster::new(1, 1, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        owner.origin.keeps_nothing.set(true);
        let answer = cluster.peers[0].want(owner, &blob, &[0, 1, 2]).await;
        assert_eq!((answer.blocks.len(), answer.refused), (3, None));
    });
}

#[test]
fn a_verdict_on_one_errand_is_not_a_verdict_on_another() {
    run(async {
        let blob = Blob::new("verdict", 2);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        owner.origin.refuses.borrow_mut().push(errand("bad"));
        owner.origin.delay.set(Duration::from_millis(200));
        let bad = || Want { errand: errand("bad"), ..want(&blob, &[0]) };
        let [a, b, c] = &cluster.peers[..] else { panic!("three") };
        // One who asks alike and one who does not wait for what the first has asked for.
        let behind = async |asking: Want, peer: &TestNode| {
            until("the first request", || {
                owner.books.boards.find(&blob.plot()).is_some_and(|board| !board.bringing().is_empty())
            })
            .await;
            peer.ask(owner, asking, &blob).await
        };
        let (first, second, third) =
            tokio::join!(a.ask(owner, bad(), &blob), behind(bad(), b), behind(want(&blob, &[1]), c));
        assert_eq!((first.code(), second.code()), (Some(Code::Origin), Some(Code::Origin)));
        assert_eq!((third.blocks.len(), third.refused), (1, None));
        let (first, second) = tokio::join!(a.ask(owner, bad(), &blob), behind(want(&blob, &[0]), b));
        assert_eq!((first.code(), second.blocks.len()), (Some(Code::Origin), 1));
        assert_eq!(owner.origin.total(), 2);
    });
}

/// Decision: the owner never goes to the origin for what another holder has.
#[test]
fn what_the_owner_has_lost_and_a_peer_holds_does_not_leave_the_origin_again() {
    run(async {
        let blob = Blob::new("lost", 6);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        let holder = &cluster.peers[0];
        let places = [0, 1, 2, 3, 4, 5];
        holder.want(owner, &blob, &places).await;
        holder.holds(&blob, &places).await;
        holder.register(owner, &blob, &places).await;
        let content = owner.store.find(&blob.id, registry()).unwrap();
        owner.store.remove(&content);
        owner.store.create(&blob.spec()).unwrap();
        let before = owner.origin.total();
        let answer = cluster.peers[1].want(owner, &blob, &[4]).await;
        assert_eq!((ids(&answer), answer.blocks.len()), (vec![holder.node.id], 0));
        assert_eq!(answer.attested.get(&4), Some(&blob.digest(4)));
        // Who takes any is sent there too, and told to come again.
        let any = Want { any: true, ..want(&blob, &places) };
        let answer = cluster.peers[2].ask(owner, any, &blob).await;
        assert_eq!((ids(&answer), answer.code()), (vec![holder.node.id], Some(Code::Busy)));
        assert_eq!(owner.origin.total(), before);
        // The holder has nothing either: now somebody must.
        let failed = List::first_of([holder.node.id]);
        let answer = cluster.peers[1].ask(owner, Want { failed, ..want(&blob, &[4]) }, &blob).await;
        assert_eq!((answer.blocks.len(), owner.origin.total()), (1, before + 1));
    });
}

#[test]
fn who_takes_any_is_given_some_and_others_other_ones() {
    run(async {
        let blob = Blob::new("bulk", 64);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        let places: Vec<u32> = (0..64).collect();
        let any = || Want { any: true, ..want(&blob, &places) };
        let mut given = BlockSet::EMPTY;
        for peer in &cluster.peers {
            let answer = peer.ask(owner, any(), &blob).await;
            let of_peer: BlockSet = answer.blocks.keys().copied().collect();
            assert!((1..=16).contains(&of_peer.len()) && of_peer.and(&given).is_empty(), "{of_peer:?}");
            given.add(&of_peer);
        }
        assert_eq!(owner.origin.total(), given.len());
        let find = FindParents { plot: blob.plot(), known: List::default(), wanted: 24 };
        let answer = cluster.peers[0].ask(owner, find, &blob);
        // One answer, and no end of the stream after it.
        let answer = answer.await;
        assert_eq!(answer.holders.len(), 2);
    });
}

/// The owner dies; its deputy knows who holds what and with which digest, and the origin gives nothing again.
#[test]
fn the_deputy_stands_in_without_the_origin() {
    run(async {
        let blob = Blob::new("deputy", 5);
        let cluster = TestCluster::new(2, 2, std::slice::from_ref(&blob)).await;
        let (owner, deputy) = cluster.owners(&blob);
        let deputy = deputy.unwrap();
        let [holder, asker] = &cluster.peers[..] else { panic!("two") };
        holder.want(owner, &blob, &[0, 1, 2, 3, 4]).await;
        holder.holds(&blob, &[0, 1, 2, 3, 4]).await;
        holder.register(owner, &blob, &[0, 1, 2, 3, 4]).await;
        holder.register(deputy, &blob, &[0, 1, 2, 3, 4]).await;
        let knows = || deputy.books.attestations().known(&blob.plot()).len() == 5;
        until("the deputy's copy of the digests", knows).await;
        // While the owner lives, the deputy sends to it.
        let stand_in = || Want { stand_in: true, ..want(&blob, &[0, 1, 2, 3, 4]) };
        let answer = asker.ask(deputy, stand_in(), &blob).await;
        assert_eq!(answer.code(), Some(Code::NotOwner));
        assert_eq!(answer.refused.unwrap().instead.map(|node| node.id), Some(owner.node.id));
        owner.mesh.leave().await;
        // What was seen of it counts for a moment.
        let mut answer = asker.ask(deputy, stand_in(), &blob).await;
        while answer.code() == Some(Code::NotOwner) {
            sleep(Duration::from_millis(100)).await;
            answer = asker.ask(deputy, stand_in(), &blob).await;
        }
        assert_eq!((ids(&answer), answer.attested.len()), (vec![holder.node.id], 5), "{answer:?}");
        assert_eq!((deputy.origin.total(), owner.origin.total()), (0, 5));
        assert_eq!(asker.take(holder, &blob, &[0, 1, 2, 3, 4], 0).await.blocks.len(), 5);
    });
}

/// A seed joins and is to own what another one owned: it has the map and the digests before it asks the origin.
#[test]
fn a_new_owner_takes_the_map_before_it_goes_to_the_origin() {
    run(async {
        let blob = Blob::new("new owner", 5);
        let cluster = TestCluster::new(2, 2, std::slice::from_ref(&blob)).await;
        let (new, old) = cluster.owners(&blob);
        let old = old.unwrap();
        let [holder, asker] = &cluster.peers[..] else { panic!("two") };
        // Before, the other one was the only seed.
        new.seeds.down(&old.node.id);
        old.seeds.left(&new.node.id);
        holder.want(old, &blob, &[0, 1, 2, 3]).await;
        holder.holds(&blob, &[0, 1, 2, 3]).await;
        holder.register(old, &blob, &[0, 1, 2, 3]).await;
        assert_eq!(old.origin.total(), 4);
        new.sees(&cluster.seeds);
        old.sees(&cluster.seeds);
        let answer = asker.want(new, &blob, &[0, 1, 2, 3, 4]).await;
        assert!(ids(&answer).contains(&holder.node.id) && ids(&answer).contains(&old.node.id), "{answer:?}");
        assert_eq!(answer.blocks.keys().copied().collect::<Vec<_>>(), [4], "which nobody has");
        assert_eq!((answer.attested.len(), new.origin.total()), (5, 1));
        // Whoever asks the old one is sent on.
        let answer = asker.want(old, &blob, &[0]).await;
        assert_eq!(answer.refused.unwrap().instead.map(|node| node.id), Some(new.node.id));
    });
}

/// It named the content's owner once, as that one's deputy, and was named by it: nobody answered, and every node went to
/// the origin.
#[test]
fn whoever_a_span_is_owned_by_answers_for_it_whatever_it_is_to_the_content() {
    run(async {
        let cluster = TestCluster::new(3, 1, &[]).await;
        let (mut as_deputy, mut number) = (0, 0);
        while as_deputy < 1 {
            // More than a quarter of what a seed can hold.
            let blob = Blob::new(&format!("of spans {number}"), 261);
            number += 1;
            let (owner, (content_owner, deputy)) = (cluster.owners_of(&blob, true).0, cluster.owners(&blob));
            if owner.node.id == content_owner.node.id {
                continue;
            }
            cluster.add(&blob);
            as_deputy += usize::from(deputy.is_some_and(|deputy| deputy.node.id == owner.node.id));
            let by_registry = || [owner, content_owner].map(|seed| seed.origin.described_by_registry.get());
            let [of_span, of_content] = by_registry();
            let answer = cluster.peers[0].want(owner, &blob, &[3]).await;
            assert_eq!((answer.refused.as_ref(), answer.blocks.len()), (None, 1));
            let answer = cluster.peers[0].want(content_owner, &blob, &[3]).await;
            assert_eq!(by_registry(), [of_span, of_content + 1], "who owns a span asks who owns the content");
            assert_eq!(answer.refused.unwrap().instead.map(|node| node.id), Some(owner.node.id));
        }
    });
}

#[test]
fn a_seed_that_does_not_own_a_content_asks_the_owner_what_it_is() {
    run(async {
        let blob = Blob::new("describe", 5);
        let cluster = TestCluster::new(3, 1, std::slice::from_ref(&blob)).await;
        let (owner, deputy) = cluster.owners(&blob);
        let deputy = deputy.unwrap();
        let describe = |forwarded| Describe {
            content: blob.id,
            by_digest: true,
            registry: registry(),
            forwarded,
            errand: Errand::default(),
        };
        let peer = &cluster.peers[0];
        for seed in &cluster.seeds {
            let mut exchange = peer.session(seed).await.ask(describe(false)).await.unwrap();
            let Ok(Some(Message::Description(found))) = exchange.next().await else {
                panic!("no description")
            };
            assert_eq!((found.owner, found.length), (owner.node.id, blob.layout().length_bytes()));
        }
        assert_eq!(owner.origin.described.get(), 3);
        // Once.
        let answer = peer.ask(deputy, describe(true), &blob).await;
        assert_eq!(answer.refused.unwrap().instead.map(|node| node.id), Some(owner.node.id));
        // A dead owner's deputy describes it.
        owner.mesh.leave().await;
        let mut exchange = peer.session(deputy).await.ask(describe(false)).await.unwrap();
        let Ok(Some(Message::Description(found))) = exchange.next().await else { panic!("no description") };
        assert_eq!((found.owner, deputy.origin.described.get()), (deputy.node.id, 1));
    });
}

#[test]
fn a_wrong_digest_is_purged_everywhere() {
    run(async {
        let blob = Blob::new("wrong", 5);
        let cluster = TestCluster::new(2, 3, std::slice::from_ref(&blob)).await;
        let (owner, deputy) = cluster.owners(&blob);
        let [first, second, stranger] = &cluster.peers[..] else { panic!("three") };
        for peer in [first, second] {
            peer.want(owner, &blob, &[0, 1]).await;
            peer.holds(&blob, &[0, 1]).await;
            peer.register(owner, &blob, &[0, 1]).await;
        }
        deputy.unwrap().session(owner).await;
        assert!(owner.books.purge(blob.id, blob.plot().scope));
        for node in [first, second, deputy.unwrap()] {
            until("the purge", || *node.origin.purged.borrow() == [blob.id]).await;
        }
        assert!(stranger.origin.purged.borrow().is_empty(), "it has registered nothing");
        assert_eq!(owner.books.map().tracker.members(&blob.plot()), 0);
        for request in [want(&blob, &[0]).into(), Message::from(Watch { plot: blob.plot() })] {
            assert_eq!(stranger.ask(owner, request, &blob).await.code(), Some(Code::WrongContent));
        }
        assert_eq!(stranger.take(first, &blob, &[0], 0).await.code(), Some(Code::NotHeld));
        assert!(!first.books.purge(blob.id, blob.plot().scope), "a peer is not believed");
    });
}

#[test]
fn what_was_proved_here_is_not_purged_by_another() {
    run(async {
        let blob = Blob::new("proved", 3);
        let cluster = TestCluster::new(2, 0, std::slice::from_ref(&blob)).await;
        let [accuser, holder] = &cluster.seeds[..] else { panic!("two") };
        holder.holds(&blob, &[0, 1, 2]).await;
        let content = holder.store.find(&blob.id, registry()).unwrap();
        until("the digest", || content.verification() == Verification::Passed).await;
        let session = accuser.session(holder).await;
        let other = Blob::new("other", 1);
        for content in [blob.id, other.id] {
            assert!(session.tell(Purge { content, scope: blob.plot().scope }));
        }
        until("the purges", || !holder.origin.purged.borrow().is_empty()).await;
        assert_eq!(*holder.origin.purged.borrow(), [other.id]);
    });
}

/// A peer's certificate does not make a node one that owns, attests or purges, whatever it says.
#[test]
fn what_only_seeds_may_say_is_refused_from_a_peer() {
    run(async {
        let blob = Blob::new("peer", 2);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let (seed, [liar, other]) = (&cluster.seeds[0], &cluster.peers[..]) else { panic!("two") };
        other.holds(&blob, &[0]).await;
        let purge = Purge { content: blob.id, scope: blob.plot().scope };
        for victim in [seed, other] {
            let session = liar.session(victim).await;
            session.tell(purge.clone());
            session.over().await;
            assert!(
                victim.origin.purged.borrow().is_empty() && !victim.books.is_wrong(&blob.id, purge.scope)
            );
        }
        drop(cluster);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let (seed, [liar, other]) = (&cluster.seeds[0], &cluster.peers[..]) else { panic!("two") };
        // It asks for the map.
        let session = liar.session(seed).await;
        let mut exchange = session.ask(MapOf { content: blob.id, scope: blob.plot().scope }).await.unwrap();
        assert!(exchange.next().await.is_err());
        // It is asked as if it were the owner, and says that it is not.
        let answer = other.want(liar, &blob, &[0]).await;
        assert_eq!((answer.code(), liar.origin.total()), (Some(Code::NotOwner), 0));
        // It has a digest, and attests nothing.
        liar.books.attest(&blob.plot(), 0, &[[7; 32]]);
        liar.holds(&blob, &[0]).await;
        let mut exchange = other.session(liar).await.ask(Watch { plot: blob.plot() }).await.unwrap();
        assert!(matches!(exchange.next().await, Ok(Some(Message::Have(_)))));
        assert!(timeout(Duration::from_millis(200), exchange.next()).await.is_err());
    });
}

/// Bytes rot in a parent's slab: its checksum catches them, the child is told that it is not held, and has it from another.
#[test]
fn rot_in_a_slab_is_not_passed_on() {
    run(async {
        let blob = Blob::new("rot", 4);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let (owner, [rotten, sound, child]) = (&cluster.seeds[0], &cluster.peers[..]) else {
            panic!("three")
        };
        for parent in [rotten, sound] {
            parent.want(owner, &blob, &[0, 1, 2, 3]).await;
            parent.holds(&blob, &[0, 1, 2, 3]).await;
            parent.register(owner, &blob, &[0, 1, 2, 3]).await;
        }
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = told.clone();
        let tell = move |_: &Arc<Content>, _, run: darter_engine::BlockRun| telling.borrow_mut().push(run);
        rotten.server.on_lost(Rc::new(tell));
        rot(rotten, &blob, 2);
        let mut exchange = child.session(rotten).await.ask(Watch { plot: blob.plot() }).await.unwrap();
        let Ok(Some(Message::Have(have))) = exchange.next().await else { panic!("it tells what it has") };
        assert_eq!(have.held, BlockSet::first(4));
        let answer = child.take(rotten, &blob, &[0, 1, 2, 3], 0).await;
        assert!(!answer.blocks.contains_key(&2) && answer.refused.is_none(), "{answer:?}");
        // Its piece of four blocks is gone, and who watches is told.
        let Ok(Some(Message::Have(have))) = exchange.next().await else {
            panic!("it tells what it has lost")
        };
        assert!(have.lost.contains(2) && !told.borrow().is_empty());
        let complaint =
            Complain { parent: rotten.node.id, plot: blob.plot(), place: 2, fault: Fault::NotHeld };
        child.session(owner).await.tell(complaint);
        until("the map's correction", || owner.books.map().tracker.copies(&blob.plot(), 2) == 1).await;
        let answer = child.want(owner, &blob, &[2]).await;
        assert!(answer.blocks.contains_key(&2) || ids(&answer) == [sound.node.id], "{answer:?}");
        assert_eq!(child.take(sound, &blob, &[2], 0).await.blocks.len(), 1);
        assert!(!owner.books.map().tracker.is_expelled(&rotten.node.id, Instant::now()));
    });
}

/// Flips a byte of a block where it lies on the disk.
fn rot(node: &TestNode, blob: &Blob, place: u32) {
    use std::os::unix::fs::FileExt as _;
    let needle = blob.block(place);
    let mut found = false;
    let mut directories = vec![node.directory.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            for at in (0..bytes.len()).step_by(4096) {
                if bytes[at..].starts_with(&needle[..needle.len().min(bytes.len() - at)])
                    && bytes.len() - at >= needle.len()
                {
                    file.write_all_at(&[needle[40_000] ^ 1], at as u64 + 40_000).unwrap();
                    found = true;
                }
            }
        }
    }
    assert!(found, "the block lies on the disk");
}

#[test]
fn a_complaint_expels_who_lies_and_not_whom_a_liar_accuses() {
    run(async {
        let blob = Blob::new("complaint", 9);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let (owner, [liar, honest, accuser]) = (&cluster.seeds[0], &cluster.peers[..]) else {
            panic!("three")
        };
        accuser.want(owner, &blob, &[0, 1]).await;
        honest.holds(&blob, &[0]).await;
        honest.register(owner, &blob, &[0]).await;
        liar.hold(&blob, 0, vec![b'x'; 65_536].into()).await;
        liar.register(owner, &blob, &[0]).await;
        let of = |parent: &TestNode| Complain {
            parent: parent.node.id,
            plot: blob.plot(),
            place: 0,
            fault: Fault::WrongBytes,
        };
        let session = accuser.session(owner).await;
        session.tell(of(honest));
        session.tell(of(liar));
        let is_expelled =
            |node: &TestNode| owner.books.map().tracker.is_expelled(&node.node.id, Instant::now());
        until("the expulsion", || is_expelled(liar)).await;
        until("the end of the checks", || owner.server.checks.borrow().is_idle()).await;
        assert!(!is_expelled(honest) && !is_expelled(accuser));
        assert_eq!(
            owner.books.map().tracker.copies(&blob.plot(), 0),
            2,
            "the honest one, and the accuser to come"
        );
        // What it says is not heard any more.
        let changes =
            List::first_of([Change { plot: blob.plot(), held: BlockSet::first(9), lost: BlockSet::EMPTY }]);
        liar.session(owner).await.tell(Holds { changes, load: Load::default() });
        honest.register(owner, &blob, &[1]).await;
        assert_eq!(owner.books.map().tracker.copies(&blob.plot(), 8), 0);
    });
}

#[test]
fn a_take_waits_for_what_is_about_to_come() {
    run(async {
        let blob = Blob::new("wait", 4);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let [parent, child] = &cluster.peers[..] else { panic!("two") };
        parent.holds(&blob, &[0]).await;
        let later = async {
            sleep(Duration::from_millis(100)).await;
            parent.holds(&blob, &[1]).await;
        };
        let (answer, ()) = tokio::join!(child.take(parent, &blob, &[0, 1], 1000), later);
        assert_eq!(answer.blocks.len(), 2);
        let answer = child.take(parent, &blob, &[0, 2], 50).await;
        assert_eq!((answer.blocks.len(), answer.refused), (1, None));
    });
}

#[test]
fn a_watcher_is_told_everything_and_then_what_is_new() {
    run(async {
        let blob = Blob::new("watch", 40);
        let cluster = TestCluster::new(1, 1, std::slice::from_ref(&blob)).await;
        let (seed, peer) = (&cluster.seeds[0], &cluster.peers[0]);
        // From before a restart: held, and no digest is known.
        seed.holds(&blob, &[0, 1, 2]).await;
        let mut exchange = peer.session(seed).await.ask(Watch { plot: blob.plot() }).await.unwrap();
        let (mut held, mut attested, mut messages) = (BlockSet::EMPTY, BTreeMap::new(), 0);
        let mut is_storing = false;
        while held.len() < 40 || attested.len() < 40 {
            match exchange.next().await.unwrap().expect("it goes on") {
                Message::Have(Have { held: new, lost, .. }) => {
                    assert!(lost.is_empty() && held.and(&new).is_empty());
                    held.add(&new);
                    messages += 1;
                }
                Message::Attested(Attested { first, digests }) => {
                    let new = (u32::from(first)..).zip(digests.iter().copied());
                    let new: Vec<(u32, BlockDigest)> = new.collect();
                    assert!(new.iter().all(|(place, digest)| *digest == blob.digest(*place)));
                    attested.extend(new);
                }
                other => panic!("{}", other.name()),
            }
            if held.len() == 3 && attested.len() == 3 && !std::mem::replace(&mut is_storing, true) {
                seed.holds(&blob, &(3..40).collect::<Vec<_>>()).await;
            }
        }
        assert!(messages < 30, "what comes together is told together");
        drop(exchange);
        until("the end of the watch", || seed.server.answers.get() == 0).await;
    });
}

#[test]
fn the_registry_is_asked_once_for_all_who_ask_alike() {
    run(async {
        let blob = Blob::new("prove", 1);
        let cluster = TestCluster::new(1, 3, std::slice::from_ref(&blob)).await;
        let owner = &cluster.seeds[0];
        owner.origin.delay.set(Duration::from_millis(50));
        owner.origin.refuses.borrow_mut().push(errand("bad"));
        let prove = async |peer: &TestNode, of: &str| {
            let prove = Prove { content: blob.id, errand: errand(of) };
            let mut exchange = peer.session(owner).await.ask(prove).await.unwrap();
            match exchange.next().await {
                Ok(Some(Message::Proof(proof))) => proof.granted,
                other => panic!("{other:?}"),
            }
        };
        let [a, b, c] = &cluster.peers[..] else { panic!("three") };
        assert_eq!(tokio::join!(prove(a, "good"), prove(b, "good"), prove(c, "bad")), (true, true, false));
        assert!(prove(c, "good").await);
        assert_eq!(owner.origin.proved.get(), 2);
    });
}

#[test]
fn a_boot_is_recalled() {
    run(async {
        let blob = Blob::new("boot", 1);
        let cluster = TestCluster::new(1, 1, &[]).await;
        let (owner, peer) = (&cluster.seeds[0], &cluster.peers[0]);
        let recall = async || {
            let mut exchange = peer.session(owner).await.ask(Recall { content: blob.id }).await.unwrap();
            match exchange.next().await {
                Ok(Some(Message::BootOrder(order))) => order.runs,
                other => panic!("{other:?}"),
            }
        };
        assert!(recall().await.is_empty());
        let runs = List::first_of([BootRun { first: 7, count: 2 }, BootRun { first: 1, count: 1 }]);
        let booted = Booted { content: blob.id, runs: runs.clone() };
        assert!(peer.ask(owner, booted, &blob).await.refused.is_none());
        assert_eq!(recall().await, runs);
    });
}

#[test]
fn who_leaves_answers_nothing_new() {
    run(async {
        let blob = Blob::new("leaving", 1);
        let cluster = TestCluster::new(1, 1, std::slice::from_ref(&blob)).await;
        cluster.seeds[0].books.leave();
        let answer = cluster.peers[0].want(&cluster.seeds[0], &blob, &[0]).await;
        assert_eq!(answer.code(), Some(Code::Leaving));
    });
}

/// What makes no sense, and too much of what does: nobody else is the worse for it.
#[test]
fn a_hostile_node_disturbs_nobody() {
    run(async {
        let blob = Blob::new("hostile", 20);
        let cluster = TestCluster::new(1, 2, std::slice::from_ref(&blob)).await;
        let (owner, [hostile, good]) = (&cluster.seeds[0], &cluster.peers[..]) else { panic!("two") };
        owner.holds(&blob, &(0..20).collect::<Vec<_>>()).await;
        let far = |span| Plot { span: crate::span::SpanIndex::from_number(span), ..blob.plot() };
        let verified = Plot { scope: Scope::Verified, ..blob.plot() };
        for plot in [far(1), far(u32::MAX), verified] {
            let wants = Want { plot, ..want(&blob, &[0, 1023]) };
            assert_eq!(hostile.ask(owner, wants, &blob).await.code(), Some(Code::NotHeld));
            let take = Take { plot, places: BlockSet::full(), wait_ms: u16::MAX };
            assert_eq!(hostile.ask(owner, take, &blob).await.code(), Some(Code::NotHeld));
        }
        // Beyond the end of the content there is nothing.
        let places: Vec<u32> = (15..1024).collect();
        assert_eq!(hostile.take(owner, &blob, &places, 0).await.blocks.len(), 5);
        // It registers what cannot be, asks for all and takes nothing, on as many streams as it may have.
        let session = hostile.session(owner).await;
        for batch in 0..100 {
            let change = |span| Change { plot: far(span), held: BlockSet::full(), lost: BlockSet::EMPTY };
            let changes = List::first_of((batch * 64..batch * 64 + 64).map(change));
            session.tell(Holds { changes, load: Load { busy: 255 } });
            session.tell(Complain {
                parent: good.node.id,
                plot: far(batch),
                place: u16::MAX,
                fault: Fault::WrongBytes,
            });
        }
        let mut kept = Vec::new();
        for stream in 0..20 {
            let request: Message = match stream % 3 {
                0 => want(&blob, &(0..20).collect::<Vec<_>>()).into(),
                1 => Watch { plot: far(stream) }.into(),
                _ => Take { plot: blob.plot(), places: BlockSet::full(), wait_ms: u16::MAX }.into(),
            };
            kept.push(session.ask(request).await.unwrap());
        }
        for place in 0..20 {
            let answer = good.take(owner, &blob, &[place], 0).await;
            assert_eq!(answer.blocks.len(), 1);
        }
        assert!(!owner.books.map().tracker.is_expelled(&good.node.id, Instant::now()));
        drop(kept);
        until("the end of all answers", || owner.server.answers.get() == 0).await;
    });
}

impl Checks {
    fn is_idle(&self) -> bool {
        self.accused_count() == 0
    }
}
