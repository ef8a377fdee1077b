//! Ports before servers of UDP that bring their datagrams out of order, and some of them twice, both ways. Each server
//! has an address of its own there, which is the one that it must tell to others.
//!
//! Nothing is lost here by intent, and nothing but UDP passes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;

use super::host::Host;

/// What is held back goes out at the latest when nothing has come for so long, so that it is late and not lost.
const REST: Duration = Duration::from_millis(3);
/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// How much is out of order.
#[derive(Clone, Copy, Debug)]
pub struct Disorder {
    /// So many of a hundred are overtaken by others.
    pub late_percent: u8,
    /// By how many at most.
    pub overtaken_by_max: u8,
    /// So many of a hundred come twice, the second time late.
    pub twice_percent: u8,
}

/// The ports, as long as it lives.
#[derive(Debug)]
pub struct DisorderedPorts {
    addresses: Vec<SocketAddr>,
    counts: Arc<Counts>,
    _stop: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Counts {
    late: AtomicU64,
    twice: AtomicU64,
}

impl DisorderedPorts {
    /// One port on `host` before each of `behind`, with the port number of that. What happens depends on `seed` and on
    /// when what comes.
    ///
    /// # Panics
    /// When the ports cannot be listened on.
    pub fn before(host: &Host, behind: &[SocketAddr], disorder: Disorder, seed: u64) -> DisorderedPorts {
        let (counts, (stop, stopped)) = (Arc::new(Counts::default()), watch::channel(()));
        let own =
            (1..).zip(behind).map(|(number, to)| SocketAddr::new(host.add_address(number).into(), to.port()));
        let addresses: Vec<SocketAddr> = own.collect();
        host.namespace().enter(|| {
            let ports = addresses.iter().zip(behind).zip(seed..).map(|((&own, &server), seed)| {
                let front = std::net::UdpSocket::bind(own).expect("the address is the host's");
                front.set_nonblocking(true).expect("a socket takes options");
                (front, Way { own, server, disorder, seed, counts: Arc::clone(&counts) })
            });
            let ports: Vec<_> = ports.collect();
            // A thread that is started inside stays inside.
            thread::spawn(move || serve(ports, stopped));
        });
        DisorderedPorts { addresses, counts, _stop: stop }
    }

    /// Where the server at that place in the list is reached.
    pub fn address(&self, place: usize) -> SocketAddr {
        self.addresses[place]
    }

    /// How many datagrams have been overtaken, and how many came twice.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.late.load(Ordering::Relaxed), self.counts.twice.load(Ordering::Relaxed))
    }
}

fn serve(ports: Vec<(std::net::UdpSocket, Way)>, mut stopped: watch::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(async move {
        for (front, way) in ports {
            let front = UdpSocket::from_std(front).expect("it does not block");
            tokio::spawn(to_server(Arc::new(front), way));
        }
        // The sender is dropped at the end, and the runtime with its tasks at this one's.
        let _ = stopped.changed().await;
    });
}

/// From clients of one port to its server.
#[derive(Clone, Debug)]
struct Way {
    own: SocketAddr,
    server: SocketAddr,
    disorder: Disorder,
    seed: u64,
    counts: Arc<Counts>,
}

impl Way {
    fn shuffle(&self) -> Shuffle {
        Shuffle::new(self.disorder, self.seed, Arc::clone(&self.counts))
    }
}

async fn to_server(front: Arc<UdpSocket>, way: Way) {
    let mut flows: HashMap<SocketAddr, (Arc<UdpSocket>, Shuffle)> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        match timeout(REST, front.recv_from(&mut buffer)).await {
            Ok(Ok((len, client))) => {
                if let Entry::Vacant(place) = flows.entry(client) {
                    let Ok(upstream) = connected(&way).await else { continue };
                    let upstream = Arc::new(upstream);
                    tokio::spawn(to_client(Arc::clone(&upstream), Arc::clone(&front), client, way.shuffle()));
                    place.insert((upstream, way.shuffle()));
                }
                let (upstream, shuffle) = flows.get_mut(&client).expect("it was just put there");
                for datagram in shuffle.pass(&buffer[..len]) {
                    // A server that is down is not heard, as behind any wire.
                    let _ = upstream.send(&datagram).await;
                }
            }
            // What a socket says of an earlier datagram is no reason to stop.
            Ok(Err(_)) => {}
            Err(_) => {
                for (upstream, shuffle) in flows.values_mut() {
                    for datagram in shuffle.rest() {
                        let _ = upstream.send(&datagram).await;
                    }
                }
            }
        }
    }
}

async fn to_client(
    upstream: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    mut shuffle: Shuffle,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let out = match timeout(REST, upstream.recv(&mut buffer)).await {
            Ok(Ok(len)) => shuffle.pass(&buffer[..len]),
            Ok(Err(_)) => Vec::new(),
            Err(_) => shuffle.rest(),
        };
        for datagram in out {
            let _ = front.send_to(&datagram, client).await;
        }
    }
}

async fn connected(way: &Way) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((way.own.ip(), 0)).await?;
    socket.connect(way.server).await?;
    Ok(socket)
}

/// One direction of one flow: pure, but for its chances.
#[derive(Debug)]
struct Shuffle {
    disorder: Disorder,
    random: Rng,
    counts: Arc<Counts>,
    /// With how many others are still to pass before it.
    held: Vec<(u8, Vec<u8>)>,
}

impl Shuffle {
    fn new(disorder: Disorder, seed: u64, counts: Arc<Counts>) -> Shuffle {
        Shuffle { disorder, random: Rng::with_seed(seed), counts, held: Vec::new() }
    }

    /// What goes out now that this has come.
    fn pass(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let is_late = self.random.u8(..100) < self.disorder.late_percent;
        let is_twice = self.random.u8(..100) < self.disorder.twice_percent;
        let mut out: Vec<Vec<u8>> = (!is_late).then(|| datagram.to_vec()).into_iter().collect();
        for (others, _) in &mut self.held {
            *others -= 1;
        }
        out.extend(self.held.extract_if(.., |(others, _)| *others == 0).map(|(_, held)| held));
        for _ in 0..u8::from(is_late) + u8::from(is_twice) {
            self.held.push((self.random.u8(1..=self.disorder.overtaken_by_max), datagram.to_vec()));
        }
        self.counts.late.fetch_add(is_late.into(), Ordering::Relaxed);
        self.counts.twice.fetch_add(is_twice.into(), Ordering::Relaxed);
        out
    }

    /// All that is held back.
    fn rest(&mut self) -> Vec<Vec<u8>> {
        self.held.drain(..).map(|(_, held)| held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_some_is_late_and_some_comes_twice() {
        let disorder = Disorder { late_percent: 20, overtaken_by_max: 8, twice_percent: 10 };
        let mut shuffle = Shuffle::new(disorder, 1, Arc::default());
        let mut came: Vec<u16> = Vec::new();
        let number = |datagram: Vec<u8>| u16::from_le_bytes([datagram[0], datagram[1]]);
        for sent in 0..1000_u16 {
            came.extend(shuffle.pass(&sent.to_le_bytes()).into_iter().map(number));
        }
        came.extend(shuffle.rest().into_iter().map(number));
        let [late, twice] = [&shuffle.counts.late, &shuffle.counts.twice].map(|n| n.load(Ordering::Relaxed));
        assert!((150..250).contains(&late) && (60..140).contains(&twice), "{late} late, {twice} twice");
        assert_eq!(came.len() as u64, 1000 + twice);
        assert!(!came.is_sorted());
        came.sort_unstable();
        came.dedup();
        assert!(came.into_iter().eq(0..1000), "one is lost");
    }
}
