//! `Hello`, and what ends a session.

use super::*;

#[test]
fn nodes_without_a_common_version_say_so_and_leave_each_other_alone() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let newer = Rc::new(endpoint(identity(&secrets, Role::Peer), lanes));
            // It comes.
            let mut stranger = Stranger::comes(&newer, &seed).await;
            let later = Hello { version_oldest: 3, version_newest: 9, ..hello(Role::Peer) };
            // Behind the versions there may be anything.
            let (frame, cut) = (Message::from(later.clone()).encode(), 12);
            let head = FrameHead { payload_bytes: 4, kind: Message::HELLO, may_be_passed_over: false };
            stranger.send.write([&head.encode()[..], &frame[8..cut]].concat().into()).await.expect("written");
            assert!(matches!(stranger.recv.next().await, Ok(Some(Message::Hello(_)))));
            let Ok(Some(Message::Refused(why))) = stranger.recv.next().await else { panic!("refused") };
            let expected =
                format!("node {} speaks versions 3–9 of the peer protocol and this node 1–1", newer.own().id);
            assert!(why.detail.starts_with(&expected), "{}", &*why.detail);
            assert!(why.detail.ends_with("install a newer darter on this node"), "{}", &*why.detail);
            assert_eq!(stranger.cut_off().await.0, Code::Version);
            // And is looked for.
            let node = Node { id: newer.own().id, address: newer.local_addr(), zone: Text::cut("") };
            let answers = async {
                let connection = newer.accept().await.expect("a connection");
                let (send, _recv) = connection.accept().await.expect("a stream");
                let mut send = MessageSender::new(send);
                send.write(Message::from(later).encode()).await.expect("written");
                let LaneError::Closed { code, .. } = connection.closed().await else { panic!("closed") };
                assert_eq!(code_of(code), Code::Version);
            };
            // It came a moment ago, and is left alone since.
            let alone = seed.mesh.session(&node).await.expect_err("left alone");
            assert!(matches!(alone, Unreachable::LeftAlone { .. }), "{alone}");
            seed.mesh.state.borrow_mut().paths.stands(Target::Node(node.id));
            let (_, refused) = tokio::join!(answers, seed.mesh.session(&node));
            let refused = refused.expect_err("no version");
            assert!(matches!(refused, Unreachable::Version(_)), "{refused}");
            match seed.mesh.session(&node).await.expect_err("left alone") {
                Unreachable::LeftAlone { after, reason, .. } => {
                    assert!(after > Duration::from_secs(50) && reason == refused.to_string(), "{reason}");
                }
                other => panic!("{other}"),
            }
            assert!(seed.heard.up.borrow().is_empty());
        });
    }
}

/// A peer that says this on the control stream, after its `Hello`.
fn check_told(role: Role, message: Message, expected: Code) {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let other = station(&secrets, Role::Peer, lanes);
            let session = other.mesh.session(&seed.node).await.expect("reached");
            let mut stranger = Stranger::greeted(identity(&secrets, role), &seed).await;
            stranger.says(message.clone()).await;
            let (code, reason) = stranger.cut_off().await;
            assert_eq!(code, expected, "{reason}");
            assert!(reason.contains(message.name()), "{reason}");
            seed.heard.until(|heard| heard.down.get() == 1).await;
            assert!(seed.heard.told.borrow().is_empty());
            // Left alone, and nobody else is.
            let node = Node { id: stranger.endpoint.own().id, ..other.node.clone() };
            let alone = seed.mesh.session(&node).await.expect_err("left alone");
            assert!(matches!(alone, Unreachable::LeftAlone { .. }), "{alone}");
            Station::takes(&session, 2, 0).await;
        });
    }
}

#[test]
fn what_only_seeds_say_is_refused_when_a_peer_says_it() {
    check_told(Role::Peer, Seeds { seeds: List::default() }.into(), Code::Forbidden);
    check_told(Role::Peer, purge(), Code::Forbidden);
}

#[test]
fn what_has_no_place_on_the_control_stream_ends_the_session() {
    check_told(Role::Peer, hello(Role::Peer).into(), Code::Malformed);
    check_told(Role::Seed, End {}.into(), Code::Malformed);
    check_told(Role::Seed, Watch { plot: plot() }.into(), Code::Malformed);
}

#[test]
fn what_no_stream_may_begin_with_ends_the_session() {
    let check = |role, message: Message, expected| {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, Lanes::Quic);
            let stranger = Stranger::greeted(identity(&secrets, role), &seed).await;
            let _stream = stranger.opens(&message).await;
            assert_eq!(stranger.cut_off().await.0, expected);
            assert_eq!(seed.heard.asked.get(), 0);
        });
    };
    check(Role::Seed, End {}.into(), Code::Malformed);
    check(Role::Seed, holds(1), Code::Malformed);
    check(Role::Seed, hello(Role::Seed).into(), Code::Malformed);
    // For the membership there is a connection of its own.
    check(Role::Seed, gossip(), Code::Malformed);
    check(Role::Peer, gossip(), Code::Forbidden);
    check(Role::Peer, MapOf { content: content(), scope: Scope::Verified }.into(), Code::Forbidden);
    check(Role::Peer, Blocks { first: 1000, count: 64 }.into(), Code::Malformed);
}

#[test]
fn a_role_that_is_not_that_of_the_certificate_is_refused() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let mut stranger =
                Stranger::comes(&Rc::new(endpoint(identity(&secrets, Role::Peer), lanes)), &seed).await;
            stranger.says(hello(Role::Seed)).await;
            let (code, reason) = stranger.cut_off().await;
            assert_eq!(code, Code::Forbidden, "{reason}");
            assert!(reason.contains("another role"), "{reason}");
            assert!(seed.heard.up.borrow().is_empty());
        });
    }
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let check = |frame: Bytes| {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, Lanes::Quic);
            let mut stranger =
                Stranger::comes(&Rc::new(endpoint(identity(&secrets, Role::Peer), Lanes::Quic)), &seed).await;
            stranger.send.write(frame.clone()).await.expect("written");
            assert_eq!(stranger.cut_off().await.0, Code::Malformed);
            assert!(seed.heard.up.borrow().is_empty());
        });
    };
    let frame = |kind, payload: &[u8]| {
        let head = FrameHead { payload_bytes: payload.len() as u32, kind, may_be_passed_over: false };
        Bytes::from([&head.encode()[..], payload].concat())
    };
    check(holds(1).encode());
    check(frame(Message::HELLO, &[1, 0, 1]));
    check(frame(Message::HELLO, &[1, 0, 1, 0, 9]));
    check(Bytes::from_static(&[255; 8]));
}

/// As many silent ones as there may be; the next is refused, a node that has greeted is undisturbed, and those who
/// say nothing have to go.
#[test]
fn silence_before_hello_has_an_end() {
    run(async {
        let secrets = secrets();
        let seed = station(&secrets, Role::Seed, Lanes::Tcp);
        let peer = station(&secrets, Role::Peer, Lanes::Tcp);
        let session = peer.mesh.session(&seed.node).await.expect("reached");
        let silent: Vec<_> =
            (0..3).map(|_| Rc::new(endpoint(identity(&secrets, Role::Peer), Lanes::Tcp))).collect();
        let mut quiet = Vec::new();
        // At once: one after the other, the first would be gone before the last comes to a slow machine.
        let coming =
            silent[..2].iter().flat_map(|endpoint| vec![endpoint; SESSIONS_OF_NODE_MAX]).map(|endpoint| {
                let (endpoint, address) = (Rc::clone(endpoint), seed.node.address);
                spawn_local(async move { Stranger::comes_to(&endpoint, address).await })
            });
        for stranger in coming.collect::<Vec<_>>() {
            quiet.push(stranger.await.expect("it does not panic"));
        }
        const { assert!(HELLOS_MAX == 2 * SESSIONS_OF_NODE_MAX) };
        // One node's share, and that of all.
        for endpoint in [&silent[0], &silent[2]] {
            let one_more = Stranger::comes(endpoint, &seed).await;
            assert_eq!(one_more.cut_off().await.0, Code::Busy);
        }
        Station::takes(&session, 1, 0).await;
        for stranger in &quiet {
            let (code, reason) = stranger.cut_off().await;
            assert!(code == Code::Other(0) && reason.contains("Hello in time"), "{code:?} {reason}");
        }
        let late = station(&secrets, Role::Peer, Lanes::Tcp);
        let _late = late.mesh.session(&seed.node).await.expect("there is room again");
        Station::takes(&session, 1, 0).await;
    });
}
