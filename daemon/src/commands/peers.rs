//! `darter peers`: who is in the cluster, and what flows between them and this node.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde::Serialize;

use super::admin_client::AdminClient;
use super::text::{self, Table, plain};
use super::{AdminArgs, CommandError, output};
use crate::admin::peers::{LaneInfo, NodeInfo, PeerInfo, PeersInfo, RoleInfo, StandingInfo, StateInfo};

/// The flags of `darter peers`.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
}

/// Over which rates are measured.
const MEASURED: Duration = Duration::from_secs(1);
/// Characters of a zone that are shown.
const ZONE_CHARS_MAX: usize = 63;

/// Asks the daemon twice, a second apart, and prints the nodes that it knows: their roles, zones and addresses, how they
/// are connected, and what has moved and moves between them and the daemon's node.
///
/// # Errors
/// The daemon does not answer, or is in no cluster.
pub fn run(args: &PeersArgs) -> Result<(), CommandError> {
    let client = AdminClient::new(&args.admin);
    let (before, after) = super::run_to_end(async {
        let before: PeersInfo = client.call(Method::GET, "peers").await?;
        tokio::time::sleep(MEASURED).await;
        Ok((before, client.call::<PeersInfo>(Method::GET, "peers").await?))
    })?;
    let measured = measured(&before, after);
    if args.admin.json {
        return output::print_json(&measured);
    }
    output::print(&text_of(&measured, args.no_trunc))
}

/// The cluster with rates.
#[derive(Debug, Serialize)]
struct Measured {
    node: NodeInfo,
    standing: StandingInfo,
    peers: Vec<Flowing>,
}

/// Another node, and what flows in this second.
#[derive(Debug, Serialize)]
struct Flowing {
    #[serde(flatten)]
    peer: PeerInfo,
    sent_bytes_per_s: u64,
    received_bytes_per_s: u64,
}

/// What has moved from one answer to the next. A count that has begun anew says nothing of its past.
fn measured(before: &PeersInfo, after: PeersInfo) -> Measured {
    let elapsed_ms = after.at_ms.saturating_sub(before.at_ms);
    let earlier: HashMap<_, _> = before.peers.iter().map(|peer| (&*peer.node.id, peer)).collect();
    let per_s = |before: u64, after: u64| {
        let moved = after.checked_sub(before).unwrap_or(after);
        let per_s = (u128::from(moved) * 1000).checked_div(u128::from(elapsed_ms)).unwrap_or(0);
        u64::try_from(per_s).unwrap_or(u64::MAX)
    };
    let flowing = |peer: PeerInfo| {
        let (sent, received) = earlier
            .get(&*peer.node.id)
            .map_or((0, 0), |earlier| (earlier.sent_bytes, earlier.received_bytes));
        Flowing {
            sent_bytes_per_s: per_s(sent, peer.sent_bytes),
            received_bytes_per_s: per_s(received, peer.received_bytes),
            peer,
        }
    };
    let peers = after.peers.into_iter().map(flowing).collect();
    Measured { node: after.node, standing: after.standing, peers }
}

fn text_of(measured: &Measured, is_whole: bool) -> String {
    let Measured { node, standing, peers } = measured;
    let mut ids: Vec<&str> = peers.iter().map(|flowing| &*flowing.peer.node.id).chain([&*node.id]).collect();
    ids.sort_unstable();
    let digits = if is_whole { usize::MAX } else { text::short_digits(ids.into_iter()) };
    let id = |node: &NodeInfo| plain(node.id.get(..digits).unwrap_or(&node.id), 64);
    let mut table = Table::new([
        "NODE", "ROLE", "ZONE", "ADDRESS", "STATE", "LANE", "SENT", "RECEIVED", "SENDS", "RECEIVES",
    ]);
    let own = ["this node", "", "", "", "", ""].map(str::to_owned);
    let [state, lane, sent, received, sends, receives] = own;
    table.row([
        id(node),
        role(node.role).into(),
        zone(node),
        node.address.to_string(),
        state,
        lane,
        sent,
        received,
        sends,
        receives,
    ]);
    for Flowing { peer, sent_bytes_per_s, received_bytes_per_s } in peers {
        table.row([
            id(&peer.node),
            role(peer.node.role).into(),
            zone(&peer.node),
            peer.node.address.to_string(),
            state_of(peer.state).into(),
            peer.lanes.iter().copied().map(lane_of).collect::<Vec<_>>().join("+"),
            text::mib(peer.sent_bytes),
            text::mib(peer.received_bytes),
            format!("{}/s", text::mib(*sent_bytes_per_s)),
            format!("{}/s", text::mib(*received_bytes_per_s)),
        ]);
    }
    let is_seed = |flowing: &&Flowing| flowing.peer.node.role == RoleInfo::Seed;
    let seeds = peers.iter().filter(is_seed).count() + usize::from(node.role == RoleInfo::Seed);
    let said = match standing {
        StandingInfo::Joining => {
            "this node has reached no seed yet and goes to registries by itself: are cluster.join and the ports right? The \
             log says more"
                .into()
        }
        StandingInfo::Alone => "this node is the only seed that it knows".into(),
        StandingInfo::Joined | StandingInfo::Other => {
            format!("{} nodes are known here, {seeds} of them seeds", peers.len() + 1)
        }
        StandingInfo::Leaving => "this node leaves the cluster".into(),
    };
    format!("{}{said}\n", table.render())
}

fn zone(node: &NodeInfo) -> String {
    plain(&node.zone, ZONE_CHARS_MAX)
}

fn role(role: RoleInfo) -> &'static str {
    match role {
        RoleInfo::Peer => "peer",
        RoleInfo::Seed => "seed",
        RoleInfo::Other => "?",
    }
}

fn state_of(state: StateInfo) -> &'static str {
    match state {
        StateInfo::Known => "known",
        StateInfo::Connected => "connected",
        StateInfo::Leaving => "leaving",
        StateInfo::Other => "?",
    }
}

fn lane_of(lane: LaneInfo) -> &'static str {
    match lane {
        LaneInfo::Quic => "quic",
        LaneInfo::Tcp => "tcp",
        LaneInfo::Other => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8, role: RoleInfo) -> NodeInfo {
        let address = ([10, 0, 0, number], 65000).into();
        NodeInfo { id: format!("{number:02x}").repeat(32), role, address, zone: "rack-1".into() }
    }

    fn peer(number: u8, sent_bytes: u64, received_bytes: u64) -> PeerInfo {
        PeerInfo {
            node: node(number, RoleInfo::Peer),
            state: StateInfo::Connected,
            lanes: vec![LaneInfo::Quic],
            connections: 1,
            sent_bytes,
            received_bytes,
        }
    }

    fn info(at_ms: u64, peers: Vec<PeerInfo>) -> PeersInfo {
        PeersInfo { at_ms, node: node(1, RoleInfo::Seed), standing: StandingInfo::Joined, peers }
    }

    #[test]
    fn rates_are_by_the_daemons_clock() {
        let before = info(1000, vec![peer(2, 1 << 20, 0), peer(3, 900, 900)]);
        let after = info(1500, vec![peer(2, 3 << 20, 10), peer(3, 100, 1000), peer(4, 50, 0)]);
        let measured = measured(&before, after);
        let rates: Vec<_> = measured
            .peers
            .iter()
            .map(|flowing| (flowing.sent_bytes_per_s, flowing.received_bytes_per_s))
            .collect();
        // The second has begun anew; the third was not there.
        assert_eq!(rates, [(4 << 20, 20), (200, 200), (100, 0)]);
    }

    #[test]
    fn no_time_is_no_rate() {
        let measured = measured(&info(7, Vec::new()), info(7, vec![peer(2, 5, 5)]));
        assert_eq!(measured.peers[0].sent_bytes_per_s, 0);
    }

    #[test]
    fn nodes_are_listed() {
        let mut told = peer(3, 0, 0);
        told.state = StateInfo::Known;
        told.lanes = Vec::new();
        told.node.zone = "\x1b[31m".into();
        let peers = vec![peer(2, 3 << 20, 1 << 20), told];
        let measured = measured(&info(0, vec![peer(2, 1 << 20, 1 << 20)]), info(1000, peers));
        let expected = "\
NODE          ROLE  ZONE    ADDRESS         STATE      LANE  SENT     RECEIVED  SENDS      RECEIVES
010101010101  seed  rack-1  10.0.0.1:65000  this node
020202020202  peer  rack-1  10.0.0.2:65000  connected  quic  3.0 MiB  1.0 MiB   2.0 MiB/s  0.0 MiB/s
030303030303  peer   [31m   10.0.0.3:65000  known            0.0 MiB  0.0 MiB   0.0 MiB/s  0.0 MiB/s
3 nodes are known here, 1 of them seeds
";
        assert_eq!(text_of(&measured, false), expected);
        assert!(text_of(&measured, true).contains(&"02".repeat(32)));
    }

    #[test]
    fn who_has_found_no_seed_is_told_what_to_look_at() {
        let joining = PeersInfo { standing: StandingInfo::Joining, ..info(0, Vec::new()) };
        let said = text_of(&measured(&joining, joining.clone()), false);
        assert!(said.contains("cluster.join"), "{said}");
    }
}
