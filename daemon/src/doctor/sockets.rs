//! Who listens where: texts like `/proc/net/tcp`. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A protocol whose ports are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// The inodes of the sockets that keep `address` from being listened at. `table` is of one version of IP.
pub(super) fn holders(table: &str, protocol: Protocol, address: SocketAddr) -> Vec<u64> {
    let sockets = table.lines().skip(1).filter_map(|line| {
        // `0: 0100007F:FDE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 …`
        let mut words = line.split_whitespace();
        let (local, state) = (words.nth(1)?, words.nth(1)?);
        let inode: u64 = words.nth(5)?.parse().ok()?;
        // In state 0A it listens; a UDP socket with a local port is always in the way.
        let counts = protocol == Protocol::Udp || state == "0A";
        (counts && is_in_the_way(socket_address(local)?, address)).then_some(inode)
    });
    sockets.collect()
}

/// Two sockets on one port, of which one takes what is for any address, or both for the same.
fn is_in_the_way(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (held_ip, wanted_ip) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    let any = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    held.port() == wanted.port()
        && (held_ip == wanted_ip || any(held_ip, wanted_ip) || any(wanted_ip, held_ip))
}

/// `0100007F:FDE9`: the address as 32-bit words of this machine, the port as a number.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !ip.is_ascii() {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:FDE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n   1: 00000000:9FC5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0\n   2: 0100007F:FDE9 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0\n";
    const TCP6: &str = "head\n 0: 00000000000000000000000001000000:FDE9 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 21 1\n 1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 22 1\n";

    fn check(table: &str, protocol: Protocol, address: &str, expected: &[u64]) {
        assert_eq!(holders(table, protocol, address.parse().expect("an address")), expected, "{address}");
    }

    #[test]
    fn listeners_are_found() {
        check(TCP, Protocol::Tcp, "127.0.0.1:65001", &[11]);
        check(TCP, Protocol::Tcp, "0.0.0.0:65001", &[11]);
        check(TCP, Protocol::Tcp, "10.0.0.1:65001", &[]);
        check(TCP, Protocol::Tcp, "10.0.0.1:40901", &[12]);
        check(TCP, Protocol::Tcp, "[::1]:40901", &[]);
        check(TCP, Protocol::Udp, "127.0.0.1:65001", &[11, 13]);
        check(TCP6, Protocol::Tcp, "[::1]:65001", &[21]);
        check(TCP6, Protocol::Tcp, "127.0.0.1:80", &[22]);
        check(TCP6, Protocol::Tcp, "127.0.0.1:65001", &[]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC*\n){0,3}", port in 1_u16..) {
            let _ = holders(&text, Protocol::Tcp, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
            let _ = socket_address(&text);
        }
    }
}
