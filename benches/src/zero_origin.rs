//! A registry that has every blob, and in each nothing but zeros: for stores whose records were made up.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

const HEAD_BYTES_MAX: usize = 16 << 10;

/// Its address. The thread ends with the process.
///
/// # Errors
/// No port, or no thread.
pub(crate) fn start(blob_bytes: u64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("zero-origin".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that leaves is nothing to report.
            thread::spawn(move || serve(stream, blob_bytes));
        }
    })?;
    Ok(address)
}

fn serve(mut stream: TcpStream, blob_bytes: u64) -> io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part)?;
        head.extend_from_slice(&part[..read]);
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
        if head.ends_with(b"\r\n\r\n") {
            let (answer, body_bytes) = answer(&String::from_utf8_lossy(&head), blob_bytes);
            stream.write_all(answer.as_bytes())?;
            io::copy(&mut io::repeat(0).take(body_bytes), &mut stream)?;
            head.clear();
        }
    }
}

/// The head of the answer, and how many zeros follow.
fn answer(head: &str, blob_bytes: u64) -> (String, u64) {
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let range = value.trim().strip_prefix("bytes=").filter(|_| name.eq_ignore_ascii_case("range"))?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.min(blob_bytes - 1));
        (first <= last).then_some((first, last))
    });
    let (status, extra, bytes) = match range {
        Some((first, last)) => (
            "206 Partial Content",
            format!("Content-Range: bytes {first}-{last}/{blob_bytes}\r\n"),
            last + 1 - first,
        ),
        None => ("200 OK", String::new(), blob_bytes),
    };
    let body_bytes = if head.starts_with("HEAD ") { 0 } else { bytes };
    (format!("HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\n{extra}\r\n"), body_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_of_every_blob_is_there() {
        let check = |head: &str, status: &str, body_bytes| {
            let (answer, bytes) = answer(head, 1000);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert_eq!(bytes, body_bytes, "{head}");
        };
        check("HEAD /v2/a/blobs/b HTTP/1.1\r\n\r\n", "200", 0);
        check("GET /v2/a/blobs/b HTTP/1.1\r\nrange: bytes=10-19\r\n\r\n", "206", 10);
        check("GET /v2/a/blobs/b HTTP/1.1\r\nRange: bytes=990-2000\r\n\r\n", "206", 10);
        check("GET /v2/a/blobs/b HTTP/1.1\r\n\r\n", "200", 1000);
    }
}
