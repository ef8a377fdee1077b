//! What a node may leave open, and the end of one that leaves.

use super::*;

#[test]
fn a_node_that_leaves_answers_what_it_was_asked_and_nothing_new() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (seed, peer) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Peer, lanes));
            let session = peer.mesh.session(&seed.node).await.expect("reached");
            let asked = Station::takes(&session, 64, 300);
            let after = async {
                seed.heard.until(|heard| heard.asked.get() == 1).await;
                let (mesh, leaving) = (Rc::clone(&seed.mesh), Cell::new(false));
                let leaves = async {
                    mesh.leave().await;
                    leaving.set(true);
                };
                let meanwhile = async {
                    peer.heard.until(|heard| *heard.told.borrow() == [Leaving {}.into()]).await;
                    assert!(session.is_leaving() && !session.is_over() && !leaving.get());
                    assert!(peer.mesh.known(&seed.node.id).is_none());
                    let refused = peer.mesh.session(&seed.node).await.expect_err("it leaves");
                    assert_eq!(refused, Unreachable::Leaving(seed.node.id));
                    let refused = session.ask(Watch { plot: plot() }).await.expect_err("it leaves");
                    assert_eq!(refused.code(), Code::Leaving);
                    // Who has not heard of it is told.
                    let (send, recv) = session.line.connection.open().await.expect("a stream");
                    let (mut send, mut recv) =
                        (MessageSender::new(send), MessageReceiver::new(recv, Role::Seed));
                    let watch = Message::from(Watch { plot: plot() });
                    send.write(watch.encode()).await.expect("written");
                    let Ok(Some(Message::Refused(why))) = recv.next().await else { panic!("refused") };
                    assert_eq!(why.reason(), Code::Leaving);
                    let late = peer.mesh.greet(seed.node.address).await.expect_err("it leaves");
                    assert_eq!(late.code(), Code::Leaving, "{late}");
                    assert_eq!(seed.mesh.greet(peer.node.address).await.err(), Some(Unreachable::Closed));
                };
                tokio::join!(leaves, meanwhile);
            };
            tokio::join!(asked, after);
            session.over().await;
            peer.heard.until(|heard| heard.down.get() == 1).await;
            assert_eq!(peer.heard.told.borrow().len(), 1, "told once");
            assert_eq!(seed.heard.asked.get(), 1);
        });
    }
}

#[test]
fn what_waits_on_the_control_stream_is_bounded() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            // It reads its Hello and nothing more.
            let mut stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
            let session = seed.mesh.sessions()[0].clone();
            let full = holds(CHANGES_MAX);
            let mut told = 0;
            // Until the windows of lane and queue are full.
            loop {
                if session.tell(full.clone()) {
                    told += 1;
                    tokio::task::yield_now().await;
                    continue;
                }
                let before = told;
                sleep(Duration::from_millis(100)).await;
                if !session.tell(full.clone()) && told == before {
                    break;
                }
            }
            assert!(told * full.encode().len() < 4 << 20, "{told} messages");
            assert!(!session.is_over());
            // Others are undisturbed, and so is what it asks.
            let (_send, mut recv) = stranger.opens(&Recall { content: content() }.into()).await;
            assert!(matches!(recv.next().await, Ok(Some(Message::Refused(_)))));
            // When it reads, it is told again.
            for _ in 0..told {
                assert_eq!(stranger.recv.next().await, Ok(Some(full.clone())));
            }
            assert!(session.tell(purge()));
        });
    }
}

/// Thousands of streams, opened and given up, by a member of the cluster whose requests take for ever.
#[test]
fn streams_that_are_given_up_are_not_answered_without_end() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let peer = station(&secrets, Role::Peer, lanes);
            let session = peer.mesh.session(&seed.node).await.expect("reached");
            let stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
            let mut refused = 0;
            for number in 0..3 * ANSWERS_MAX {
                let watch = Watch { plot: plot() }.into();
                // On QUIC a stream is not over before the one who was asked has ended it as well.
                let Ok(opened) = timeout(Duration::from_millis(500), stranger.opens(&watch)).await else {
                    break;
                };
                let (mut send, mut recv) = opened;
                // Whether it has been taken, or refused.
                tokio::select! {
                    () = seed.heard.until(|heard| heard.asked.get() > number as usize) => {}
                    end = recv.next() => {
                        assert_eq!(end.expect_err("refused").code(), Code::Busy);
                        refused += 1;
                    }
                }
                send.reset(Code::Other(0));
            }
            assert!(seed.heard.asked.get() <= ANSWERS_MAX as usize, "{}", seed.heard.asked.get());
            let expected = if lanes == Lanes::Tcp { 2 * ANSWERS_MAX } else { 0 };
            assert_eq!(refused, expected);
            // Another node is not disturbed; and when all is answered, there is room again.
            Station::takes(&session, 2, 0).await;
            seed.heard.kept.borrow_mut().clear();
            let (_send, mut recv) = stranger.opens(&Recall { content: content() }.into()).await;
            assert!(matches!(recv.next().await, Ok(Some(Message::Refused(_)))));
        });
    }
}

#[test]
fn streams_without_a_first_message_take_room_only_from_who_opens_them() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let peer = station(&secrets, Role::Peer, lanes);
            let session = peer.mesh.session(&seed.node).await.expect("reached");
            let stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
            let mut silent = Vec::new();
            let few = timeout(Duration::from_millis(300), async {
                for _ in 0..5000 {
                    let (mut send, recv) = stranger.connection.open().await.expect("a stream");
                    send.write(Bytes::from_static(&[0])).await.expect("written");
                    silent.push((send, recv));
                }
            });
            assert!(few.await.is_err(), "more streams than may be");
            assert!(silent.len() <= STREAMS_MAX as usize);
            Station::takes(&session, 2, 0).await;
            assert_eq!(seed.heard.asked.get(), 1);
        });
    }
}
