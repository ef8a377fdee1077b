//! A name server on loopback, for tests: what it answers can be changed, and it can fail.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The largest answer that goes into a packet.
const PACKET_BYTES_MAX: usize = 512;

pub(super) struct NameServer {
    address: SocketAddr,
    records: Mutex<HashMap<Name, Vec<RData>>>,
    failing: Mutex<HashSet<Name>>,
    asked: Mutex<HashMap<Name, usize>>,
    asked_over_tcp: AtomicUsize,
}

impl NameServer {
    /// Serves until the runtime ends.
    pub(super) async fn start() -> Arc<Self> {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The port may be another's.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Arc::new(Self {
            address: udp.local_addr().unwrap(),
            records: Mutex::default(),
            failing: Mutex::default(),
            asked: Mutex::default(),
            asked_over_tcp: AtomicUsize::new(0),
        });
        tokio::spawn(Arc::clone(&server).serve_udp(udp));
        tokio::spawn(Arc::clone(&server).serve_tcp(tcp));
        server
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn asked_over_tcp(&self) -> usize {
        self.asked_over_tcp.load(Ordering::Relaxed)
    }

    pub(super) fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let record = |text: &&str| match text.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        self.set(name, addresses.iter().map(record).collect());
    }

    /// Priority, port, target.
    pub(super) fn set_services(&self, name: &str, services: &[(u16, u16, &str)]) {
        let record = |(priority, port, target): &(u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, 0, *port, Name::from_ascii(target).unwrap()))
        };
        self.set(name, services.iter().map(record).collect());
    }

    /// Until records are set.
    pub(super) fn set_failing(&self, name: &str) {
        self.failing.lock().unwrap().insert(Name::from_ascii(name).unwrap());
    }

    /// Waits until the name has been asked for in some more rounds.
    pub(super) async fn asked_again(&self, name: &str) {
        // One round asks for two kinds of records, perhaps several times.
        const MORE: usize = 40;
        let name = Name::from_ascii(name).unwrap();
        let asked = || self.asked.lock().unwrap().get(&name).copied().unwrap_or(0);
        let enough = asked() + MORE;
        while asked() < enough {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    fn set(&self, name: &str, records: Vec<RData>) {
        let name = Name::from_ascii(name).unwrap();
        self.failing.lock().unwrap().remove(&name);
        self.records.lock().unwrap().insert(name, records);
    }

    async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let mut packet = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut packet).await.unwrap();
            let answer = self.answer(&packet[..length]);
            let mut bytes = answer.to_vec().unwrap();
            if bytes.len() > PACKET_BYTES_MAX {
                bytes = answer.truncate().to_vec().unwrap();
            }
            // Who has asked may have gone.
            let _ = socket.send_to(&bytes, from).await;
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                // It ends with the connection.
                let _ = server.serve_stream(stream).await;
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut question = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut question).await?;
            self.asked_over_tcp.fetch_add(1, Ordering::Relaxed);
            let answer = self.answer(&question).to_vec().unwrap();
            stream.write_u16(answer.len().try_into().unwrap()).await?;
            stream.write_all(&answer).await?;
        }
    }

    fn answer(&self, question: &[u8]) -> Message {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let name = query.name().to_lowercase();
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        if self.failing.lock().unwrap().contains(&name) {
            answer.metadata.response_code = ResponseCode::ServFail;
            return answer;
        }
        let records = self.records.lock().unwrap();
        match records.get(&name) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(records) => {
                let wanted = records.iter().filter(|record| is_of(record, query.query_type()));
                for record in wanted {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 30, record.clone()));
                }
            }
        }
        answer
    }
}

fn is_of(record: &RData, wanted: RecordType) -> bool {
    record.record_type() == wanted
}
