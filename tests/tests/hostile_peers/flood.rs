//! A peer with a right certificate that says too much, or what is nothing: the seed's memory stays bounded, nothing in it
//! panics, nobody else is disturbed or believed to be bad.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use darter_tests::intruder::Intruder;
use darter_transport::block_set::BlockSet;
use darter_transport::boot_list::BootList;
use darter_transport::lane::Lanes;
use darter_transport::mesh::SESSIONS_OF_NODE_MAX;
use darter_transport::node::NodeId;
use darter_transport::span::{Plot, SpanIndex};
use darter_transport::wire::{
    BootRun, Booted, Change, Code, Complain, Fault, FindParents, FrameHead, HEAD_BYTES, Holds, List, Load,
    Message, Opaque, Take, Want, Watch,
};
use tokio::time::timeout;

use super::lossy::LossyPort;
use super::{MIB, Scene, identity, pull, runtime};

/// What the seed may have more than before, in KiB. By `docs/peer-protocol.md` a node that does its worst has 16 384 plots of
/// its own there (45 MiB) and 3 MiB ahead on each of the connections below.
const GROWTH_MAX_KIB: u64 = 128 << 10;
/// Registrations of 64 plots each. With all of them the map would be 600 MiB.
const REGISTRATIONS: u32 = 4000;
const STREAMS: u32 = 3000;
/// Connections on which data with gaps comes.
const WITH_GAPS: usize = 8;

#[test]
fn what_a_hostile_peer_sends_takes_bounded_memory_and_disturbs_nobody() {
    let mut scene = Scene::new();
    let (holder, witness) = (scene.peer(), scene.peer());
    let blob = scene.origin.blob(1, 4 * MIB);
    pull(&holder, &blob);
    let at: SocketAddr = scene.at.parse().expect("an address");
    let hostile = Hostile {
        intruder: Box::new(|| Intruder::new(identity(&scene.peer_secrets(), SystemTime::now()), Lanes::Quic)),
        at,
        plot: scene.plot(&blob, 0),
        honest: node_of(&holder.peers()["node"]["id"]),
    };
    let before = scene.seed.memory_kib("RssAnon");
    let mut most = before;
    thread::scope(|scope| {
        let attack = scope.spawn(|| runtime().block_on(hostile.does_its_worst()));
        scene.pull_during(&witness, &attack, || most = most.max(scene.seed.memory_kib("RssAnon")));
        attack.join().expect("each attack is answered as it should be");
    });
    drop(hostile);
    println!("the seed had {} KiB more than before at most", most - before);
    assert!(most - before <= GROWTH_MAX_KIB, "{} KiB more than before", most - before);
    scene.check_the_seed();
    let log = scene.seed.log();
    assert!(!log.contains("wrong bytes"), "who was slandered is believed to be bad: {log}");
    let asked = scene.origin.blob_bytes();
    pull(&scene.peer(), &blob);
    assert_eq!(scene.origin.blob_bytes(), asked, "what is held is still found");
}

fn node_of(id: &serde_json::Value) -> NodeId {
    let hex = id.as_str().expect("a node has an id");
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal");
    NodeId::from_bytes(std::array::from_fn(byte))
}

struct Hostile<'a> {
    intruder: Box<dyn Fn() -> Intruder + Send + Sync + 'a>,
    at: SocketAddr,
    /// What the seed has in fact.
    plot: Plot,
    /// Who holds it in fact.
    honest: NodeId,
}

impl Hostile<'_> {
    async fn does_its_worst(&self) {
        let intruder = (self.intruder)();
        self.asks_for_what_cannot_be(&intruder).await;
        self.sends_what_is_no_message(&intruder).await;
        self.opens_streams(&intruder).await;
        self.registers_without_end(&intruder).await;
        self.slanders(&intruder).await;
        self.leaves_gaps(&intruder).await;
        self.comes_again_and_again(&intruder).await;
    }

    fn far(&self, span: u32) -> Plot {
        Plot { span: SpanIndex::from_number(span), ..self.plot }
    }

    /// Every number as large as it can be written. Each is answered, on a session that stands.
    async fn asks_for_what_cannot_be(&self, intruder: &Intruder) {
        let entered = intruder.enter(self.at).await;
        let everyone = || List::first_of((0..=u8::MAX).map(|number| NodeId::from_bytes([number; 32])));
        let errand = Opaque::new(Bytes::from(vec![b'{'; 24 << 10])).expect("as long as it may be");
        for span in [1, 1 << 22, u32::MAX - 1, u32::MAX] {
            let (plot, places) = (self.far(span), BlockSet::full());
            let want = Want {
                plot,
                places,
                any: true,
                forwarded: true,
                stand_in: true,
                failed: everyone(),
                errand: errand.clone(),
            };
            let runs: BootList =
                List::first_of((0..5000).map(|_| BootRun { first: u32::MAX, count: u16::MAX }));
            let requests: [Message; 6] = [
                Want { any: false, ..want.clone() }.into(),
                want.into(),
                Take { plot, places, wait_ms: u16::MAX }.into(),
                FindParents { plot, known: everyone(), wanted: u8::MAX }.into(),
                Watch { plot }.into(),
                Booted { content: plot.content, runs }.into(),
            ];
            for request in requests {
                let name = request.name();
                let answer = entered.ask(request).await;
                assert!(matches!(answer, Ok(Some(_))), "{name} of span {span}: {answer:?}");
            }
        }
    }

    /// Sets of blocks of the wrong length, frames that promise too much. Each ends its session, as malformed.
    async fn sends_what_is_no_message(&self, intruder: &Intruder) {
        let whole = Message::from(Take { plot: self.plot, places: BlockSet::EMPTY, wait_ms: 0 }).encode();
        // Its last fields are the places, of which there are none, and two bytes of milliseconds.
        let before_places = whole.slice(HEAD_BYTES..whole.len() - 4);
        let places =
            |end: u16, bits: &[u8]| frame(0x0021, &[&before_places, &end.to_le_bytes()[..], bits].concat());
        let wrong = [
            places(1025, &[0xff; 129]),
            places(u16::MAX, &[0xff; 8192]),
            places(u16::MAX, &[]),
            places(1024, &[0xff; 5]),
            // Its highest bit is not set; one beyond it is.
            places(9, &[0xff, 0]),
            places(3, &[0xff]),
            frame(0x0021, &[]),
            Bytes::from_static(&[0xff; HEAD_BYTES]),
            Bytes::from_static(b"GET / HTTP/1.1\r\nHost: seed\r\n\r\n"),
        ];
        let malformed = u32::from(Code::Malformed.number());
        for (number, bytes) in wrong.into_iter().enumerate() {
            let asked = intruder.enter(self.at).await;
            asked.send(bytes.clone()).await.expect("the session stands");
            assert_eq!(asked.is_closed_with().await, malformed, "the wrong frame {number}");
            let mut told = intruder.enter(self.at).await;
            told.control.send.write(bytes).await.expect("the session stands");
            assert_eq!(told.is_closed_with().await, malformed, "the wrong frame {number}, told");
        }
    }

    /// Thousands that are begun and given up, and as many as may be that are begun and left.
    async fn opens_streams(&self, intruder: &Intruder) {
        let mut left = Vec::new();
        let entered = intruder.enter(self.at).await;
        let take =
            Message::from(Take { plot: self.plot, places: BlockSet::full(), wait_ms: u16::MAX }).encode();
        for number in 0..STREAMS {
            let bytes = match number % 3 {
                0 => take.clone(),
                1 => take.slice(..HEAD_BYTES - 1),
                _ => take.slice(..take.len() - 1),
            };
            let mut stream = entered.send(bytes).await.expect("one more may be opened when one has ended");
            if number % 3 == 0 {
                let answer = stream.next().await;
                assert!(matches!(answer, Ok(Some(Message::Blocks(_) | Message::Refused(_)))), "{answer:?}");
            }
            // Dropped here, with blocks on their way and their upload under way.
        }
        for _ in 0..4 {
            let held = intruder.enter(self.at).await;
            let mut streams = Vec::new();
            // One of the 128 is the control stream.
            for _ in 0..100 {
                streams.push(held.send(take.clone()).await.expect("as many may be open"));
            }
            left.push((held, streams));
        }
        let answer = entered.ask(Take { plot: self.plot, places: BlockSet::EMPTY, wait_ms: 0 }).await;
        assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
    }

    async fn registers_without_end(&self, intruder: &Intruder) {
        let mut entered = intruder.enter(self.at).await;
        for batch in 0..REGISTRATIONS {
            let change = |place| Change {
                plot: self.far(batch * 64 + place),
                held: BlockSet::full(),
                lost: BlockSet::EMPTY,
            };
            let changes = List::first_of((0..64).map(change));
            let holds = Holds { changes, load: Load::default() };
            entered.control.say(&holds.into()).await.expect("the session stands");
        }
        for batch in 0..200 {
            let Ok(_) = entered.ask(Watch { plot: self.far(batch) }).await else {
                panic!("the session stands")
            };
        }
    }

    /// Says of an honest node that it sends wrong bytes, of blocks that it has and of others.
    async fn slanders(&self, intruder: &Intruder) {
        let mut entered = intruder.enter(self.at).await;
        for place in (0..2000).chain([u16::MAX]) {
            let (parent, plot, fault) = (self.honest, self.plot, Fault::WrongBytes);
            let complaint = Complain { parent, plot, place, fault };
            entered.control.say(&complaint.into()).await.expect("the session stands");
        }
        let answer = entered.ask(Take { plot: self.plot, places: BlockSet::one(0), wait_ms: 0 }).await;
        assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
    }

    /// As much as may be ahead, with holes in it: every other packet is lost on the way, again and again.
    async fn leaves_gaps(&self, intruder: &Intruder) {
        let port = LossyPort::before(self.at).await;
        let mut sessions = Vec::new();
        for _ in 0..WITH_GAPS {
            sessions.push(intruder.enter(port.address()).await);
        }
        port.lose(true);
        let sending = async {
            let mut streams = Vec::new();
            for entered in &sessions {
                for _ in 0..3 {
                    // The head of the longest message there is.
                    let head = frame(0x0021, &[]).slice(4..);
                    let head = [&(96_u32 << 10).to_le_bytes()[..], &head].concat();
                    let mut stream = entered.send(head.into()).await.expect("the session stands");
                    let filled = stream.send.write(Bytes::from(vec![0; MIB as usize]));
                    // It gets no further than the windows let it.
                    let _ = timeout(Duration::from_millis(200), filled).await;
                    streams.push(stream);
                }
            }
        };
        sending.await;
        assert!(port.lost() > 100, "{} packets were lost", port.lost());
    }

    /// More connections than one node may have.
    async fn comes_again_and_again(&self, intruder: &Intruder) {
        let mut connections = Vec::new();
        for _ in 0..SESSIONS_OF_NODE_MAX + 20 {
            if let Ok(connection) = intruder.connect(self.at).await {
                connections.push(connection);
            }
        }
        let closed = async {
            loop {
                let mut over = 0;
                for connection in &connections {
                    over += usize::from(timeout(Duration::ZERO, connection.closed()).await.is_ok());
                }
                if over >= 20 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(super::PATIENCE, closed).await.expect("what is too much is closed");
    }
}

fn frame(kind: u16, payload: &[u8]) -> Bytes {
    let payload_bytes = u32::try_from(payload.len()).expect("short");
    let head = FrameHead { payload_bytes, kind, may_be_passed_over: false }.encode();
    [&head[..], payload].concat().into()
}
