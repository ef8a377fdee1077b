//! What a node is measured against: one connection of quinn's on which one stream carries bytes from memory to a process that
//! hashes each 64 KiB (BLAKE3), writes them to a file, and does nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// In the certificate.
pub(crate) const NAME: &str = "bare";
const BLOCK_BYTES: usize = 64 << 10;
/// What may be under way: as much as between nodes, on one stream.
const WINDOW_BYTES: u32 = 3 << 20;
/// quinn sends ten packets at once, which the kernel takes up to 64 KiB: with longer packets than this it would lose every batch.
const PACKET_BYTES_MAX: u16 = 6500;

/// One end.
#[derive(Debug, Args)]
pub(crate) struct BareQuinnArgs {
    #[command(subcommand)]
    end: End,
    /// Certificate of who gives, DER
    #[arg(long, value_name = "FILE", global = true, default_value = "certificate")]
    certificate: PathBuf,
}

#[derive(Debug, Subcommand)]
enum End {
    /// Gives so many bytes to each connection, for as long as it runs
    Give {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        bytes: usize,
        /// Private key, PKCS #8
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Takes all bytes once for each line on standard input, and prints how many seconds that took
    Take {
        #[arg(long)]
        from: SocketAddr,
        /// What is overwritten
        #[arg(long, value_name = "FILE")]
        into: PathBuf,
    },
}

/// Runs one end, on one thread.
pub(crate) fn run(args: &BareQuinnArgs) -> anyhow::Result<()> {
    let certificate = CertificateDer::from(fs::read(&args.certificate).context("the certificate")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.end {
            End::Give { listen, bytes, key } => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(fs::read(key).context("the key")?));
                let mut config = ServerConfig::with_single_cert(vec![certificate], key)?;
                config.transport_config(transport());
                give(&endpoint(*listen, Some(config))?, *bytes).await
            }
            End::Take { from, into } => {
                let mut trusted = RootCertStore::empty();
                trusted.add(certificate)?;
                let tls = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]);
                let tls = tls.with_root_certificates(trusted).with_no_client_auth();
                let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
                config.transport_config(transport());
                let endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
                let connection = endpoint.connect_with(config, *from, NAME)?.await?;
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(into)?;
                // Not here: the connection is to be kept alive meanwhile.
                while tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new())).await?? > 0 {
                    let took = take(&connection, &file).await?;
                    writeln!(io::stdout(), "{}", took.as_secs_f64())?;
                }
                Ok(())
            }
        }
    })
}

fn endpoint(listen: SocketAddr, server: Option<ServerConfig>) -> anyhow::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(PACKET_BYTES_MAX)?;
    let socket = std::net::UdpSocket::bind(listen)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(PACKET_BYTES_MAX);
    config
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(WINDOW_BYTES.into())
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

async fn give(endpoint: &Endpoint, bytes: usize) -> anyhow::Result<()> {
    let mut blob = vec![0; bytes];
    blob.chunks_mut(BLOCK_BYTES).zip(0..).for_each(|(block, number)| block.fill((number % 251) as u8));
    let blob = bytes::Bytes::from(blob);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        while let Ok((mut send, mut asked)) = connection.accept_bi().await {
            asked.read_to_end(0).await?;
            send.write_chunk(blob.clone()).await?;
            send.finish()?;
        }
    }
    Ok(())
}

/// How long it took until all was hashed and written.
async fn take(connection: &quinn::Connection, file: &File) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let (mut ask, mut recv) = connection.open_bi().await?;
    ask.finish()?;
    let (mut block, mut filled, mut at) = (vec![0; BLOCK_BYTES], 0, 0);
    loop {
        let read = recv.read(&mut block[filled..]).await?;
        filled += read.unwrap_or(0);
        if filled == BLOCK_BYTES || (read.is_none() && filled > 0) {
            std::hint::black_box(blake3::hash(&block[..filled]));
            file.write_all_at(&block[..filled], at)?;
            at += filled as u64;
            filled = 0;
        }
        if read.is_none() {
            return Ok(started.elapsed());
        }
    }
}
