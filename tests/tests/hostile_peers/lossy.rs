//! A UDP port before a node, on which every other full packet to it gets lost when it is told to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Packets that are filled with data; what acknowledges is shorter.
const FULL_BYTES: usize = 1000;
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Passes datagrams on for as long as it lives.
pub(super) struct LossyPort {
    address: SocketAddr,
    loses: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    passing: JoinHandle<()>,
}

impl LossyPort {
    pub(super) async fn before(node: SocketAddr) -> LossyPort {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has ports");
        let address = front.local_addr().expect("it is bound");
        let (loses, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let passing = tokio::spawn(pass(Arc::new(front), node, loses.clone(), lost.clone()));
        LossyPort { address, loses, lost, passing }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn lose(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LossyPort {
    fn drop(&mut self) {
        self.passing.abort();
    }
}

async fn pass(front: Arc<UdpSocket>, node: SocketAddr, loses: Arc<AtomicBool>, lost: Arc<AtomicU64>) {
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut full = 0_u64;
    loop {
        // What a socket says of an earlier datagram is no reason to stop.
        let Ok((len, client)) = front.recv_from(&mut buffer).await else { continue };
        if len >= FULL_BYTES && loses.load(Ordering::Relaxed) {
            full += 1;
            if full.is_multiple_of(2) {
                lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        }
        let upstream = match flows.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has ports");
                upstream.connect(node).await.expect("an address");
                let upstream = Arc::new(upstream);
                tokio::spawn(back(upstream.clone(), front.clone(), client));
                place.insert(upstream)
            }
        };
        let _ = upstream.send(&buffer[..len]).await;
    }
}

async fn back(upstream: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(len) = upstream.recv(&mut buffer).await else { continue };
        let _ = front.send_to(&buffer[..len], client).await;
    }
}
