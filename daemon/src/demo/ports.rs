//! Ports for the nodes: free ones, without luck.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Below Linux's default range for outgoing connections (from 32768), so that none of those takes a port while
/// a node is down between its two starts.
const PORTS: Range<u16> = 12_768..32_768;

/// Of a node.
const NODE_PORTS: u16 = 3;

/// One demo's: for the seed and at most eight peers.
const GROUP_PORTS: u16 = 32;
pub(super) const NODES_MAX: usize = 9;
const _: () = assert!(NODES_MAX * NODE_PORTS as usize <= GROUP_PORTS as usize);

/// Where a node is reached, all on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) front: SocketAddr,
    pub(super) admin: SocketAddr,
    /// For other nodes, by UDP and TCP.
    pub(super) peers: SocketAddr,
}

/// Addresses for `nodes` nodes, at most [`NODES_MAX`], that were free a moment ago: the children bind them
/// themselves, and say so if they cannot.
pub(super) fn free_addresses(nodes: usize) -> io::Result<Vec<Addresses>> {
    let count = nodes.min(NODES_MAX) as u16;
    let all_free = |first: &u16| (*first..*first + count * NODE_PORTS).all(is_free);
    let first = group_starts(std::process::id()).find(all_free).ok_or(io::ErrorKind::AddrInUse)?;
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let node = |number| {
        let front = first + number * NODE_PORTS;
        Addresses { front: at(front), admin: at(front + 1), peers: at(front + 2) }
    };
    Ok((0..count).map(node).collect())
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

/// The first ports of all groups in an order of this process's own: demos that start at the same moment look at
/// different ones, so that none takes what another has found free and not yet bound, or has let go for a restart.
fn group_starts(process_id: u32) -> impl Iterator<Item = u16> {
    let count = u32::from(PORTS.end - PORTS.start) / u32::from(GROUP_PORTS);
    // Coprime to the number of groups, so that each comes once, and far from the neighbouring processes' own.
    const STRIDE: u32 = 211;
    let groups = (0..count).map(move |step| (process_id % count + step * STRIDE) % count);
    groups.map(|group| PORTS.start + GROUP_PORTS * group as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighbouring_processes_look_at_different_ports_first() {
        let firsts: HashSet<_> = (1000..1100).flat_map(|process| group_starts(process).take(2)).collect();
        assert_eq!(firsts.len(), 200);
        let all: HashSet<_> = group_starts(7).flat_map(|start| start..start + GROUP_PORTS).collect();
        assert_eq!(all, PORTS.collect());
    }

    #[test]
    fn no_port_is_given_twice() {
        let nodes = free_addresses(NODES_MAX).unwrap();
        let ports = nodes.iter().flat_map(|node| [node.front, node.admin, node.peers]);
        assert_eq!(ports.collect::<HashSet<_>>().len(), NODES_MAX * usize::from(NODE_PORTS));
    }
}
