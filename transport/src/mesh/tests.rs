//! Several nodes in one process, on loopback, on real lanes.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use darter_engine::buffer::BlockPool;
use darter_engine::{BLOCK_BYTES, ContentId, Scope};
use tokio::time::sleep;

use super::*;
use crate::block_set::BlockSet;
use crate::exchange::{ExchangeError, code_of};
use crate::identity::{ClusterSecrets, Identity};
use crate::lane::tests::{BOTH, endpoint, identity, pattern, run, secrets, without_udp};
use crate::lane::{LaneError, STREAMS_MAX};
use crate::message_stream::{MessageReceiver, MessageSender};
use crate::peers::Peers;
use crate::session::ANSWERS_MAX;
use crate::span::{Plot, SpanIndex};
use crate::wire::*;

/// A node, and all that was said to it.
struct Station {
    mesh: Rc<Mesh>,
    heard: Rc<Heard>,
    node: Node,
}

#[derive(Default)]
struct Heard {
    up: RefCell<Vec<Rc<Session>>>,
    down: Cell<usize>,
    told: RefCell<Vec<Message>>,
    asked: Cell<usize>,
    /// Exchanges of `Watch`, which are not answered.
    kept: RefCell<Vec<Exchange>>,
    news: Notify,
}

impl Service for Heard {
    fn up(&self, session: &Rc<Session>) {
        self.up.borrow_mut().push(Rc::clone(session));
        self.news.notify_waiters();
    }

    fn down(&self, session: &Rc<Session>) {
        assert!(session.is_over());
        self.down.set(self.down.get() + 1);
        self.news.notify_waiters();
    }

    fn told(&self, _: &Rc<Session>, message: Message) {
        self.told.borrow_mut().push(message);
        self.news.notify_waiters();
    }

    fn asked(&self, _: &Rc<Session>, request: Message, mut exchange: Exchange) {
        self.asked.set(self.asked.get() + 1);
        self.news.notify_waiters();
        match request {
            // Blocks as `blocks` gives them, after so many milliseconds.
            Message::Take(take) => {
                _ = spawn_local(async move {
                    sleep(Duration::from_millis(take.wait_ms.into())).await;
                    let count = take.places.len();
                    let slices = blocks(count).chunks(100_000).map(Bytes::copy_from_slice).collect();
                    exchange.send_blocks(0..count, slices).await.expect("sent");
                    exchange.send(End {}).await.expect("sent");
                    exchange.done().await.expect("taken");
                })
            }
            Message::Watch(_) => self.kept.borrow_mut().push(exchange),
            _ => _ = spawn_local(exchange.refuse(Refused::of(Code::NotHeld, "not here"))),
        }
    }
}

/// The bytes of the first blocks; the last one is short.
fn blocks(count: u32) -> Vec<u8> {
    pattern((count * BLOCK_BYTES) as usize - 1000)
}

fn introduction() -> Introduction {
    Introduction {
        address: "0.0.0.0:1".parse().expect("an address"),
        zone: Text::cut("here"),
        capacity_slots: 7,
        shards: 1,
        software: Text::cut("darter test"),
    }
}

fn started(endpoint: Endpoint) -> Station {
    let (address, member) = (endpoint.local_addr(), endpoint.own());
    let heard = Rc::<Heard>::default();
    let introduction = Introduction { address, ..introduction() };
    let mesh = Mesh::start(endpoint, introduction, Rc::clone(&heard) as _);
    Station { mesh, heard, node: Node { id: member.id, address, zone: Text::cut("here") } }
}

fn station(secrets: &ClusterSecrets, role: Role, lanes: Lanes) -> Station {
    started(endpoint(identity(secrets, role), lanes))
}

impl Heard {
    /// Waits until it is so.
    async fn until(&self, so: impl Fn(&Self) -> bool) {
        loop {
            let news = self.news.notified();
            if so(self) {
                return;
            }
            news.await;
        }
    }
}

impl Station {
    /// Asks for blocks, and gets those that [`blocks`] gives.
    async fn takes(session: &Session, count: u32, wait_ms: u16) {
        let places = BlockSet::first(count);
        let mut exchange = session.ask(Take { plot: plot(), places, wait_ms }).await.expect("asked");
        let announced = Blocks { first: 0, count: count as u16 };
        assert_eq!(exchange.next().await, Ok(Some(announced.into())));
        let (pool, mut expected) = (BlockPool::new(1), &blocks(count)[..]);
        for _ in 0..count {
            let bytes = expected.len().min(BLOCK_BYTES as usize);
            let block = exchange.read_block(pool.take().await, bytes as u32).await.expect("a block");
            assert_eq!(block, expected[..bytes]);
            expected = &expected[bytes..];
        }
        assert_eq!(exchange.next().await, Ok(Some(End {}.into())));
        assert_eq!(exchange.next().await, Ok(None));
    }
}

fn content() -> ContentId {
    ContentId::from_bytes([7; 32])
}

fn plot() -> Plot {
    Plot { content: content(), scope: Scope::Verified, span: SpanIndex::FIRST }
}

fn holds(times: usize) -> Message {
    let change = Change { plot: plot(), held: BlockSet::first(1), lost: BlockSet::EMPTY };
    Holds { changes: List::first_of(vec![change; times]), load: Load::default() }.into()
}

fn purge() -> Message {
    Purge { content: content(), scope: Scope::Verified }.into()
}

/// What a node says that may say anything.
fn hello(role: Role) -> Hello {
    Hello { version_oldest: 1, version_newest: 1, role, ..crate::wire::tests::hello() }
}

/// A member of the cluster without a mesh: says what it likes.
struct Stranger {
    connection: Connection,
    send: MessageSender,
    recv: MessageReceiver,
    endpoint: Rc<Endpoint>,
}

impl Stranger {
    /// Connects and opens the control stream.
    async fn comes(endpoint: &Rc<Endpoint>, to: &Station) -> Self {
        Self::comes_to(endpoint, to.node.address).await
    }

    async fn comes_to(endpoint: &Rc<Endpoint>, address: SocketAddr) -> Self {
        let connection = endpoint.connect(address).await.expect("connected");
        let (send, recv) = connection.open().await.expect("a stream");
        let recv = MessageReceiver::new(recv, Role::Seed);
        Self { connection, send: MessageSender::new(send), recv, endpoint: Rc::clone(endpoint) }
    }

    /// And says `Hello` as it should.
    async fn greeted(identity: Identity, to: &Station) -> Self {
        let role = identity.own().role;
        let lanes = to.mesh.endpoint.lanes();
        let mut stranger = Self::comes(&Rc::new(endpoint(identity, lanes)), to).await;
        stranger.says(hello(role)).await;
        let answer = stranger.recv.next().await.expect("a message").expect("one");
        assert!(matches!(answer, Message::Hello(_)), "{answer:?}");
        stranger
    }

    async fn says(&mut self, message: impl Into<Message>) {
        // Whoever was cut off already is not heard.
        _ = self.send.write(message.into().encode()).await;
    }

    async fn opens(&self, message: &Message) -> (MessageSender, MessageReceiver) {
        let (send, recv) = self.connection.open().await.expect("a stream");
        let mut send = MessageSender::new(send);
        _ = send.write(message.encode()).await;
        (send, MessageReceiver::new(recv, Role::Seed))
    }

    /// With what code it was cut off.
    async fn cut_off(&self) -> (Code, String) {
        match self.connection.closed().await {
            LaneError::Closed { code, reason } => (code_of(code), reason),
            other => panic!("{other}"),
        }
    }
}

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

fn gossip() -> Message {
    Gossip { packet: Opaque::new(Bytes::from_static(b"packet")).expect("short") }.into()
}

#[test]
fn the_membership_has_a_connection_of_its_own() {
    for lanes in BOTH {
        run(async {
            let secrets = secrets();
            let (one, other) = (station(&secrets, Role::Seed, lanes), station(&secrets, Role::Seed, lanes));
            let apart = one.mesh.apart(other.node.address).await.expect("reached");
            assert!(apart.is_apart() && apart.node() == &other.node);
            let mut exchange = apart.ask(gossip()).await.expect("asked");
            assert!(matches!(exchange.next().await, Ok(Some(Message::Refused(_)))));
            assert_eq!(other.heard.asked.get(), 1);
            // Nobody takes it for one on which data moves.
            assert!(other.mesh.sessions().is_empty() && one.mesh.sessions().is_empty());
            let session = one.mesh.session(&other.node).await.expect("reached");
            assert!(!session.is_apart() && one.mesh.sessions().len() == 1);
            other.heard.until(|heard| heard.up.borrow().len() == 1).await;
            // It ends with its holder.
            let line = Rc::clone(&apart.line);
            let open = || other.mesh.state.borrow().lines.len();
            assert_eq!(open(), 2);
            drop((exchange, apart));
            assert!(matches!(line.connection.closed().await, LaneError::ClosedHere));
            while open() > 1 {
                sleep(Duration::from_millis(5)).await;
            }
            Station::takes(&session, 1, 0).await;
            assert_eq!(other.heard.down.get(), 0);
        });
    }
}

#[test]
fn only_seeds_are_members_and_only_gossip_is_said_apart() {
    run(async {
        let secrets = secrets();
        let seed = station(&secrets, Role::Seed, Lanes::Quic);
        let peer = station(&secrets, Role::Peer, Lanes::Quic);
        let refused = peer.mesh.apart(seed.node.address).await.expect_err("a peer");
        assert_eq!(refused.code(), Code::Forbidden, "{refused}");
        let refused = seed.mesh.apart(peer.node.address).await.expect_err("a peer");
        assert_eq!(refused.code(), Code::Forbidden, "{refused}");
        let other = station(&secrets, Role::Seed, Lanes::Quic);
        let apart = other.mesh.apart(seed.node.address).await.expect("reached");
        let _exchange = apart.ask(Watch { plot: plot() }).await;
        apart.over().await;
        let apart = other.mesh.apart(seed.node.address).await.expect("reached");
        assert!(apart.tell(holds(1)));
        apart.over().await;
        assert!(seed.heard.told.borrow().is_empty() && seed.heard.asked.get() == 0);
    });
}
