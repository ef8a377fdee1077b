//! Who is looked for, how, and how often.

use super::*;

#[test]
fn who_asks_for_the_same_node_waits_for_the_same_attempt() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (seed, peer) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Peer, lanes));
            // The first who asks gives up; the others have the session all the same.
            let mut first = Box::pin(peer.mesh.session(&seed.node));
            assert!(poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await);
            drop(first);
            let asking: Vec<_> = (0..20)
                .map(|_| {
                    let (mesh, node) = (Rc::clone(&peer.mesh), seed.node.clone());
                    spawn_local(async move { mesh.session(&node).await })
                })
                .collect();
            let mut sessions = Vec::new();
            for asked in asking {
                sessions.push(asked.await.expect("no panic").expect("reached"));
            }
            assert!(sessions.iter().all(|session| Rc::ptr_eq(session, &sessions[0])));
            let again = peer.mesh.session(&seed.node).await.expect("it stands");
            assert!(Rc::ptr_eq(&again, &sessions[0]));
            seed.heard.until(|heard| !heard.up.borrow().is_empty()).await;
            assert_eq!((seed.heard.up.borrow().len(), peer.heard.up.borrow().len()), (1, 1));
        });
    }
}

#[test]
fn nodes_that_look_for_each_other_at_once_find_each_other() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (one, other) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Seed, lanes));
            let (near, far) = tokio::join!(one.mesh.session(&other.node), other.mesh.session(&one.node));
            let (near, far) = (near.expect("reached"), far.expect("reached"));
            tokio::join!(Station::takes(&near, 3, 0), Station::takes(&far, 3, 0));
            // Each knows as many sessions as the other, and finds one.
            let count = |station: &Station| station.mesh.sessions().len();
            while count(&one) != count(&other) {
                sleep(Duration::from_millis(5)).await;
            }
            assert!((1..=2).contains(&count(&one)));
            assert!(one.mesh.known(&other.node.id).is_some() && other.mesh.known(&one.node.id).is_some());
            let stood = count(&one);
            drop(one.mesh);
            other.heard.until(|heard| heard.down.get() == stood).await;
            assert_eq!(other.heard.up.borrow().len(), stood);
        });
    }
}

#[test]
fn a_node_that_is_not_there_is_left_alone_for_a_while() {
    run(async {
        let secrets = secrets();
        let peer = station(&secrets, Role::Peer, Lanes::Tcp);
        // Its port is taken and nobody listens.
        let (address, id) = {
            let gone = endpoint(identity(&secrets, Role::Seed), Lanes::Tcp);
            (gone.local_addr(), gone.own().id)
        };
        let node = Node { id, address, zone: Text::cut("") };
        let first = peer.mesh.session(&node).await.expect_err("nobody");
        assert!(matches!(first, Unreachable::Connect(_)), "{first}");
        let Unreachable::LeftAlone { after, reason, .. } =
            peer.mesh.session(&node).await.expect_err("left alone")
        else {
            panic!("left alone")
        };
        assert!(after <= 2 * paths::PAUSE && reason == first.to_string(), "{after:?} {reason}");
        // Others are not.
        let seed = station(&secrets, Role::Seed, Lanes::Tcp);
        let _session = peer.mesh.session(&seed.node).await.expect("reached");
        sleep(after).await;
        assert!(matches!(peer.mesh.session(&node).await, Err(Unreachable::Connect(_))), "tried again");
    });
}

#[test]
fn a_node_that_comes_by_itself_is_left_alone_no_more() {
    run(async {
        let secrets = secrets();
        let (seed, peer) =
            (station(&secrets, Role::Seed, Lanes::Tcp), station(&secrets, Role::Peer, Lanes::Tcp));
        let elsewhere = Node { address: "127.0.0.1:1".parse().expect("an address"), ..peer.node.clone() };
        assert!(seed.mesh.session(&elsewhere).await.is_err());
        let alone = seed.mesh.session(&elsewhere).await.expect_err("left alone");
        assert!(matches!(alone, Unreachable::LeftAlone { .. }), "{alone}");
        let _session = peer.mesh.session(&seed.node).await.expect("reached");
        seed.heard.until(|heard| heard.up.borrow().len() == 1).await;
        let session = seed.mesh.session(&elsewhere).await.expect("it is here");
        Station::takes(&session, 1, 0).await;
        session.close(Code::Other(0), "");
        session.over().await;
        let tried = seed.mesh.session(&elsewhere).await.expect_err("nobody");
        assert!(matches!(tried, Unreachable::Connect(_)), "{tried}");
    });
}

#[test]
fn another_node_than_the_one_that_is_looked_for_is_not_taken() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (seed, peer) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Peer, lanes));
            let expected = NodeId::from_bytes([9; 32]);
            let node = Node { id: expected, ..seed.node.clone() };
            let address = seed.node.address;
            let other = Unreachable::OtherNode { address, expected, found: seed.node.id };
            assert_eq!(peer.mesh.session(&node).await.expect_err("another one"), other);
            assert_eq!(
                peer.mesh.greet(peer.node.address).await.expect_err("oneself"),
                Unreachable::Oneself(peer.node.address)
            );
            assert_eq!(
                peer.mesh.session(&peer.node).await.expect_err("oneself"),
                Unreachable::Oneself(peer.node.address)
            );
            assert!(seed.heard.up.borrow().is_empty() && peer.heard.up.borrow().is_empty());
            // Whoever is there is right where nobody is expected.
            assert_eq!(peer.mesh.greet(address).await.expect("greeted").node(), &seed.node);
        });
    }
}

#[test]
fn where_only_tcp_gets_through_udp_is_not_tried_again() {
    run(async {
        let secrets = secrets();
        let (seed, peer) =
            (station(&secrets, Role::Seed, Lanes::Auto), station(&secrets, Role::Peer, Lanes::Auto));
        let hole = without_udp(seed.node.address).await;
        hole.set_nonblocking(true).expect("set");
        let datagrams = || std::iter::from_fn(|| hole.recv(&mut [0; 2000]).ok()).count();
        let node = Node { address: hole.local_addr().expect("bound"), ..seed.node.clone() };
        for tried in [true, false] {
            let session = peer.mesh.session(&node).await.expect("reached");
            assert_eq!(session.lane(), LaneKind::Tcp);
            assert_eq!(datagrams() > 0, tried);
            session.close(Code::Other(0), "");
            session.over().await;
            // What was sent before is not this attempt's.
            sleep(Duration::from_millis(100)).await;
            _ = datagrams();
        }
        // When TCP fails as well both are tried again.
        peer.mesh.state.borrow_mut().paths.reached(seed.node.address, true, Instant::now());
        let session = peer.mesh.session(&seed.node).await.expect("reached");
        assert_eq!(session.lane(), LaneKind::Tcp);
    });
}
