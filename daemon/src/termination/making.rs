//! A new authority for clients of the forward proxy.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use url::Host;

/// How long it holds. Clients would have to be given another one.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks may be behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Both files, as PEM.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Makes an authority that is believed for these hosts and for names below them, or, without any, for all. ECDSA on
/// P-256, which every client knows.
///
/// # Errors
/// There are no random numbers, or a name is none of a certificate.
pub(crate) fn make(hosts: &[Host], now: SystemTime) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Two of them have two names, so that a client can believe both.
    let number = KeyPair::public_key_raw(&key).iter().rev().take(4).map(|byte| format!("{byte:02x}"));
    let name = format!("darter forward proxy {}", number.collect::<String>());
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    params.not_after = (now + LIFETIME).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if !hosts.is_empty() {
        params.name_constraints = Some(only_for(hosts));
    }
    let certificate = params.self_signed(&key)?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// What is not named of a kind is free in that kind, so both kinds are always named.
fn only_for(hosts: &[Host]) -> NameConstraints {
    let whole = |address: IpAddr| match address {
        IpAddr::V4(address) => CidrSubnet::from_v4_prefix(address.octets(), 32),
        IpAddr::V6(address) => CidrSubnet::from_v6_prefix(address.octets(), 128),
    };
    let subtree = |host: &Host| match host {
        Host::Domain(name) => GeneralSubtree::DnsName(name.clone()),
        Host::Ipv4(address) => GeneralSubtree::IpAddress(whole((*address).into())),
        Host::Ipv6(address) => GeneralSubtree::IpAddress(whole((*address).into())),
    };
    let mut permitted_subtrees: Vec<_> = hosts.iter().map(subtree).collect();
    let mut excluded_subtrees = Vec::new();
    if !hosts.iter().any(|host| matches!(host, Host::Domain(_))) {
        permitted_subtrees.push(GeneralSubtree::DnsName("invalid".into()));
    }
    if hosts.iter().all(|host| matches!(host, Host::Domain(_))) {
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)));
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)));
    }
    NameConstraints { permitted_subtrees, excluded_subtrees }
}
