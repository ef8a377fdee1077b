//! The last that is said on a connection: a refusal where nothing else was said, the end, and what is still heard after it.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How much a client that was answered for the last time may go on sending.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long a connection that finds no place may take to send something and to take its refusal.
pub(super) const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);

/// Tells a client for whom there is no place, and ends within two seconds.
pub(crate) async fn turn_away(mut stream: TcpStream) {
    let told = async {
        // An answer to a question that is not asked yet would look like a fault.
        let _ = tokio::time::timeout(TURN_AWAY_WITHIN, stream.readable()).await;
        let why = "this node serves as many connections as it may";
        refuse(&mut stream, "503 Service Unavailable", why).await;
        let _ = tokio::time::timeout(TURN_AWAY_WITHIN, let_go(stream)).await;
    };
    told.await;
}

/// An answer without hyper, where no other has begun. It fits into any socket's buffer or is not sent.
pub(super) async fn refuse(stream: &mut TcpStream, status: &str, why: &str) {
    let body = format!("darter: {why}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nRetry-After: 1\r\nX-Dragonfly-Error-Type: proxy\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    );
    let _ = tokio::time::timeout(TURN_AWAY_WITHIN, stream.write_all(answer.as_bytes())).await;
}

/// Tells the end and reads what the client still sends until it ends too.
pub(super) async fn let_go(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left_bytes = LINGER_BYTES_MAX;
    while left_bytes > 0 && stream.readable().await.is_ok() {
        let mut dropped = [0; 4096];
        match stream.try_read(&mut dropped) {
            Ok(0) => return,
            Ok(bytes) => left_bytes = left_bytes.saturating_sub(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
