//! Who shows no certificate, one of another cluster, or one that has expired: let in by neither lane, and logged with what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use darter_tests::intruder::Intruder;
use darter_transport::identity::ClusterSecrets;
use darter_transport::lane::Lanes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::{DAY, Scene, identity, pull, runtime};

/// How often each of them comes.
const TIMES: usize = 5;

#[test]
fn who_shows_no_certificate_of_the_cluster_is_refused_and_logged_and_others_go_on() {
    let mut scene = Scene::new();
    let peer = scene.peer();
    let at: SocketAddr = scene.at.parse().expect("an address");
    let (secrets, now) = (scene.peer_secrets(), SystemTime::now());
    let others = ClusterSecrets::generate(now - DAY).expect("randomness").for_peers();
    thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            runtime().block_on(async {
                for _ in 0..TIMES {
                    for lanes in [Lanes::Quic, Lanes::Tcp] {
                        for identity in [identity(&others, now), identity(&secrets, now - 2 * DAY)] {
                            let refused = Intruder::new(identity, lanes).connect(at).await;
                            assert!(refused.expect_err("it is let in").is_refusal());
                        }
                    }
                    for shown in [None, Some(own_certificate())] {
                        let read = without_our_checks(at, shown).await;
                        assert!(read.is_err(), "it is let in: {read:?}");
                    }
                }
            });
        });
        scene.pull_during(&peer, &strangers, || {});
        strangers.join().expect("all are refused");
    });
    let log = scene.seed.log();
    let lines = |lane: &str, reason: &str| {
        let refusals =
            log.lines().filter(|line| line.contains("WARN") && line.contains("a node was not let in"));
        refusals.filter(|line| line.contains(lane) && line.contains(reason)).count()
    };
    assert_eq!(lines("lane=TCP", "this node refuses the other one: it shows no certificate"), TIMES, "{log}");
    // Who is of another cluster refuses the seed before that has seen its certificate, unless it does not look.
    assert_eq!(
        lines("lane=TCP", "this node refuses the other one: its certificate is not of this cluster"),
        TIMES
    );
    for lane in ["lane=QUIC", "lane=TCP"] {
        assert_eq!(
            lines(lane, "the other node refuses this one: its certificate is not of this cluster"),
            TIMES
        );
        assert_eq!(lines(lane, "this node refuses the other one: its certificate has expired"), TIMES);
    }
    let known = scene.seed.peers();
    assert_eq!(known["peers"].as_array().map(Vec::len), Some(1), "nobody but the peer is known: {known}");
    scene.check_the_seed();
    pull(&scene.peer(), &scene.origin.blob(1, 1000));
}

/// A certificate that some node made for itself.
fn own_certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names = vec!["peer.darter.internal".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    (made.cert.der().clone(), key)
}

/// TLS on TCP by somebody who believes everybody. The first byte from the seed, which a client of TLS 1.3 is without until
/// the server has seen its certificate.
async fn without_our_checks(
    at: SocketAddr,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> io::Result<u8> {
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(BelievesEverybody));
    let mut config = match shown {
        Some((certificate, key)) => {
            config.with_client_auth_cert(vec![certificate], key).expect("the key is that of the certificate")
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"darter".to_vec()];
    let name = ServerName::IpAddress(at.ip().into());
    let tcp = TcpStream::connect(at).await?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await?.read_u8().await
}

#[derive(Debug)]
struct BelievesEverybody;

impl ServerCertVerifier for BelievesEverybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
