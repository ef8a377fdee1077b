//! Ports, buffers of sockets, and how long a packet may be. Pure.

use std::net::SocketAddr;

use darter_transport::lane::Lanes;

use super::finding::Finding;
use crate::config::size::ByteSize;

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) ports: Vec<Port>,
    /// The process that runs on the configured data directory.
    pub(super) daemon: Option<u32>,
    /// What the kernel lets a socket's buffer hold, in bytes: received and to be sent. `None`: it does not say.
    pub(super) buffers_bytes: [Option<u64>; 2],
    /// Darter answers at the admin port, whichever it is.
    pub(super) answers: bool,
    /// How other nodes are reached; `None`: there is no cluster, and nobody uses UDP.
    pub(super) lanes: Option<Lanes>,
    /// To whom, and how long a packet on the way there may be, in bytes.
    pub(super) routes: Vec<(String, u32)>,
}

/// A port that a daemon would listen at.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// What is there.
    pub(super) what: &'static str,
    /// The flag that names another.
    pub(super) flag: &'static str,
    pub(super) address: SocketAddr,
    pub(super) state: PortState,
}

/// How it stands with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PortState {
    Free,
    /// Somebody listens there; who, if that can be seen.
    Held(Option<Process>),
    /// It is no address of this machine.
    NotOurs,
    /// This user may not.
    Denied,
    /// Anything else that the system says.
    Other(String),
}

/// Who holds a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pub(super) id: u32,
    pub(super) name: String,
}

/// What `lane` asks for.
const BUFFER_BYTES: u64 = darter_transport::lane::SOCKET_BUFFER_BYTES as u64;
/// QUIC sends no shorter first packet than 1200 bytes (RFC 9000, section 14), in a datagram of 8 bytes more, in a packet
/// of 20 or 40 more.
const MTU_MIN: u32 = 1200 + 8 + 40;

pub(super) fn findings(network: &Network) -> Vec<Finding> {
    let mut findings: Vec<_> = network.ports.iter().map(|port| of_port(port, network)).collect();
    findings.push(buffers(network));
    let lanes = network.lanes.unwrap_or_default();
    findings.extend(network.routes.iter().map(|(to, bytes)| mtu(to, *bytes, lanes)));
    findings
}

fn of_port(port: &Port, network: &Network) -> Finding {
    let daemon = network.daemon;
    let Port { what, flag, address, state } = port;
    let another = format!("stop that one, or name another address with {flag}");
    match state {
        PortState::Free => match daemon {
            Some(process) => Finding::warning(
                *what,
                format!("darter runs, process {process}, and does not listen at {address}"),
                "it was started with another configuration: give this command the same --config and flags, or restart it",
            ),
            None => Finding::ok(*what, format!("{address} is free")),
        },
        PortState::Held(Some(process)) if Some(process.id) == daemon => {
            Finding::ok(*what, format!("{address}: darter listens, process {}", process.id))
        }
        PortState::Held(Some(Process { id, name })) if name == "darter" => Finding::failed(
            *what,
            format!("another darter, process {id}, with another data directory, listens at {address}"),
            another,
        ),
        PortState::Held(Some(Process { id, name })) if name == "systemd" && daemon.is_none() => {
            Finding::warning(
                *what,
                format!("{name}, process {id}, listens at {address}, by a socket unit"),
                "right if systemctl list-sockets says that it is for darter.service; else stop that unit",
            )
        }
        PortState::Held(Some(Process { id, name })) => {
            Finding::failed(*what, format!("{name}, process {id}, listens at {address}"), another)
        }
        PortState::Held(None) if daemon.is_some() => Finding::ok(
            *what,
            format!("{address} is taken, by darter, as it seems; only root can see by whom"),
        ),
        PortState::Held(None) if network.answers => Finding::warning(
            *what,
            format!(
                "{address} is taken, and darter answers at the admin port; whether it is this one only root can see"
            ),
            "run this command as root or as the user that runs darter, and in its container",
        ),
        PortState::Held(None) => Finding::failed(
            *what,
            format!("somebody listens at {address}"),
            format!("see who with ss -lntup as root; then {another}"),
        ),
        PortState::NotOurs => Finding::failed(
            *what,
            format!("{address} is no address of this machine"),
            format!("name one that is with {flag}; 0.0.0.0 means all of them"),
        ),
        PortState::Denied => Finding::failed(
            *what,
            format!("this user may not listen at {address}"),
            format!("name a port from 1024 on with {flag}, or give darter CAP_NET_BIND_SERVICE"),
        ),
        PortState::Other(reason) => Finding::failed(
            *what,
            format!("{address}: {reason}"),
            format!("name another address with {flag}"),
        ),
    }
}

fn buffers(network: &Network) -> Finding {
    const CHECK: &str = "UDP buffers";
    let [received, sent] = network.buffers_bytes;
    let shown =
        |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
    let seen = format!("net.core.rmem_max {}, wmem_max {}", shown(received), shown(sent));
    let is_small = |bytes: Option<u64>| bytes.is_some_and(|bytes| bytes < BUFFER_BYTES);
    match is_small(received) || is_small(sent) {
        true if network.lanes.is_some() => Finding::warning(
            CHECK,
            format!("{seen}: packets of other nodes get lost when many come at once"),
            format!(
                "sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, and in /etc/sysctl.d"
            ),
        ),
        true => Finding::ok(CHECK, format!("{seen}; this node is in no cluster and needs none")),
        false => Finding::ok(CHECK, seen),
    }
}

fn mtu(to: &str, bytes: u32, lanes: Lanes) -> Finding {
    const CHECK: &str = "MTU";
    let seen = format!("packets to {to} may have {bytes} bytes");
    let short = || format!("{seen}, and QUIC needs {MTU_MIN}");
    match lanes {
        _ if bytes >= MTU_MIN => Finding::ok(CHECK, seen),
        Lanes::Tcp => Finding::ok(CHECK, format!("{seen}, enough for TCP")),
        Lanes::Auto => Finding::warning(
            CHECK,
            format!("{}: it is reached by TCP, after a wait for QUIC", short()),
            "raise the MTU of that interface or tunnel, or set cluster.transport: tcp, which does not wait",
        ),
        Lanes::Quic => Finding::failed(
            CHECK,
            short(),
            "raise the MTU of that interface or tunnel, or set cluster.transport: auto or tcp",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn network() -> Network {
        Network {
            ports: Vec::new(),
            daemon: None,
            buffers_bytes: [Some(8 << 20); 2],
            answers: false,
            lanes: Some(Lanes::Auto),
            routes: Vec::new(),
        }
    }

    fn check(state: PortState, daemon: Option<u32>, level: Level, words: &[&str]) {
        check_in(Network { daemon, ..network() }, state, level, words);
    }

    fn check_in(network: Network, state: PortState, level: Level, words: &[&str]) {
        let address = ([127, 0, 0, 1], 65001).into();
        let port = Port { what: "front", flag: "--front", address, state };
        let network = Network { ports: vec![port], ..network };
        let finding = &findings(&network)[0];
        let said = format!("{} {}", finding.seen, finding.advice.as_deref().unwrap_or_default());
        assert_eq!(finding.level, level, "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said:?}");
        }
    }

    #[test]
    fn ports_are_free_or_ours_or_somebody_elses() {
        let held = |id, name: &str| PortState::Held(Some(Process { id, name: name.into() }));
        check(PortState::Free, None, Level::Ok, &["127.0.0.1:65001 is free"]);
        check(PortState::Free, Some(7), Level::Warning, &["process 7", "does not listen", "--config"]);
        check(held(7, "darter"), Some(7), Level::Ok, &["darter listens, process 7"]);
        check(held(8, "darter"), Some(7), Level::Failed, &["another darter, process 8", "--front"]);
        check(held(8, "darter"), None, Level::Failed, &["another darter"]);
        check(held(9, "nginx"), None, Level::Failed, &["nginx, process 9", "--front"]);
        check(
            held(1, "systemd"),
            None,
            Level::Warning,
            &["systemd, process 1", "socket unit", "list-sockets"],
        );
        check(held(1, "systemd"), Some(7), Level::Failed, &["systemd, process 1"]);
        check(PortState::Held(None), Some(7), Level::Ok, &["by darter, as it seems"]);
        check(PortState::Held(None), None, Level::Failed, &["ss -lntup"]);
        let answering = || Network { answers: true, ..network() };
        check_in(answering(), PortState::Held(None), Level::Warning, &["only root can see", "its container"]);
        check_in(answering(), held(9, "nginx"), Level::Failed, &["nginx, process 9"]);
        check(PortState::NotOurs, None, Level::Failed, &["no address of this machine"]);
        check(PortState::Denied, None, Level::Failed, &["CAP_NET_BIND_SERVICE"]);
        check(PortState::Other("odd".into()), None, Level::Failed, &["odd"]);
    }

    #[test]
    fn buffers_count_in_a_cluster() {
        let check = |buffers_bytes, in_cluster, level| {
            let lanes = Some(Lanes::Auto).filter(|_| in_cluster);
            let finding = buffers(&Network { buffers_bytes, lanes, ..network() });
            assert_eq!(finding.level, level, "{finding:?}");
        };
        check([Some(212_992); 2], true, Level::Warning);
        check([Some(4 << 20), Some(212_992)], true, Level::Warning);
        check([Some(2 << 20); 2], true, Level::Ok);
        check([None; 2], true, Level::Ok);
        check([Some(212_992); 2], false, Level::Ok);
    }

    #[test]
    fn short_packets_are_no_quic() {
        let check = |bytes, lanes, level| assert_eq!(mtu("10.0.0.1:65000", bytes, lanes).level, level);
        check(1247, Lanes::Quic, Level::Failed);
        check(1247, Lanes::Auto, Level::Warning);
        check(1247, Lanes::Tcp, Level::Ok);
        check(1280, Lanes::Quic, Level::Ok);
    }
}
