//! Several nodes in one process, on loopback, on real lanes.

mod bounds;
mod exchanges;
mod greeting;
mod members;
mod reaching;

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

fn gossip() -> Message {
    Gossip { packet: Opaque::new(Bytes::from_static(b"packet")).expect("short") }.into()
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
