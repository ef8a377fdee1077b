//! The TLS of both lanes: version 1.3, both sides with certificates, nothing resumed.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

use super::trust::{Trust, Verifier};

/// What a lane speaks. It has no number: nodes of versions that do not fit say so behind it.
pub const ALPN: &[u8] = b"darter";

/// AES-128-GCM first: the fastest where the CPU has AES, as all that darter runs on do. One key exchange: nodes are of
/// one kind, and a first guess that the other side does not take would cost a round trip.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

/// The configurations of one identity, for incoming and for outgoing connections.
///
/// A resumed session would not show its certificate again, and so outlive its leaf and its secret: there are none.
pub(super) fn configs(
    trust: &Arc<Trust>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(ServerConfig, ClientConfig), rustls::Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier(Arc::clone(trust)));
    let versions = &[&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.clone(), key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    // The name would be an address or nothing; see `Verifier`.
    client.enable_sni = false;
    Ok((server, client))
}
