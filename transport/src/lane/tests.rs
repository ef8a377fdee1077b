//! Both lanes on loopback: the same exchanges, the same refusals, the same limits.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::steering::ShardSockets;
use super::*;
use crate::identity::{ClusterSecrets, Identities, Identity, NodeKey, Refusal};
use crate::node::Role;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// No test takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BOTH: [Lanes; 2] = [Lanes::Quic, Lanes::Tcp];

/// Runs on the runtime of a shard: with io_uring, and where that is denied without.
fn on_shard<T>(work: impl Future<Output = T>) -> T {
    let work = async { timeout(PATIENCE, work).await.expect("it hangs") };
    if io_uring::IoUring::new(2).is_ok() {
        return tokio_uring::start(work);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    on_shard(test);
}

pub(crate) fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate(SystemTime::now() - Duration::from_secs(7200)).expect("randomness")
}

pub(crate) fn identity(secrets: &ClusterSecrets, role: Role) -> Identity {
    let key = NodeKey::generate().expect("randomness");
    Identity::from_secrets(secrets, role, &key, SystemTime::now()).expect("an identity")
}

fn sockets(shards: u8) -> Vec<ShardSockets> {
    bind(LOOPBACK, NonZeroU8::new(shards).expect("some")).expect("free ports")
}

pub(crate) fn endpoint(identity: Identity, lanes: Lanes) -> Endpoint {
    let socket = sockets(1).pop().expect("one");
    Endpoint::start(socket, Arc::new(Identities::new(identity)), lanes).expect("started")
}

/// Two nodes, connected.
struct Pair {
    /// The side that has connected.
    near: Connection,
    far: Connection,
    _endpoints: [Endpoint; 2],
}

impl Pair {
    async fn new(lanes: Lanes) -> Self {
        let secrets = secrets();
        let seed = endpoint(identity(&secrets, Role::Seed), lanes);
        let peer = endpoint(identity(&secrets.for_peers(), Role::Peer), lanes);
        let (near, far) = tokio::join!(peer.connect(seed.local_addr()), seed.accept());
        let (near, far) = (near.expect("connected"), far.expect("accepted"));
        Self { near, far, _endpoints: [seed, peer] }
    }
}

/// A head of two bytes: the length of what follows.
fn length(head: [u8; 2]) -> Result<((), usize), String> {
    Ok(((), u16::from_le_bytes(head).into()))
}

fn message(text: &str) -> Bytes {
    let length = u16::try_from(text.len()).expect("short");
    [&length.to_le_bytes()[..], text.as_bytes()].concat().into()
}

async fn read(recv: &mut RecvHalf) -> Result<Option<String>, LaneError> {
    let message = recv.read_message(length).await?;
    Ok(message.map(|((), text)| String::from_utf8_lossy(&text).into_owned()))
}

/// All bulk data of a stream, put in order.
async fn bulk(recv: &mut RecvHalf, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    let mut held = 0;
    while let Some(part) = recv.read_bulk(1 << 20).await.expect("data") {
        let at = usize::try_from(part.offset).expect("small");
        all[at..at + part.bytes.len()].copy_from_slice(&part.bytes);
        held += part.bytes.len();
    }
    assert_eq!(held, bytes);
    all
}

pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    blake3::Hasher::new().update(b"pattern").finalize_xof().fill(&mut data);
    data
}

#[test]
fn the_same_exchange_on_both_lanes() {
    const BYTES: usize = 9 << 20;
    for lanes in BOTH {
        run(async {
            let Pair { near, far, _endpoints } = Pair::new(lanes).await;
            assert_eq!((near.member().role, far.member().role), (Role::Seed, Role::Peer));
            assert_ne!(near.member().id, far.member().id);
            let data = pattern(BYTES);
            let serve = async {
                let (mut send, mut recv) = far.accept().await.expect("a stream");
                let asked = read(&mut recv).await.expect("a message");
                send.write(message(&format!("here is {}", asked.expect("asked")))).await.expect("written");
                for block in data.chunks(1 << 20) {
                    send.write(Bytes::copy_from_slice(block)).await.expect("written");
                }
                send.finish();
                assert_eq!(read(&mut recv).await, Ok(None));
            };
            let ask = async {
                let (mut send, mut recv) = near.open().await.expect("a stream");
                send.write(message("nine")).await.expect("written");
                send.finish();
                assert_eq!(read(&mut recv).await, Ok(Some("here is nine".into())));
                assert_eq!(bulk(&mut recv, BYTES).await, data);
            };
            tokio::join!(serve, ask);
            near.close(7, "enough");
            let expected = LaneError::Closed { code: 7, reason: "enough".into() };
            assert_eq!(far.closed().await, expected);
            assert_eq!(far.open().await.expect_err("over"), expected);
            assert_eq!(near.closed().await, LaneError::ClosedHere);
        });
    }
}

#[test]
fn an_end_that_is_given_up_is_told() {
    for lanes in BOTH {
        run(async {
            let Pair { near, far, _endpoints } = Pair::new(lanes).await;
            let (mut send, mut recv) = near.open().await.expect("a stream");
            send.write(message("first")).await.expect("written");
            let (mut far_send, mut far_recv) = far.accept().await.expect("a stream");
            assert_eq!(read(&mut far_recv).await, Ok(Some("first".into())));
            send.reset(5);
            assert_eq!(read(&mut far_recv).await, Err(LaneError::Reset(5)));
            recv.stop(6);
            let stopped = loop {
                if let Err(stopped) = far_send.write(Bytes::from_static(&[0; 1000])).await {
                    break stopped;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(stopped, LaneError::Stopped(6));
            // What is dropped halfway ends with the code 0.
            let (mut send, _recv) = near.open().await.expect("a stream");
            send.write(message("second")).await.expect("written");
            let (_far_send, mut far_recv) = far.accept().await.expect("a stream");
            assert_eq!(read(&mut far_recv).await, Ok(Some("second".into())));
            drop(send);
            let end = read(&mut far_recv).await;
            assert!(matches!(end, Err(LaneError::Reset(0)) | Ok(None)), "{end:?}");
        });
    }
}

/// What the node that connects and the log of the other one would say.
async fn refused(server: Identity, client: Identity, lanes: Lanes) -> (LaneError, String) {
    let (server, client) = (endpoint(server, lanes), endpoint(client, lanes));
    let error = client.connect(server.local_addr()).await.expect_err("refused");
    assert!(error.is_refusal(), "{error}");
    assert!(timeout(Duration::from_millis(50), server.accept()).await.is_err(), "nobody was let in");
    (error.attempts[0].1.clone(), error.to_string())
}

#[test]
fn what_is_not_of_the_cluster_is_refused_with_what_to_do() {
    for lanes in BOTH {
        run(async {
            let ours = secrets();
            let (foreign, message) =
                refused(identity(&ours, Role::Seed), identity(&secrets(), Role::Seed), lanes).await;
            assert_eq!(foreign, LaneError::Refused(Refusal::Foreign));
            assert!(message.contains("cluster.secretFile"), "{message}");
            // Issued two days ago, when this machine's clock was right.
            let key = NodeKey::generate().expect("randomness");
            let then = SystemTime::now() - Duration::from_secs(48 * 3600);
            let late = || Identity::from_secrets(&ours, Role::Peer, &key, then).expect("an identity");
            let (expired, message) = refused(identity(&ours, Role::Seed), late(), lanes).await;
            assert_eq!(expired, LaneError::RefusedBy(Refusal::Expired));
            assert!(message.contains("clock"), "{message}");
            let (expired, _) = refused(late(), identity(&ours, Role::Seed), lanes).await;
            assert_eq!(expired, LaneError::Refused(Refusal::Expired));
            // A client that believes us and that we do not believe: the rotated secret that we have not got.
            let mut both = ours.clone();
            both.add(SystemTime::now() - Duration::from_secs(3700)).expect("room");
            let (newer, _) = refused(identity(&ours, Role::Seed), identity(&both, Role::Peer), lanes).await;
            assert_eq!(newer, LaneError::RefusedBy(Refusal::Foreign));
        });
    }
}

#[test]
fn a_forged_role_and_no_certificate_are_refused() {
    for lanes in BOTH {
        run(async {
            let ours = secrets();
            let forged = Identity::forged_seed(&ours, SystemTime::now());
            let (error, _) = refused(identity(&ours, Role::Seed), forged, lanes).await;
            assert_eq!(error, LaneError::RefusedBy(Refusal::Role));
            let forged = Identity::forged_seed(&ours, SystemTime::now());
            let (error, _) = refused(forged, identity(&ours, Role::Peer), lanes).await;
            assert_eq!(error, LaneError::Refused(Refusal::Role));
            let bare = Identity::without_certificate(&ours, SystemTime::now());
            let (error, message) = refused(identity(&ours, Role::Seed), bare, lanes).await;
            assert_eq!(error, LaneError::RefusedBy(Refusal::Missing));
            assert!(message.contains("cluster.tls"), "{message}");
        });
    }
}

#[test]
fn secrets_are_rotated_while_connections_live() {
    for lanes in BOTH {
        run(async {
            let old = secrets();
            let mut both = old.clone();
            both.add(SystemTime::now() - Duration::from_secs(3700)).expect("room");
            let key = NodeKey::generate().expect("randomness");
            let identities = Arc::new(Identities::new(
                Identity::from_secrets(&old, Role::Seed, &key, SystemTime::now()).expect("an identity"),
            ));
            let socket = sockets(1).pop().expect("one");
            let seed = Endpoint::start(socket, Arc::clone(&identities), lanes).expect("started");
            let before = endpoint(identity(&old, Role::Peer), lanes);
            let (near, far) = tokio::join!(before.connect(seed.local_addr()), seed.accept());
            let (near, far) = (near.expect("connected"), far.expect("accepted"));
            // A node that was given the new file first is refused until this one has it too.
            let after = endpoint(identity(&both, Role::Peer), lanes);
            assert!(after.connect(seed.local_addr()).await.expect_err("unknown").is_refusal());
            identities
                .replace(Identity::from_secrets(&both, Role::Seed, &key, SystemTime::now()).expect("valid"));
            let (new, accepted) = tokio::join!(after.connect(seed.local_addr()), seed.accept());
            let new = new.expect("connected");
            assert_eq!(new.member().id, near.member().id, "the node is the same");
            drop(accepted);
            // And what stood before stands.
            let (mut send, _recv) = near.open().await.expect("a stream");
            send.write(message("still here")).await.expect("written");
            let (_far_send, mut recv) = far.accept().await.expect("a stream");
            assert_eq!(read(&mut recv).await, Ok(Some("still here".into())));
        });
    }
}

#[test]
fn a_slow_reader_holds_back_its_stream_and_no_other() {
    for lanes in BOTH {
        run(async {
            let Pair { near, far, _endpoints } = Pair::new(lanes).await;
            let written = Arc::new(AtomicU64::new(0));
            let (mut send, _recv) = near.open().await.expect("a stream");
            let counting = Arc::clone(&written);
            let flood = tokio::spawn(async move {
                let block = Bytes::from(vec![1; 64 << 10]);
                while send.write(block.clone()).await.is_ok() {
                    counting.fetch_add(block.len() as u64, Ordering::Relaxed);
                }
            });
            let (_far_send, mut slow) = far.accept().await.expect("a stream");
            // Until nothing more is taken.
            let mut before = u64::MAX;
            while before != written.load(Ordering::Relaxed) {
                before = written.load(Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            // What the receiver allows, and what the sender itself keeps.
            let most = match lanes {
                Lanes::Quic => CONNECTION_WINDOW_BYTES,
                _ => STREAM_WINDOW_BYTES + (256 << 10),
            };
            assert!(before > 0 && before <= u64::from(most) + (64 << 10), "{lanes:?}: {before} bytes");
            // Another stream goes on.
            let (mut send, _recv2) = near.open().await.expect("a stream");
            send.write(message("beside it")).await.expect("written");
            let (_far_send2, mut recv) = far.accept().await.expect("a stream");
            assert_eq!(read(&mut recv).await, Ok(Some("beside it".into())));
            // And the slow one, once it reads.
            let mut held = 0;
            while held < 4 << 20 {
                held += slow.read_bulk(1 << 20).await.expect("data").expect("more").bytes.len();
            }
            slow.stop(0);
            flood.await.expect("it ends");
        });
    }
}

#[test]
fn more_streams_than_allowed_wait() {
    for lanes in BOTH {
        run(async {
            let Pair { near, far, _endpoints } = Pair::new(lanes).await;
            let mut open = Vec::new();
            // On QUIC the stream that began the connection still counts.
            let room = if lanes == Lanes::Quic { STREAMS_MAX - 1 } else { STREAMS_MAX };
            for number in 0..room {
                let (mut send, recv) = near.open().await.expect("a stream");
                send.write(message(&number.to_string())).await.expect("written");
                open.push((send, recv));
            }
            let waits = near.open();
            tokio::pin!(waits);
            assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "one too many");
            // quinn tells of room only when there is some more of it.
            for (number, (mut send, mut recv)) in
                open.drain(..if lanes == Lanes::Quic { STREAMS_MAX as usize / 4 } else { 1 }).enumerate()
            {
                let (mut far_send, mut far_recv) = far.accept().await.expect("a stream");
                assert_eq!(read(&mut far_recv).await, Ok(Some(number.to_string())));
                // Each side is the last one once.
                if number % 2 == 0 {
                    far_send.finish();
                    assert_eq!(read(&mut recv).await, Ok(None));
                    send.finish();
                    assert_eq!(read(&mut far_recv).await, Ok(None));
                } else {
                    send.finish();
                    assert_eq!(read(&mut far_recv).await, Ok(None));
                    far_send.finish();
                    assert_eq!(read(&mut recv).await, Ok(None));
                }
            }
            waits.await.expect("there is room again");
        });
    }
}

#[test]
fn a_message_that_promises_too_much_is_refused_unread() {
    for lanes in BOTH {
        run(async {
            let Pair { near, far, _endpoints } = Pair::new(lanes).await;
            let huge = |head: [u8; 8]| Ok::<_, String>(((), u64::from_le_bytes(head) as usize));
            for (promised, expected) in
                [(u64::MAX, usize::MAX), (MESSAGE_BYTES_MAX as u64, MESSAGE_BYTES_MAX)]
            {
                let (mut send, _recv) = near.open().await.expect("a stream");
                send.write(Bytes::copy_from_slice(&promised.to_le_bytes())).await.expect("written");
                let (_far_send, mut recv) = far.accept().await.expect("a stream");
                let max = MESSAGE_BYTES_MAX - 8;
                let refused = recv.read_message(huge).await;
                assert_eq!(refused, Err(LaneError::MessageTooLong { bytes: expected, max }));
            }
            let (mut send, _recv) = near.open().await.expect("a stream");
            send.write(Bytes::from_static(&[9, 0, b'c', b'u', b't'])).await.expect("written");
            send.finish();
            let (_far_send, mut recv) = far.accept().await.expect("a stream");
            assert_eq!(read(&mut recv).await, Err(LaneError::CutShort));
        });
    }
}

/// Each shard's runtime on a thread of its own, as in the daemon.
fn on_shards<T: Send + 'static>(
    sockets: Vec<ShardSockets>,
    identities: &Arc<Identities>,
    work: impl AsyncFn(u8, Endpoint) -> T + Copy + Send + 'static,
) -> Vec<T> {
    let threads: Vec<_> = sockets
        .into_iter()
        .map(|socket| {
            let identities = Arc::clone(identities);
            std::thread::spawn(move || {
                on_shard(async move {
                    let shard = socket.shard;
                    let endpoint = Endpoint::start(socket, identities, Lanes::Quic).expect("started");
                    work(shard, endpoint).await
                })
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

#[test]
fn every_packet_comes_to_the_shard_of_its_connection() {
    const SHARDS: u8 = 3;
    const CONNECTIONS: usize = 20;
    static HERE: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    static COUNTED: AtomicU64 = AtomicU64::new(0);
    // A socket that is closed before the others takes its number with it.
    async fn counted(endpoint: &Endpoint) -> PacketCounts {
        let counts = endpoint.packet_counts();
        COUNTED.fetch_add(1, Ordering::Relaxed);
        while COUNTED.load(Ordering::Relaxed) < 2 * u64::from(SHARDS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        counts
    }
    let secrets = secrets();
    let (near, far) = (sockets(SHARDS), sockets(SHARDS));
    let remote = far[0].local_addr().expect("bound");
    assert_eq!(
        near.iter().map(|socket| socket.local_addr().expect("bound")).collect::<Vec<_>>(),
        vec![near[0].local_addr().expect("bound"); 3]
    );
    let (peers, seeds) = (
        Arc::new(Identities::new(identity(&secrets, Role::Peer))),
        Arc::new(Identities::new(identity(&secrets, Role::Seed))),
    );
    let all = u64::from(SHARDS) * CONNECTIONS as u64;
    let serving = std::thread::spawn(move || {
        on_shards(far, &seeds, async move |_, endpoint| {
            let mut held = Vec::new();
            while DONE.load(Ordering::Relaxed) < all {
                let Ok(accepted) = timeout(Duration::from_millis(50), endpoint.accept()).await else {
                    continue;
                };
                let connection = accepted.expect("open");
                HERE.fetch_add(1, Ordering::Relaxed);
                held.push(connection.clone());
                tokio::spawn(async move {
                    let (mut send, mut recv) = connection.accept().await.expect("a stream");
                    send.write(Bytes::from(vec![1; 256 << 10])).await.expect("written");
                    send.finish();
                    while recv.read_bulk(1 << 20).await.is_ok_and(|part| part.is_some()) {}
                });
            }
            (held.len(), counted(&endpoint).await)
        })
    });
    let asked = on_shards(near, &peers, async move |_, endpoint| {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let connection = endpoint.connect(remote).await.expect("connected");
            let (mut send, mut recv) = connection.open().await.expect("a stream");
            send.write(Bytes::from(vec![2; 256 << 10])).await.expect("written");
            send.finish();
            bulk(&mut recv, 256 << 10).await;
            DONE.fetch_add(1, Ordering::Relaxed);
            held.push(connection);
        }
        while DONE.load(Ordering::Relaxed) < all {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        counted(&endpoint).await
    });
    let served = serving.join().expect("no panic");
    assert_eq!(HERE.load(Ordering::Relaxed), all);
    for counts in asked.iter().chain(served.iter().map(|(_, counts)| counts)) {
        assert!(counts.received > 100, "{asked:?} {served:?}");
        assert_eq!(counts.misdirected, 0, "{asked:?} {served:?}");
    }
    println!("{all} connections between {SHARDS} and {SHARDS} shards: {asked:?} {served:?}");
}

/// A port whose UDP side takes everything and says nothing, and whose TCP side is that of `to`.
pub(crate) async fn without_udp(to: SocketAddr) -> UdpSocket {
    let (hole, listener) = loop {
        let hole = UdpSocket::bind(LOOPBACK).expect("a port");
        if let Ok(listener) = tokio::net::TcpListener::bind(hole.local_addr().expect("bound")).await {
            break (hole, listener);
        }
    };
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(to).await.expect("it listens");
            tokio::spawn(async move { _ = tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    hole
}

#[test]
fn where_udp_is_blocked_tcp_is_taken() {
    run(async {
        let secrets = secrets();
        let seed = endpoint(identity(&secrets, Role::Seed), Lanes::Auto);
        let hole = without_udp(seed.local_addr()).await;
        let peer = endpoint(identity(&secrets, Role::Peer), Lanes::Auto);
        let began = Instant::now();
        let connection = peer.connect(hole.local_addr().expect("bound")).await.expect("connected");
        let took = began.elapsed();
        assert_eq!(connection.kind(), LaneKind::Tcp);
        // QUIC alone would have waited for the handshake's end.
        assert!(QUIC_PATIENCE <= took && took < HANDSHAKE_TIMEOUT, "{took:?}");
        println!("TCP stood after {took:?}");
        let direct = peer.connect(seed.local_addr()).await.expect("connected");
        assert_eq!(direct.kind(), LaneKind::Quic);
    });
}

#[test]
fn nobody_there_is_said_of_both_lanes() {
    run(async {
        let peer = endpoint(identity(&secrets(), Role::Peer), Lanes::Auto);
        let hole = UdpSocket::bind(LOOPBACK).expect("a port");
        let error = peer.connect(hole.local_addr().expect("bound")).await.expect_err("nobody");
        let lanes: Vec<_> = error.attempts.iter().map(|(lane, _)| *lane).collect();
        assert!(lanes.contains(&LaneKind::Quic) && lanes.contains(&LaneKind::Tcp), "{error}");
        assert!(
            !error.is_refusal() && error.to_string().contains("cannot connect to node 127.0.0.1:"),
            "{error}"
        );
    });
}

/// A member of the cluster that speaks TLS and breaks the rules of the lane behind it.
async fn hostile(parts: Vec<u8>) -> LaneError {
    let secrets = secrets();
    let seed = endpoint(identity(&secrets, Role::Seed), Lanes::Tcp);
    let hostile = identity(&secrets, Role::Peer);
    let tcp = tokio::net::TcpStream::connect(seed.local_addr()).await.expect("connected");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(hostile.client()));
    let name = rustls::pki_types::ServerName::try_from("x").expect("a name");
    let mut tls = connector.connect(name, tcp).await.expect("a handshake");
    let hello = [&[0, 1, 0, 0, 0, 6, 0, 0, 0][..], b"darter"].concat();
    tls.write_all(&hello).await.expect("written");
    tls.flush().await.expect("flushed");
    let connection = seed.accept().await.expect("accepted");
    let _ = tls.write_all(&parts).await;
    let _ = tls.flush().await;
    connection.closed().await
}

#[test]
fn who_breaks_the_rules_is_cut_off() {
    let part = |kind: u8, stream: u32, value: u32, payload: &[u8]| {
        [&[kind][..], &stream.to_le_bytes(), &value.to_le_bytes(), payload].concat()
    };
    let check = |parts: Vec<u8>, expected: Violation| {
        run(async {
            assert_eq!(hostile(parts).await, LaneError::Violation(expected));
        });
    };
    let many = (0..=STREAMS_MAX).flat_map(|number| part(0, 3 + 2 * number, 1, b"x")).collect();
    check(many, Violation::TooManyStreams);
    check(part(0, 3, u32::MAX, b""), Violation::PartLength(u32::MAX));
    check(part(0, 3, 0, b""), Violation::PartLength(0));
    check(part(9, 3, 0, b""), Violation::Kind(9));
    check(part(0, u32::MAX, 1, b"x"), Violation::TooManyStreams);
    check(part(0, 0, 1, b"x"), Violation::Stream(0));
    check(part(0, 2, 1, b"x"), Violation::Stream(2));
    check(part(4, 0, u32::MAX, b""), Violation::Credit);
    check(part(4, 0, 1 << 20, b""), Violation::Credit);
    let flood = part(0, 3, 64 << 10, &[0; 64 << 10]).repeat(17);
    check(flood, Violation::BeyondCredit);
    let dust = part(0, 3, 1, b"x").repeat(20_000);
    check(dust, Violation::BeyondCredit);
    let twice = [part(1, 3, 0, b""), part(1, 3, 0, b"")].concat();
    check(twice, Violation::Stream(3));
}

#[test]
fn jumbo_frames_keep_their_size() {
    // The MTU of loopback is 65536: quinn goes up to what it is allowed, 8972.
    run(async {
        let Pair { near, far, _endpoints } = Pair::new(Lanes::Quic).await;
        let (mut send, _recv) = near.open().await.expect("a stream");
        let flood = tokio::spawn(async move {
            let block = Bytes::from(vec![1; 1 << 20]);
            for _ in 0..48 {
                send.write(block.clone()).await.expect("written");
            }
            send.finish();
        });
        let (_far_send, mut recv) = far.accept().await.expect("a stream");
        let mut held = 0;
        while let Some(part) = recv.read_bulk(1 << 20).await.expect("data") {
            held += part.bytes.len();
        }
        assert_eq!(held, 48 << 20);
        flood.await.expect("sent");
        let stats = near.quic_stats().expect("on QUIC");
        assert!(stats.path.current_mtu > 8000, "{:?}", stats.path);
        assert_eq!(stats.path.black_holes_detected, 0, "{:?}", stats.path);
    });
}
