//! What two nodes ask and tell each other.

use super::*;

#[test]
fn two_nodes_greet_ask_and_tell() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (seed, peer) =
                (station(&secrets, Role::Seed, lanes), station(&secrets.for_peers(), Role::Peer, lanes));
            let session = peer.mesh.session(&seed.node).await.expect("reached");
            assert_eq!((session.node(), session.role()), (&seed.node, Role::Seed));
            assert_eq!((session.hello().capacity_slots, session.is_apart()), (7, false));
            seed.heard.until(|heard| heard.up.borrow().len() == 1).await;
            let back = seed.mesh.known(&peer.node.id).expect("up");
            assert_eq!((back.node(), back.role()), (&peer.node, Role::Peer));
            assert_eq!(back.lane(), session.lane());
            // From either side, on the same connection.
            Station::takes(&session, 64, 0).await;
            Station::takes(&back, 1, 0).await;
            assert!(session.tell(holds(1)) && back.tell(purge()));
            seed.heard.until(|heard| *heard.told.borrow() == [holds(1)]).await;
            peer.heard.until(|heard| *heard.told.borrow() == [purge()]).await;
            let mut refused = session.ask(Recall { content: content() }).await.expect("asked");
            let Ok(Some(Message::Refused(why))) = refused.next().await else { panic!("refused") };
            assert_eq!((why.reason(), refused.next().await), (Code::NotHeld, Ok(None)));
            back.close(Code::Other(0), "enough");
            session.over().await;
            assert!(peer.mesh.known(&seed.node.id).is_none() && !session.tell(holds(1)));
            for heard in [&seed.heard, &peer.heard] {
                heard.until(|heard| heard.down.get() == 1).await;
            }
            assert!(seed.mesh.sessions().is_empty() && peer.mesh.sessions().is_empty());
        });
    }
}

#[test]
fn bytes_of_blocks_are_counted_at_both_ends() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (seed, peer) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Peer, lanes));
            let session = peer.mesh.session(&seed.node).await.expect("reached");
            seed.heard.until(|heard| heard.up.borrow().len() == 1).await;
            let back = seed.mesh.known(&peer.node.id).expect("up");
            let (here, there) = (Peers::default(), Peers::default());
            here.up(&session);
            there.up(&back);
            Station::takes(&session, 64, 0).await;
            Station::takes(&back, 1, 0).await;
            let (many, one) = (blocks(64).len() as u64, blocks(1).len() as u64);
            let of = |peers: &Peers| peers.seen().pop().expect("one node");
            assert_eq!((of(&here).sent_bytes, of(&here).received_bytes), (one, many));
            assert_eq!((of(&there).sent_bytes, of(&there).received_bytes), (many, one));
            assert_eq!((of(&here).node, of(&here).role), (seed.node.clone(), Role::Seed));
            let sessions = of(&here).quic_sessions + of(&here).tcp_sessions;
            here.down(&session);
            assert_eq!((sessions, here.totals().sessions, here.totals().received_bytes), (1, 0, many));
        });
    }
}

#[test]
fn a_node_that_knows_its_address_only_by_others_is_known_by_what_they_see() {
    run(async {
        let secrets = secrets();
        let (seed, peer) = (
            station(&secrets, Role::Seed, Lanes::Quic),
            endpoint(identity(&secrets, Role::Peer), Lanes::Quic),
        );
        let peer = Mesh::start(peer, introduction(), Rc::<Heard>::default());
        let _session = peer.greet(seed.node.address).await.expect("reached");
        seed.heard.until(|heard| heard.up.borrow().len() == 1).await;
        assert_eq!(seed.mesh.sessions()[0].node().address, "127.0.0.1:1".parse().expect("an address"));
    });
}

#[test]
fn who_waits_for_a_message_may_stop_and_come_again() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
            let have = Have { held: BlockSet::first(9), lost: BlockSet::EMPTY, load: Load::default() };
            let frame = Message::from(have.clone()).encode();
            let session = seed.mesh.sessions()[0].clone();
            let asks = async {
                let mut exchange = session.ask(Watch { plot: plot() }).await.expect("asked");
                for _ in 0..3 {
                    // Each time one more byte has come, and is taken.
                    assert!(timeout(Duration::from_millis(30), exchange.next()).await.is_err());
                }
                assert_eq!(exchange.next().await, Ok(Some(have.into())));
                assert_eq!(exchange.next().await, Ok(None));
            };
            let answers = async {
                let (mut send, _recv) = stranger.connection.accept().await.expect("a stream");
                for part in [&frame[..1], &frame[1..9], &frame[9..12]] {
                    send.write(Bytes::copy_from_slice(part)).await.expect("written");
                    sleep(Duration::from_millis(25)).await;
                }
                sleep(Duration::from_millis(60)).await;
                send.write(frame.slice(12..)).await.expect("written");
                send.finish();
            };
            tokio::join!(asks, answers);
        });
    }
}

#[test]
fn a_block_that_was_left_half_way_ends_its_stream_and_no_other() {
    run(async {
        let secrets = secrets();
        let seed = station(&secrets, Role::Seed, Lanes::Quic);
        let stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
        let session = seed.mesh.sessions()[0].clone();
        let take = Take { plot: plot(), places: BlockSet::first(1), wait_ms: 0 };
        let mut exchange = session.ask(take).await.expect("asked");
        let (send, _recv) = stranger.connection.accept().await.expect("a stream");
        let mut send = MessageSender::new(send);
        send.write(Message::from(Blocks { first: 0, count: 2 }).encode()).await.expect("written");
        assert!(matches!(exchange.next().await, Ok(Some(Message::Blocks(_)))));
        // Blocks that were announced are read first.
        assert_eq!(exchange.next().await, Err(ExchangeError::Torn));
        send.write(Bytes::from_static(&[1; 100])).await.expect("written");
        let pool = BlockPool::new(1);
        let read = exchange.read_block(pool.take().await, BLOCK_BYTES);
        assert!(timeout(Duration::from_millis(50), read).await.is_err(), "it trickles");
        assert_eq!(exchange.next().await, Err(ExchangeError::Torn));
        assert!(pool.try_take().is_some(), "the buffer is back");
        assert!(!session.is_over());
    });
}

#[test]
fn a_message_of_a_later_version_is_passed_over_or_ends_its_stream() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let seed = station(&secrets, Role::Seed, lanes);
            let mut stranger = Stranger::greeted(identity(&secrets, Role::Peer), &seed).await;
            let later = |may_be_passed_over| {
                let head = FrameHead { payload_bytes: 3, kind: 0x7fff, may_be_passed_over };
                Bytes::from([&head.encode()[..], b"new"].concat())
            };
            let session = seed.mesh.sessions()[0].clone();
            let mut exchange = session.ask(Watch { plot: plot() }).await.expect("asked");
            let (send, mut recv) = stranger.connection.accept().await.expect("a stream");
            let mut send = MessageSender::new(send);
            for frame in [later(true), Message::from(End {}).encode(), later(false)] {
                send.write(frame).await.expect("written");
            }
            assert_eq!(exchange.next().await, Ok(Some(End {}.into())));
            let unknown = exchange.next().await.expect_err("unknown");
            assert_eq!((&unknown, unknown.code()), (&ExchangeError::Unknown(0x7fff), Code::Unknown));
            while recv.read(100).await.expect_or_reset() {}
            // And on the control stream, where what comes behind it is heard.
            stranger.send.write(later(true)).await.expect("written");
            stranger.send.write(later(false)).await.expect("written");
            stranger.says(holds(1)).await;
            seed.heard.until(|heard| *heard.told.borrow() == [holds(1)]).await;
            let Ok(Some(Message::Refused(why))) = stranger.recv.next().await else { panic!("refused") };
            assert_eq!((why.reason(), session.is_over()), (Code::Unknown, false));
        });
    }
}

/// Reading on until the other side has given the stream up with the code for what it does not know.
trait ResetUnknown {
    fn expect_or_reset(self) -> bool;
}

impl ResetUnknown for Result<Option<Bytes>, LaneError> {
    fn expect_or_reset(self) -> bool {
        match self {
            Ok(Some(_)) => true,
            Err(LaneError::Reset(code)) if code_of(code) == Code::Unknown => false,
            other => panic!("{other:?}"),
        }
    }
}
