//! `cluster`: the values of that section, and the files that give a node its identity.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use darter_transport::identity::files::FileError;
use darter_transport::identity::{PEER_NAME, SEED_NAME, files};
use darter_transport::lane::Lanes;
use darter_transport::node::{Role, ZONE_BYTES_MAX};
use url::Host;

use super::error::Problem;
use super::keys;
use super::listed::pem;
use super::named_files::{Contents, Wrong, note};
use super::{ClusterSettings, Resolved};
use crate::sandbox;

/// Bytes of the longest name in the DNS, without the final dot (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
/// Bytes of one of its labels.
const LABEL_BYTES_MAX: usize = 63;

/// What a node's identity is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdentitySource {
    /// A file that `darter cluster init` has written.
    Secrets(PathBuf),
    /// PEM files of another authority.
    Files {
        /// The authorities that are believed.
        ca: PathBuf,
        /// The node's certificate, and those that lead from it to an authority.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// `IP` or `IP:PORT` at which other nodes reach this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Advertise {
    /// Neither unspecified nor multicast.
    pub ip: IpAddr,
    /// `None`: that of `cluster.listen`. Never 0.
    pub port: Option<u16>,
}

/// Where seeds are. Names are looked up again and again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum JoinTarget {
    /// `HOST:PORT`: one seed.
    Host {
        /// Name or address.
        host: Host<String>,
        /// Never 0.
        port: u16,
    },
    /// `dns://NAME:PORT`: a seed at each address of the name.
    Every {
        /// Such as that of a headless service.
        name: HostName,
        /// Never 0.
        port: u16,
    },
    /// `dns+srv://NAME`: a seed at each target of the name's SRV records, which have the ports too.
    Service {
        /// Such as `_peers._udp.seeds.example`.
        name: HostName,
    },
}

/// A name of the DNS, in lower case: at most 253 bytes; labels of letters, digits, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostName(String);

impl HostName {
    /// The name. A final dot says that it is whole, and no search domain is to be tried.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no place of seeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoTarget {
    /// Only three forms are known.
    #[error("its scheme is none of dns:// and dns+srv://")]
    Scheme,
    /// No name or address.
    #[error("it has no valid host")]
    Host,
    /// Missing, 0, or no number.
    #[error("it has no valid port")]
    Port,
    /// SRV records have ports of their own.
    #[error("it has a port, which SRV records tell")]
    UnwantedPort,
    /// There is nothing to look up.
    #[error("it names an address; write IP:PORT")]
    Address,
}

impl fmt::Display for IdentitySource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secrets(path) => path.display().fmt(out),
            Self::Files { ca, cert, key } => {
                write!(out, "{}, {}, {}", ca.display(), cert.display(), key.display())
            }
        }
    }
}

impl FromStr for JoinTarget {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        if let Some(name) = text.strip_prefix("dns+srv://") {
            return match name.parse::<HostName>() {
                Ok(name) => Ok(Self::Service { name }),
                Err(_) if name.contains(':') => Err(NoTarget::UnwantedPort),
                Err(error) => Err(error),
            };
        }
        if let Some(place) = text.strip_prefix("dns://") {
            let (name, port) = host_and_port(place)?;
            return Ok(Self::Every { name: name.parse()?, port });
        }
        if text.contains("://") {
            return Err(NoTarget::Scheme);
        }
        let (host, port) = host_and_port(text)?;
        let host = match Host::parse(host).map_err(|_| NoTarget::Host)? {
            Host::Domain(_) => Host::Domain(host.parse::<HostName>()?.0),
            address => address,
        };
        Ok(Self::Host { host, port })
    }
}

impl fmt::Display for JoinTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } => write!(out, "{host}:{port}"),
            Self::Every { name, port } => write!(out, "dns://{}:{port}", name.0),
            Self::Service { name } => write!(out, "dns+srv://{}", name.0),
        }
    }
}

impl FromStr for HostName {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        // A name that ends in a number is an address, or a misspelt one; names with letters of other scripts come
        // out in ASCII.
        let name = match Host::parse(text) {
            Ok(Host::Domain(name)) => name,
            Ok(_) => return Err(NoTarget::Address),
            Err(_) => return Err(NoTarget::Host),
        };
        let whole = name.strip_suffix('.').unwrap_or(&name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(plain);
        if whole.len() > NAME_BYTES_MAX || !whole.split('.').all(is_label) {
            return Err(NoTarget::Host);
        }
        Ok(Self(name))
    }
}

/// The colons of an IPv6 address stand in brackets.
fn host_and_port(text: &str) -> Result<(&str, u16), NoTarget> {
    let (host, port) =
        text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).ok_or(NoTarget::Port)?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or(NoTarget::Port)?;
    Ok((host, port))
}

impl FromStr for Advertise {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let (ip, port) = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, None),
            (_, Ok(address)) => (address.ip(), Some(address.port())),
            _ => return Err("it is no address"),
        };
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("nobody can connect to that address");
        }
        if port == Some(0) {
            return Err("nobody can connect to port 0");
        }
        Ok(Self { ip, port })
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(out),
            None => self.ip.fmt(out),
        }
    }
}

/// [`Role`] as the file says it.
#[derive(Clone, Copy)]
pub(super) struct RoleWord(pub(super) Role);

impl FromStr for RoleWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "peer" => Ok(Self(Role::Peer)),
            "seed" => Ok(Self(Role::Seed)),
            _ => Err("not a role"),
        }
    }
}

impl fmt::Display for RoleWord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Role::Peer => "peer",
            Role::Seed => "seed",
        })
    }
}

/// [`Lanes`] as the file says them.
#[derive(Clone, Copy)]
pub(super) struct LanesWord(pub(super) Lanes);

impl FromStr for LanesWord {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self(Lanes::Auto)),
            "quic" => Ok(Self(Lanes::Quic)),
            "tcp" => Ok(Self(Lanes::Tcp)),
            _ => Err("not a transport"),
        }
    }
}

impl fmt::Display for LanesWord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self.0 {
            Lanes::Auto => "auto",
            Lanes::Quic => "quic",
            Lanes::Tcp => "tcp",
        })
    }
}

/// The name of a zone.
#[derive(Clone)]
pub(super) struct Zone(pub(super) String);

impl FromStr for Zone {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("it is empty or has white space");
        }
        if text.len() > ZONE_BYTES_MAX {
            return Err("it is longer than 63 bytes");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Reads the files of the identity, notes what is in them, and says what is wrong with them and where they were named.
pub(super) fn read_files(resolved: &mut Resolved) -> Vec<Problem> {
    let Some(cluster) = &resolved.settings.cluster else { return Vec::new() };
    note(&mut resolved.effective, identity_contents(cluster, SystemTime::now()))
}

/// Which keys name files, and what is in them; or the key whose file is wrong, and how.
fn identity_contents(cluster: &ClusterSettings, now: SystemTime) -> Result<Contents, Wrong> {
    match &cluster.identity {
        IdentitySource::Secrets(path) => {
            let wrong = |text| (&keys::CLUSTER_SECRET_FILE, text);
            let secrets = files::secrets(path).map_err(|error| wrong(unusable(path, &error)))?;
            if cluster.role == Role::Seed && !secrets.make_seeds() {
                let text = format!(
                    "{} is for peers, and no seed can be made of it: give this node the other file that `darter \
                     cluster init` has written, or set cluster.role: peer",
                    path.display()
                );
                return Err(wrong(text));
            }
            Ok(vec![(&keys::CLUSTER_SECRET_FILE, blake3::hash(secrets.to_text().as_bytes()))])
        }
        IdentitySource::Files { ca, cert, key } => {
            let named = [(&keys::CLUSTER_CA, ca), (&keys::CLUSTER_CERT, cert), (&keys::CLUSTER_KEY, key)];
            let contents = named.into_iter().map(|(named_by, path)| {
                let bytes = pem(path).map_err(|text| (named_by, text))?;
                Ok((named_by, blake3::hash(&bytes)))
            });
            let contents = contents.collect::<Result<Vec<_>, Wrong>>()?;
            let wrong = |text| (&keys::CLUSTER_CERT, text);
            let identity = files::identity(ca, cert, key, now).map_err(|error| wrong(error.to_string()))?;
            if identity.own().role != cluster.role {
                let (named, other) = match cluster.role {
                    Role::Seed => (PEER_NAME, "peer"),
                    Role::Peer => (SEED_NAME, "seed"),
                };
                let text = format!(
                    "the certificate in {} names {named}: set cluster.role: {other}, or give this node another \
                     certificate",
                    cert.display()
                );
                return Err(wrong(text));
            }
            Ok(contents)
        }
    }
}

/// What is wrong with a file of secrets; of one that is not there, how it comes to be.
fn unusable(path: &Path, error: &FileError) -> String {
    match error {
        FileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => format!(
            "{error}; copy it from another node of the cluster, or begin a cluster with `darter cluster init --out {}`",
            path.display()
        ),
        FileError::Io { source, .. } => format!("{error}{}", sandbox::hint(source)),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use darter_transport::identity::ClusterSecrets;
    use proptest::prelude::*;

    use super::super::load;
    use super::*;
    use crate::cluster::pem::{self, Authority};

    #[test]
    fn places_of_seeds() {
        let check = |text: &str, expected: Result<&str, NoTarget>| {
            let seen = text.parse().map(|target: JoinTarget| target.to_string());
            assert_eq!(seen, expected.map(str::to_owned), "{text:?}");
        };
        check("10.0.0.1:65000", Ok("10.0.0.1:65000"));
        check("[fd00::1]:65000", Ok("[fd00::1]:65000"));
        check("Seed-1.Example:1", Ok("seed-1.example:1"));
        check("seed_1:1", Ok("seed_1:1"));
        check("dns://seeds.darter.svc:65000", Ok("dns://seeds.darter.svc:65000"));
        check("dns+srv://_peers._udp.Seeds.", Ok("dns+srv://_peers._udp.seeds."));
        check("bücher.example:1", Ok("xn--bcher-kva.example:1"));
        for text in ["a", "a:", "a:0", "a:65536", "a:+1", "[fd00::1]", "10.0.0.1", "", "dns://a"] {
            check(text, Err(NoTarget::Port));
        }
        let long = format!("{}:1", "a".repeat(64));
        let longer = format!("{}a:1", "a.".repeat(127));
        for text in
            [":1", "a b:1", "a..b:1", ".:1", "[::1:1", "10.0.0.256:1", "a@b:1", "a/b:1", &long, &longer]
        {
            check(text, Err(NoTarget::Host));
        }
        check("http://a:1", Err(NoTarget::Scheme));
        check("dns+srv://a:1", Err(NoTarget::UnwantedPort));
        check("dns://10.0.0.1:1", Err(NoTarget::Address));
        check("dns+srv://", Err(NoTarget::Host));
    }

    #[test]
    fn addresses_for_others() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let seen = text.parse().map(|advertise: Advertise| advertise.to_string());
            assert_eq!(seen, expected.map(str::to_owned), "{text:?}");
        };
        for text in ["10.0.0.7", "10.0.0.7:1", "fd00::7", "[fd00::7]:1", "127.0.0.1"] {
            check(text, Ok(text));
        }
        check("[fd00::7]", Ok("fd00::7"));
        check("0.0.0.0", Err("nobody can connect to that address"));
        check("[::]:1", Err("nobody can connect to that address"));
        check("224.0.0.1", Err("nobody can connect to that address"));
        check("10.0.0.7:0", Err("nobody can connect to port 0"));
        check("node.example:1", Err("it is no address"));
        check("", Err("it is no address"));
    }

    #[test]
    fn zones() {
        assert!("eu-central-1a".parse::<Zone>().is_ok());
        assert!("ü".repeat(31).parse::<Zone>().is_ok());
        for text in ["", "a b", "a\n", "\u{7f}", &"ü".repeat(32)] {
            assert!(text.parse::<Zone>().is_err(), "{text:?}");
        }
    }

    /// What is said of a section `cluster` with these keys on line 2, `DIR` being where the files are.
    #[track_caller]
    fn check(keys: &str, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        write_identities(dir.path());
        let home = dir.path().to_str().unwrap();
        let file = dir.path().join("darter.yaml");
        let keys = keys.replace("DIR", home);
        fs::write(&file, format!("cluster:\n  {{join: ['a:1'], {keys}}}\n")).unwrap();
        let said = load(Some(&file), &[]).map_or_else(|error| error.to_string(), |_| "ok".into());
        let said = said.replace(home, "DIR");
        assert!(said == expected || expected != "ok" && said.starts_with(expected), "{said}");
    }

    fn write_identities(dir: &Path) {
        let secrets = ClusterSecrets::generate(SystemTime::now()).unwrap();
        files::write_secrets(&dir.join("seeds"), &secrets).unwrap();
        files::write_secrets(&dir.join("peers"), &secrets.for_peers()).unwrap();
        let authority = Authority::new();
        let key = authority.key();
        fs::write(dir.join("ca"), authority.pem()).unwrap();
        fs::write(dir.join("key"), pem::of_key(&key)).unwrap();
        fs::write(dir.join("other-key"), pem::of_key(&authority.key())).unwrap();
        fs::write(dir.join("peer"), authority.leaf(PEER_NAME, &key)).unwrap();
        fs::write(dir.join("seed"), authority.leaf(SEED_NAME, &key)).unwrap();
        fs::write(dir.join("foreign-ca"), Authority::new().pem()).unwrap();
    }

    #[test]
    fn secrets_are_read_at_the_start() {
        check("secretFile: DIR/seeds, role: seed", "ok");
        check("secretFile: DIR/seeds", "ok");
        check("secretFile: DIR/peers", "ok");
        let place = "DIR/darter.yaml:2: cluster.secretFile:";
        check(
            "secretFile: DIR/peers, role: seed",
            &format!(
                "{place} DIR/peers is for peers, and no seed can be made of it: give this node the other file"
            ),
        );
        check("secretFile: DIR/none", &format!("{place} cannot read DIR/none: No such file"));
        check("secretFile: DIR/ca", &format!("{place} DIR/ca is no file of cluster secrets"));
        check("secretFile: /dev/zero", &format!("{place} /dev/zero is too long"));
    }

    #[test]
    fn certificates_are_read_at_the_start() {
        let tls = |ca: &str, cert: &str, key: &str, role: &str| {
            format!("role: {role}, tls: {{ca: DIR/{ca}, cert: DIR/{cert}, key: DIR/{key}}}")
        };
        check(&tls("ca", "peer", "key", "peer"), "ok");
        check(&tls("ca", "seed", "key", "seed"), "ok");
        let place = "DIR/darter.yaml:2: cluster.tls";
        check(
            &tls("ca", "peer", "key", "seed"),
            &format!(
                "{place}.cert: the certificate in DIR/peer names peer.darter.internal: set cluster.role: peer, or"
            ),
        );
        check(
            &tls("ca", "seed", "key", "peer"),
            &format!(
                "{place}.cert: the certificate in DIR/seed names seed.darter.internal: set cluster.role: seed, or"
            ),
        );
        check(
            &tls("none", "peer", "key", "peer"),
            &format!("{place}.ca: DIR/none cannot be read: No such file"),
        );
        check(
            &tls("ca", "peer", "none", "peer"),
            &format!("{place}.key: DIR/none cannot be read: No such file"),
        );
        check(&tls("ca", "key", "key", "peer"), &format!("{place}.cert: "));
        check(
            &tls("ca", "peer", "other-key", "peer"),
            &format!("{place}.cert: cluster.tls.cert and cluster.tls.key do"),
        );
        check(
            &tls("foreign-ca", "peer", "key", "peer"),
            &format!("{place}.cert: other nodes would refuse this one"),
        );
    }

    #[test]
    fn what_is_in_the_files_is_noted_and_comments_are_nothing() {
        let dir = tempfile::tempdir().unwrap();
        write_identities(dir.path());
        let secrets = dir.path().join("peers");
        let file = dir.path().join("darter.yaml");
        let yaml = format!("cluster: {{join: ['a:1'], secretFile: {}}}", secrets.display());
        fs::write(&file, yaml).unwrap();
        let running = load(Some(&file), &[]).unwrap();
        let text = fs::read_to_string(&secrets).unwrap();
        fs::write(&secrets, format!("{text}# a comment\n")).unwrap();
        assert_eq!(load(Some(&file), &[]).unwrap().changes(&running), Default::default());
        let other = ClusterSecrets::generate(SystemTime::now()).unwrap();
        files::replace_secrets(&secrets, &other.for_peers()).unwrap();
        let changes = load(Some(&file), &[]).unwrap().changes(&running);
        assert_eq!((changes.at_once.len(), changes.at_restart.len()), (1, 0), "{changes:?}");
        assert_eq!(changes.at_once[0].key, "cluster.secretFile");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in r"(dns://|dns\+srv://|x://)?[a-zA-Z0-9._\[\]:-]{0,20}(:[0-9]{1,6})?|\PC{0,20}") {
            if let Ok(target) = text.parse::<JoinTarget>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
