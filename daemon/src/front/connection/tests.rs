use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;

use super::*;
use crate::front::flow::{HEADS_BYTES_MAX, Heads};
use crate::front::head::PlainGet;

/// Times after which a test has failed.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);
const PATIENT: Allowance = Allowance {
    head: LONG,
    idle: LONG,
    untaken: LONG,
    pressed: SHORT,
    unmoved: LONG,
    tunnel: LONG,
    tunnel_pressed: SHORT,
};

thread_local! {
    /// Whether the last connection ended for want of room for its head.
    static WAS_SHED: Cell<bool> = const { Cell::new(false) };
}

/// A client of a connection with that allowance, whose answers are all `body`, and the heads of its node.
fn with_client<F: Future<Output = ()>>(
    allowance: Allowance,
    body: fn() -> AnswerBody,
    test: impl FnOnce(TcpStream, Arc<Heads>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let heads = Arc::new(Heads::default());
        // A test lets others wait by this.
        let pressing = heads.clone();
        let is_pressed = Box::new(move || pressing.held_bytes.load(Ordering::Relaxed) > 0);
        let flow = Rc::new(Flow::new(allowance, heads.clone(), is_pressed));
        let answer =
            move |_, _| async move { Answered { answer: Response::new(body()), ending: None, opened: None } };
        let (_stop, stopping) = watch::channel(false);
        tokio::task::spawn_local(async move {
            WAS_SHED.set(converse(stream, flow, hit, answer, stopping).await);
        });
        tokio::time::timeout(Duration::from_secs(60), test(client, heads)).await.expect("in time");
    });
}

/// Answers what is asked of `/hit`.
fn hit(bytes: &[u8], answer: &mut Answer) -> Option<usize> {
    let get = PlainGet::read(bytes).filter(|get| get.uri.path() == "/hit")?;
    answer.head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhit!".into();
    Some(get.head_bytes)
}

fn pong() -> AnswerBody {
    AnswerBody::full(Bytes::from_static(b"pong"))
}

thread_local! {
    /// Whether an endless body is there, if one ever was.
    static ENDLESS: Cell<Option<bool>> = const { Cell::new(None) };
}

struct IsThere;

impl Drop for IsThere {
    fn drop(&mut self) {
        ENDLESS.set(Some(false));
    }
}

/// 1 TiB.
fn endless() -> AnswerBody {
    ENDLESS.set(Some(true));
    let is_there = IsThere;
    let parts = futures_util::stream::repeat_with(move || {
        let _ = &is_there;
        Ok(Bytes::from_static(&[7; 65_536]))
    });
    AnswerBody::Stream { parts: parts.boxed_local(), left_bytes: Some(1 << 40) }
}

/// The status of the answer that begins.
async fn status(client: &mut TcpStream) -> String {
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

/// What the client gets until the other side ends; a reset is a failure.
async fn rest(mut client: TcpStream) -> String {
    let mut text = Vec::new();
    client.read_to_end(&mut text).await.expect("no reset");
    String::from_utf8_lossy(&text).into_owned()
}

/// The bodies of all answers to requests that are sent at once, and whether more is then answered.
fn check_turns(requests: &str, bodies: &str, is_kept: bool) {
    with_client(PATIENT, pong, async |mut client, _| {
        client.write_all(requests.as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut part = [0; 4096];
        let seen = |text: &str| -> String {
            text.split("\r\n\r\n").skip(1).filter_map(|body| body.get(..4)).collect()
        };
        while seen(&text).len() < bodies.len() {
            let read = client.read(&mut part).await.unwrap();
            assert!(read > 0, "{requests:?}: the end after {text}");
            text.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        assert_eq!(seen(&text), bodies, "{requests:?}");
        if is_kept {
            client.write_all(b"GET /hit HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
        }
        let text = rest(client).await;
        assert_eq!(text.contains("\r\nconnection: close\r\n"), is_kept, "{requests:?}: {text}");
    });
}

#[test]
fn hyper_and_we_take_turns_in_the_order_of_the_requests() {
    let (hit, miss) = ("GET /hit HTTP/1.1\r\n\r\n", "GET /miss HTTP/1.1\r\n\r\n");
    check_turns(hit, "hit!", true);
    check_turns(miss, "pong", true);
    // hyper answers what it has read.
    check_turns(&[hit, hit, miss, miss, hit].concat(), "hit!hit!pongpongpong", true);
    let with_body = "POST /hit HTTP/1.1\r\nContent-Length: 31\r\n\r\nGET /hit HTTP/1.1\r\nTwo: three\r\n";
    assert_eq!(with_body.split_once("\r\n\r\n").unwrap().1.len(), 31);
    check_turns(&[hit, with_body].concat(), "hit!pong", true);
    let old = "GET /hit HTTP/1.0\r\n\r\n";
    check_turns(&[hit, old].concat(), "hit!pong", false);
    let last = "GET /hit HTTP/1.1\r\nConnection: close\r\n\r\n";
    check_turns(&[miss, last].concat(), "pongpong", false);
}

#[test]
fn hyper_gives_the_connection_back() {
    with_client(PATIENT, pong, async |mut client, _| {
        for (path, body) in [("/miss", "pong"), ("/hit", "hit!"), ("/miss", "pong"), ("/hit", "hit!")] {
            client.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            while !text.ends_with(body) {
                let mut part = [0; 4096];
                let read = client.read(&mut part).await.unwrap();
                assert!(read > 0, "{path}: the end after {text}");
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
        }
    });
}

#[test]
fn a_head_in_parts_behind_an_answer_is_waited_for() {
    with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |mut client, _| {
        client.write_all(b"GET /hit HTTP/1.1\r\n\r\nGET /hi").await.unwrap();
        let text = rest(client).await;
        assert!(text.contains("hit!HTTP/1.1 408 "), "{text}");
    });
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_told() {
    with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |mut client, _| {
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(rest(client).await.starts_with("HTTP/1.1 408 "));
    });
}

#[test]
fn a_client_that_says_nothing_is_told_nothing() {
    with_client(Allowance { head: SHORT, ..PATIENT }, pong, async |client, _| {
        assert_eq!(rest(client).await, "");
    });
}

#[test]
fn the_time_for_a_head_begins_with_its_first_byte() {
    with_client(Allowance { head: LONG, idle: SHORT * 5, ..PATIENT }, pong, async |mut client, _| {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(status(&mut client).await, "200");
        client.write_all(b"GET /").await.unwrap();
        // Longer than the connection may be idle, which it is not.
        tokio::time::sleep(SHORT * 10).await;
        client.write_all(b" HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(rest(client).await.matches("pong").count(), 2);
    });
}

#[test]
fn heads_beyond_the_budget_are_refused_and_short_ones_are_not() {
    with_client(PATIENT, pong, async |mut client, heads| {
        heads.held_bytes.store(HEADS_BYTES_MAX - 1000, Ordering::Relaxed);
        let head = |padding| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(padding));
        client.write_all(head(4000).as_bytes()).await.unwrap();
        assert_eq!(status(&mut client).await, "200");
        client.write_all(head(8000).as_bytes()).await.unwrap();
        let text = rest(client).await;
        assert!(text.contains("HTTP/1.1 503 "), "{text}");
        assert_eq!(heads.held_bytes.load(Ordering::Relaxed), HEADS_BYTES_MAX - 1000, "given back");
        while !WAS_SHED.get() {
            tokio::time::sleep(SHORT).await;
        }
    });
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_what_it_has_ends_in_order() {
    with_client(Allowance { untaken: SHORT, ..PATIENT }, endless, async |mut client, _| {
        // Unread bytes in the other direction would make a hasty end a reset.
        client.write_all(&b"GET / HTTP/1.1\r\n\r\n".repeat(10_000)).await.unwrap();
        while ENDLESS.get() != Some(false) {
            tokio::time::sleep(SHORT).await;
        }
        assert!(rest(client).await.len() > 65_536);
    });
}

#[test]
fn a_client_that_takes_nothing_is_let_go_sooner_when_others_wait() {
    with_client(PATIENT, endless, async |mut client, heads| {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        tokio::time::sleep(SHORT * 5).await;
        assert_eq!(ENDLESS.get(), Some(true), "nobody waits yet");
        heads.held_bytes.store(1, Ordering::Relaxed);
        while ENDLESS.get() != Some(false) {
            tokio::time::sleep(SHORT).await;
        }
        assert!(rest(client).await.len() > 65_536);
    });
}

#[test]
fn a_client_that_takes_little_is_served_on() {
    with_client(Allowance { untaken: SHORT * 5, ..PATIENT }, endless, async |mut client, _| {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut part = vec![0; 256 << 10];
        // All in all much longer than without a byte, and each time less than what makes a socket writable.
        for _ in 0..15 {
            client.read_exact(&mut part).await.unwrap();
            tokio::time::sleep(SHORT).await;
        }
        for _ in 0..64 {
            client.read_exact(&mut part).await.expect("it goes on");
        }
    });
}

#[test]
fn a_body_without_room_to_write_is_not_taken_further_than_a_batch() {
    thread_local!(static TAKEN: Cell<usize> = const { Cell::new(0) });
    let counted = || {
        let parts = futures_util::stream::repeat_with(|| {
            TAKEN.set(TAKEN.get() + 1);
            Ok(Bytes::from_static(&[7; 65_536]))
        });
        AnswerBody::Stream { parts: parts.boxed_local(), left_bytes: Some(1 << 40) }
    };
    with_client(PATIENT, counted, async |mut client, _| {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut taken = (0, Instant::now());
        // Until the system's buffers are full: nothing more is taken for a while.
        while taken.1.elapsed() < SHORT * 5 {
            tokio::time::sleep(SHORT).await;
            if taken.0 != TAKEN.get() {
                taken = (TAKEN.get(), Instant::now());
            }
        }
        // What the system holds comes, and behind it at most a batch and the rest of one.
        let held = TAKEN.get() * 65_536;
        let mut got = 0;
        let mut part = vec![0; 64 << 10];
        while let Ok(more) = client.try_read(&mut part) {
            got += more;
        }
        assert!(held < got + (3 << 20), "{held} bytes taken where {got} were sent");
    });
}
