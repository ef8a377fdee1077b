//! Ports of this machine, and the way to seeds. No port is ever listened at: a daemon may start in this moment.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::IpMtu};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::super::network::{PortState, Process};
use super::super::sockets::{Protocol, holders};
use super::{PROCESSES_MAX, text};

/// How it stands with an address.
pub(in super::super) fn state(address: SocketAddr, protocol: Protocol) -> PortState {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let held = tables.iter().filter_map(text).flat_map(|table| holders(&table, protocol, address));
    let held: Vec<u64> = held.collect();
    if !held.is_empty() {
        return PortState::Held(process_with(&held));
    }
    // A bound TCP socket that does not listen is in nobody's way who reuses addresses, as darter does. A UDP socket would
    // be, and its address is that of a TCP socket too.
    if protocol == Protocol::Udp {
        return PortState::Free;
    }
    match try_bind(address) {
        Ok(()) => PortState::Free,
        Err(Errno::ADDRINUSE) => PortState::Held(None),
        Err(Errno::ADDRNOTAVAIL) => PortState::NotOurs,
        Err(Errno::ACCESS) => PortState::Denied,
        Err(error) => PortState::Other(error.to_string()),
    }
}

fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&bound, true)?;
    bind(&bound, &address)
}

/// The process that has one of these sockets, among those that this user may look into. A service manager that keeps a
/// socket for darter has it, too: darter comes first.
fn process_with(inodes: &[u64]) -> Option<Process> {
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    let mut holding = processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter_map(|(id, path): (u32, _)| {
            has_one(&path, &wanted).then(|| Process { id, name: name(&path) })
        });
    let first = holding.next()?;
    match first.name.as_str() {
        "darter" => Some(first),
        _ => Some(holding.find(|process| process.name == "darter").unwrap_or(first)),
    }
}

fn has_one(process: &Path, wanted: &[String]) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else { return false };
    let links = open.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    links.into_iter().any(|link| wanted.iter().any(|wanted| link.as_os_str() == wanted.as_str()))
}

fn name(process: &Path) -> String {
    text(process.join("comm")).unwrap_or_default().trim().to_owned()
}

/// How long a packet to that address may be by the routes of this machine, in bytes. Nothing is sent.
pub(in super::super) fn mtu_to(address: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(_) = address else { return None };
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(address).ok()?;
    u32::try_from(getsockopt(&socket, IpMtu).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn ports_are_held_or_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own =
            PortState::Held(Some(Process { id: std::process::id(), name: name("/proc/self".as_ref()) }));
        assert_eq!(state(address, Protocol::Tcp), own);
        assert_eq!(state(address, Protocol::Udp), PortState::Free);
        drop(listener);
        assert_eq!(state(address, Protocol::Tcp), PortState::Free);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(state(udp.local_addr().unwrap(), Protocol::Udp), own);
        // TEST-NET-1 (RFC 5737).
        assert_eq!(state("192.0.2.1:65001".parse().unwrap(), Protocol::Tcp), PortState::NotOurs);
    }

    #[test]
    fn loopback_takes_long_packets() {
        assert!(mtu_to("127.0.0.1:9".parse().unwrap()).is_some_and(|bytes| bytes >= 1500));
    }
}
