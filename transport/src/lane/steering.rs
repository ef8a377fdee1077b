//! One socket per shard on one port, and each packet at the shard that its connection lives on.
//!
//! Without help the kernel spreads packets over the sockets of a port by a hash of addresses, and half of the answers
//! to our own connections would come to the wrong shard. So the first byte of each connection id that we issue, as
//! client too, is the shard, and a classic BPF program picks the socket by that byte. It sees a packet from its UDP
//! payload on (RFC 8999: the first bit tells long headers, whose destination id begins at byte 6, from short ones,
//! where it begins at byte 1). The id of a client's first packets is chosen by the client and even more or less; all
//! of them go to the shard that the rest of the division names, and that one answers with an id of its own.
//!
//! TCP connections are spread by the kernel: a connection is one shard's from the beginning.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;

use aws_lc_rs::rand;
use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of the connection ids that we issue: the shard, and 56 random bits.
const ID_BYTES: usize = 8;
/// What a socket's buffers are asked to hold; the kernel gives at most `net.core.rmem_max` and `wmem_max`.
pub const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// A port that is free for UDP may be taken for TCP.
const PORT_TRIES: u32 = 16;

/// What one shard listens on.
#[derive(Debug)]
pub struct ShardSockets {
    pub(super) shard: u8,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

impl ShardSockets {
    /// The address, the same for all shards.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// Nobody can listen there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for other nodes on {address} ({what}): {source}; choose another --peer-listen")]
pub struct BindError {
    address: SocketAddr,
    what: &'static str,
    source: io::Error,
}

/// Binds the sockets of all shards, UDP and TCP on the same port; with port 0 on one that is free for both.
///
/// The order in which sockets join their port is the number by which the program names them, so all are bound here at
/// once, and none is closed before all are.
///
/// # Errors
/// The address is taken or not this machine's, or the kernel does not steer.
pub fn bind(address: SocketAddr, shards: NonZeroU8) -> Result<Vec<ShardSockets>, BindError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(address, shards) {
            Err(error) if tries > 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

fn bind_once(address: SocketAddr, shards: NonZeroU8) -> Result<Vec<ShardSockets>, BindError> {
    let failed = |what| move |source| BindError { address, what, source };
    // The first one finds the port, if need be.
    let mut address = address;
    let mut sockets = Vec::with_capacity(shards.get().into());
    for shard in 0..shards.get() {
        let udp = socket(address, Type::DGRAM, shards).map_err(failed("UDP"))?;
        address = udp.local_addr().ok().and_then(|bound| bound.as_socket()).unwrap_or(address);
        let tcp = socket(address, Type::STREAM, shards).map_err(failed("TCP"))?;
        sockets.push(ShardSockets { shard, udp: udp.into(), tcp: tcp.into() });
    }
    if shards.get() > 1 {
        steer(&sockets[0].udp, shards).map_err(failed("SO_ATTACH_REUSEPORT_CBPF"))?;
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, kind: Type, shards: NonZeroU8) -> io::Result<Socket> {
    let stream = kind == Type::STREAM;
    let protocol = if stream { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if shards.get() > 1 {
        socket.set_reuse_port(true)?;
    }
    if stream {
        // Else a restart would have to wait for the last connections of the process before.
        socket.set_reuse_address(true)?;
    } else {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    if stream {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Attaches the program to the port of this socket.
fn steer(socket: &UdpSocket, shards: NonZeroU8) -> io::Result<()> {
    let mut program = program(shards);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // The kernel copies the program before the call returns.
    Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
}

fn program(shards: NonZeroU8) -> [sock_filter; 7] {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const JUMP_IF_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const REST: u32 = libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | BPF_A;
    const BPF_A: u32 = 0x10;
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let shards = u32::from(shards.get());
    [
        step(LOAD_BYTE, 0, 0, 0),
        step(JUMP_IF_SET, 0, 2, 0x80),
        step(LOAD_BYTE, 0, 0, 6),
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        step(LOAD_BYTE, 0, 0, 1),
        step(REST, 0, 0, shards),
        step(RETURN, 0, 0, 0),
    ]
}

/// Issues the connection ids of one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardIds {
    pub(super) shard: u8,
}

impl ConnectionIdGenerator for ShardIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        rand::fill(&mut id).expect("a machine on which TLS works gives random numbers");
        id[0] = self.shard;
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if id.len() == ID_BYTES && id[0] == self.shard { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
