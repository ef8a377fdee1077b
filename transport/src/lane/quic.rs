//! QUIC's settings and its endpoint; quinn does the rest.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, EndpointConfig, MtuDiscoveryConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig,
    VarInt,
};
use rustls::pki_types::CertificateDer;

use super::clamp::ClampedSocket;
use super::steering::ShardIds;
use super::{
    CONNECTION_WINDOW_BYTES, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, IDLE_TIMEOUT, KEEP_ALIVE,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};
use crate::identity::Identity;

/// An Ethernet of 9000 bytes, less the headers of IPv4 and UDP; larger ones gain nothing.
pub(super) const MTU_BYTES_MAX: u16 = 8972;
/// What a client may send before its handshake is taken up.
const INCOMING_BYTES_MAX: u64 = 64 << 10;

/// One shard's QUIC endpoint, and its socket for the counts.
pub(super) fn endpoint(socket: UdpSocket, shard: u8) -> io::Result<(quinn::Endpoint, Arc<ClampedSocket>)> {
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(ClampedSocket::new(runtime.wrap_udp_socket(socket)?, shard));
    let mut secret = [0; 32];
    rand::fill(&mut secret).map_err(|_| io::Error::other("no random numbers"))?;
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
    config.max_udp_payload_size(MTU_BYTES_MAX).map_err(io::Error::other)?;
    config.cid_generator(move || Box::new(ShardIds { shard }));
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(config, None, Arc::clone(&socket) as _, runtime)?;
    Ok((endpoint, socket))
}

/// For the other side's handshake.
pub(super) fn server(identity: &Identity) -> Result<ServerConfig, NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(Arc::clone(identity.server()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    // Nodes do not wander, and an address that changes could be somebody else's doing.
    config.migration(false);
    config.max_incoming(HANDSHAKES_MAX);
    config.incoming_buffer_size(INCOMING_BYTES_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES_MAX * HANDSHAKES_MAX as u64);
    config.retry_token_lifetime(HANDSHAKE_TIMEOUT);
    Ok(config)
}

/// For our own.
pub(super) fn client(identity: &Identity) -> Result<ClientConfig, NoInitialCipherSuite> {
    let crypto = QuicClientConfig::try_from(Arc::clone(identity.client()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    Ok(config)
}

/// The certificates that the other side has shown.
pub(super) fn chain(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let shown = connection.peer_identity().and_then(|shown| shown.downcast().ok());
    shown.map_or_else(Vec::new, |chain: Box<Vec<CertificateDer<'static>>>| *chain)
}

/// Cubic and no ACK_FREQUENCY, as quinn has it: BBR lost half of its packets on a shaped link.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_BYTES_MAX);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(milliseconds(IDLE_TIMEOUT)).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

const fn milliseconds(duration: Duration) -> u32 {
    assert!(duration.as_secs() < 1_000_000, "fits");
    duration.as_millis() as u32
}
