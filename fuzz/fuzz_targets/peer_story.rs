//! What other nodes say, one message after the other, to a seed that owns a plot and to a node that brings it.
//!
//! Each part is a byte that says who speaks and how much time has passed, and a frame. Whatever is said, the books keep
//! their limits, and each side comes to rest after each message.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darter_engine::{ContentId, Layout, Scope};
use darter_transport::attestations::Attestations;
use darter_transport::block_set::BlockSet;
use darter_transport::boot::Boot;
use darter_transport::chance::Chance;
use darter_transport::download::{Download, Source, Step};
use darter_transport::node::{Node, NodeId};
use darter_transport::schedule::{AHEAD_BLOCKS, Asker, LazyAsk, Own};
use darter_transport::span::{Plot, SpanIndex};
use darter_transport::tracker::Tracker;
use darter_transport::wire::{
    CANDIDATES_MAX, Decoded, FrameHead, HEAD_BYTES, MESSAGE_BYTES_MAX, Message, Text,
};
use libfuzzer_sys::fuzz_target;

const BLOCKS: u32 = 100;
/// What is attested belongs to this plot: the message does not say to which.
static PLOT: LazyLock<Plot> = LazyLock::new(|| {
    let (content, span) = (ContentId::from_bytes([7; 32]), SpanIndex::FIRST);
    Plot { content, scope: Scope::Verified, span }
});

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut chance = Chance::seeded(1);
    let mut tracker = Tracker::new();
    let attestations = Attestations::new();
    let mut download = Download::new(BLOCKS, &BlockSet::EMPTY);
    download.want_all();
    let mut left = input;
    while let Some((who, rest)) = left.split_first() {
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else { return };
        let Ok(head) = FrameHead::decode(*head) else { return };
        let (payload, rest) =
            rest.split_at(rest.len().min(head.payload_bytes as usize).min(MESSAGE_BYTES_MAX as usize));
        left = rest;
        now += Duration::from_millis(u64::from(who >> 4) * 100);
        let who = NodeId::from_bytes([who & 15; 32]);
        let address = ([127, 0, 0, 1], 1).into();
        tracker.meet(Node { id: who, address, zone: Text::cut("") });
        let Ok(Decoded::Message(message)) = Message::decode(head, Bytes::copy_from_slice(payload)) else {
            continue;
        };
        match message {
            Message::Holds(holds) => tracker.record(&who, &holds, now),
            Message::Complain(complaint) => _ = tracker.complain(&who, &complaint, now),
            Message::Purge(purge) => {
                tracker.purge(&purge.content, purge.scope);
                attestations.forget(&purge.content, purge.scope);
                assert!(tracker.members_of(&purge.content, purge.scope).is_empty());
            }
            Message::Leaving(_) => tracker.part(&who),
            Message::MapPart(part) => tracker.adopt(&part.plot, &part.holders, now),
            Message::FindParents(find) => {
                let (asker, wanted) = (Asker { id: who, zone: "" }, usize::from(find.wanted));
                let parents = tracker.parents(asker, &find.plot, &find.known, wanted, now, &mut chance);
                assert!(parents.len() <= CANDIDATES_MAX.min(wanted));
                assert!(
                    parents
                        .iter()
                        .all(|parent| parent.node.id != who && !find.known.contains(&parent.node.id))
                );
            }
            Message::Want(want) if want.any => {
                let own =
                    &Own { here: BlockSet::first(BLOCKS / 2), attested: attestations.known(&want.plot) };
                let (plot, places, failed) = (&want.plot, &want.places, &want.failed);
                let ask = LazyAsk { asker: Asker { id: who, zone: "" }, plot, places, failed, own };
                let brought = tracker.to_bring(&ask, places, &mut chance);
                assert!(brought.minus(places).is_empty() && brought.and(&own.here).is_empty());
                assert!(brought.len() <= AHEAD_BLOCKS);
                let given = tracker.rarest(&ask, places, 4, now, &mut chance);
                assert!(given.minus(places).is_empty() && given.is_empty() == places.is_empty());
                let (elsewhere, _) = tracker.elsewhere(&ask, now, &mut chance);
                let held = tracker.holders(plot).fold(BlockSet::EMPTY, |all, holder| all.or(&holder.held));
                assert!(elsewhere.minus(&held).is_empty() && elsewhere.and(&own.here).is_empty());
                assert!(elsewhere.minus(&own.attested).is_empty() && elsewhere.minus(places).is_empty());
                tracker.expect_nothing(&who, plot, places);
            }
            Message::Want(want) => {
                let asker = Asker { id: who, zone: "" };
                let (plot, places, failed) = (&want.plot, &want.places, &want.failed);
                // An owner that has the blocks of the first half and can tell the digests of the second.
                let here = BlockSet::first(BLOCKS / 2);
                let own =
                    &Own { here, attested: if want.stand_in { BlockSet::EMPTY } else { BlockSet::full() } };
                let lazy = tracker.lazy(&LazyAsk { asker, plot, places, failed, own }, now, &mut chance);
                assert!(lazy.send.minus(&here).is_empty() && lazy.bring.and(&here).is_empty());
                let mut answered = lazy.send.or(&lazy.bring);
                for holder in &lazy.holders {
                    assert!(holder.node.id != who && !want.failed.contains(&holder.node.id));
                    answered = answered.or(&holder.held).or(&holder.coming);
                }
                tracker.holders(plot).for_each(|holder| answered = answered.or(&holder.held));
                assert!(want.places.minus(&answered).is_empty(), "each block is sent, or somebody has it");
            }
            Message::Holders(holders) => download.named(&holders.holders, ""),
            Message::Have(have) => download.have(&who, &have),
            Message::Attested(attested) => {
                let told = BlockSet::run(attested.first.into(), attested.digests.len() as u32);
                attestations.attest(&PLOT, attested.first.into(), &attested.digests);
                assert!(told.minus(&attestations.known(&PLOT)).is_empty());
                for (first, digests) in attestations.runs(&PLOT, &told) {
                    let of_run = attested.digests.iter().skip((first - u32::from(attested.first)) as usize);
                    assert!(of_run.take(digests.len()).eq(&digests));
                }
                download.attested(&BlockSet::run(attested.first.into(), attested.digests.len() as u32));
            }
            Message::Take(take) => download.ended(&Source::Parent(who), &take.places),
            Message::Refused(refused) => {
                download.refused(&Source::Parent(who), &BlockSet::full(), refused.reaction(), now);
            }
            Message::Blocks(blocks) => {
                for place in blocks.places().into_iter().flatten() {
                    _ = download.arrived(&Source::Parent(who), place, place % 7 != 0, now);
                }
            }
            Message::BootOrder(order) => {
                let layout = Layout::new(u64::from(BLOCKS) * 65_536).expect("a short one");
                let mut boot = Boot::begin(layout, now);
                let mut ahead = boot.recalled(&order.runs);
                for block in layout.whole().into_iter().flat_map(|run| run.blocks()) {
                    let run = layout.run(block.number(), block.number() + 1).expect("one that there is");
                    ahead.extend(boot.read(run, now));
                }
                let brought = ahead.len();
                ahead.sort_unstable();
                ahead.dedup();
                assert_eq!(ahead.len(), brought, "each block is brought once");
            }
            _ => {}
        }
        for steps in 0.. {
            let Some(step) = download.poll(now, &mut chance) else { break };
            assert!(steps < 300, "it does not come to rest");
            if let Step::Take { places, .. } | Step::Want { places, .. } = step {
                assert!(places.minus(&BlockSet::first(BLOCKS)).is_empty());
            }
        }
        assert!(download.held().minus(&BlockSet::first(BLOCKS)).is_empty());
    }
});
