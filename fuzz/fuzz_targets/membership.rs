//! What another seed says to a seed of the membership, packet after packet.
//!
//! Each part is a byte that says how much time has passed, a byte that says how long the packet is, in eighths of a hundred
//! bytes, and the packet. Whatever is said, its books keep their limits, and what it sends is short enough.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_transport::chance::Chance;
use darter_transport::membership::{MEMBERS_MAX, Membership, Output};
use darter_transport::node::{Node, NodeId};
use darter_transport::wire::{GOSSIP_BYTES_MAX, SEEDS_MAX, Text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let node = |byte: u8| Node {
        id: NodeId::from_bytes([byte; 32]),
        address: ([192, 0, 2, byte], 40_902).into(),
        zone: Text::cut("a"),
    };
    let mut membership = Membership::new(node(2), 4096, 8, Chance::seeded(1), now);
    membership.meet(node(1), now);
    let mut left = input;
    while let Some(([time, eighths], rest)) = left.split_first_chunk() {
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(*eighths) * 12));
        left = rest;
        now += Duration::from_millis(u64::from(*time) * 20);
        // Who sent it is told by the connection; here the packet is believed, so that what is behind this is reached.
        let Some(from) = packet.first_chunk::<32>() else { return };
        let _ = membership.received(&NodeId::from_bytes(*from), Bytes::copy_from_slice(packet), now);
        membership.tick(now);
        let mut outputs = 0;
        while let Some(output) = membership.poll() {
            outputs += 1;
            if let Output::Send { packet, .. } = output {
                assert!(packet.len() <= GOSSIP_BYTES_MAX);
            }
        }
        assert!(outputs <= 8 * MEMBERS_MAX, "{outputs} at a time");
        assert!(membership.others().count() < SEEDS_MAX);
        let [entries, timers, news] = membership.sizes();
        assert!(entries <= MEMBERS_MAX && timers <= MEMBERS_MAX + 5 && news <= 3 * MEMBERS_MAX);
    }
});
