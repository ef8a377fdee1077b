use super::*;
use crate::span::SpanIndex;
use crate::wire::{HEAD_BYTES, MESSAGE_BYTES_MAX};
use proptest::prelude::*;

pub(crate) fn hello() -> Hello {
    Hello {
        version_oldest: 1,
        version_newest: 1,
        role: Role::Seed,
        address: ([192, 0, 2, 1], 40_902).into(),
        zone: Text::cut("a"),
        capacity_slots: 4096,
        shards: 4,
        software: Text::cut("darter 1"),
        apart: false,
    }
}

fn decode(frame: &Bytes) -> Result<Decoded, Malformed> {
    let head = FrameHead::decode(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
    assert_eq!(head.payload_bytes as usize, frame.len() - HEAD_BYTES);
    Message::decode(head, frame.slice(HEAD_BYTES..))
}

prop_compose! {
    fn set()(places in prop::collection::vec(0..SPAN_BLOCKS, 0..40)) -> BlockSet {
        places.into_iter().collect()
    }
}
prop_compose! {
    fn node()(id: [u8; 32], v6: bool, ip: [u8; 16], port: u16, zone in "\\PC{0,12}") -> Node {
        let [a, b, c, d, ..] = ip;
        let address = if v6 { (ip, port).into() } else { ([a, b, c, d], port).into() };
        Node { id: NodeId::from_bytes(id), address, zone: Text::cut(&zone) }
    }
}
fn scope() -> impl Strategy<Value = Scope> {
    any::<Option<[u8; 32]>>().prop_map(|bytes| {
        bytes.map_or(Scope::Verified, |bytes| Scope::Registry(RegistryScope::from_bytes(bytes)))
    })
}
prop_compose! {
    fn plot()(content: [u8; 32], scope in scope(), span: u32) -> Plot {
        Plot { content: ContentId::from_bytes(content), scope, span: SpanIndex::from_number(span) }
    }
}
prop_compose! {
    fn holder()(node in node(), held in set(), coming in set(), busy: u8) -> Holder {
        Holder { node, held, coming, load: Load { busy } }
    }
}
fn opaque<const MAX: usize>() -> impl Strategy<Value = Opaque<MAX>> {
    prop::collection::vec(any::<u8>(), 0..200)
        .prop_map(|bytes| Opaque::new(bytes.into()).expect("a short one"))
}
fn boot_runs() -> impl Strategy<Value = List<BootRun, BOOT_RUNS_MAX>> {
    prop::collection::vec(any::<(u32, u16)>(), 0..50)
        .prop_map(|runs| List::first_of(runs.into_iter().map(|(first, count)| BootRun { first, count })))
}

/// Any message, each kind as often as any other.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let id = || any::<[u8; 32]>().prop_map(ContentId::from_bytes);
    let node_id = || any::<[u8; 32]>().prop_map(NodeId::from_bytes);
    let role = any::<bool>().prop_map(|seed| if seed { Role::Seed } else { Role::Peer });
    let fault = prop_oneof![Just(Fault::WrongBytes), Just(Fault::NotHeld), Just(Fault::Slow)];
    let load = || any::<u8>().prop_map(|busy| Load { busy });
    let sessions = prop_oneof![
        (any::<(u16, u16, u32, u8, bool)>(), role, node(), "\\PC{0,30}").prop_map(
            |(numbers, role, node, text)| {
                let (version_oldest, version_newest, capacity_slots, shards, apart) = numbers;
                let Node { address, zone, .. } = node;
                let software = Text::cut(&text);
                Hello {
                    version_oldest,
                    version_newest,
                    role,
                    address,
                    zone,
                    capacity_slots,
                    shards,
                    software,
                    apart,
                }
                .into()
            }
        ),
        prop::collection::vec((node(), any::<u32>(), any::<bool>()), 0..5).prop_map(|seeds| {
            let seed = |(node, capacity_slots, owns)| Seed { node, capacity_slots, owns };
            Seeds { seeds: List::first_of(seeds.into_iter().map(seed)) }.into()
        }),
        Just(Leaving {}.into()),
        opaque().prop_map(|packet| Gossip { packet }.into()),
        (any::<(u16, u32)>(), prop::option::of(node()), "\\PC{0,80}", opaque()).prop_map(
            |((code, retry_ms), instead, text, verdict)| {
                Refused { code, retry_ms, instead, detail: Text::cut(&text), verdict }.into()
            }
        ),
    ];
    let contents = prop_oneof![
        (id(), any::<(bool, [u8; 32], bool)>(), opaque()).prop_map(
            |(content, (by_digest, registry, forwarded), errand)| {
                let registry = RegistryScope::from_bytes(registry);
                Describe { content, by_digest, registry, forwarded, errand }.into()
            }
        ),
        (any::<(u64, bool)>(), scope(), node_id(), "\\PC{0,30}").prop_map(
            |((length, by_span), scope, owner, text)| {
                let (media_type, validator) = (Text::cut(&text), Text::cut(&text));
                Description { length, scope, by_span, owner, media_type, validator }.into()
            }
        ),
        (id(), opaque()).prop_map(|(content, errand)| Prove { content, errand }.into()),
        (any::<(bool, u32)>(), opaque()).prop_map(|((granted, lasts_s), verdict)| Proof {
            granted,
            lasts_s,
            verdict
        }
        .into()),
        (id(), scope()).prop_map(|(content, scope)| Purge { content, scope }.into()),
        id().prop_map(|content| Recall { content }.into()),
        boot_runs().prop_map(|runs| BootOrder { runs }.into()),
        (id(), boot_runs()).prop_map(|(content, runs)| Booted { content, runs }.into()),
        (id(), scope()).prop_map(|(content, scope)| MapOf { content, scope }.into()),
    ];
    let blocks = prop_oneof![
        (plot(), set(), any::<[bool; 3]>(), prop::collection::vec(node_id(), 0..9), opaque()).prop_map(
            |(plot, places, [any, forwarded, stand_in], failed, errand)| {
                let failed = List::first_of(failed);
                Want { plot, places, any, forwarded, stand_in, failed, errand }.into()
            }
        ),
        (plot(), set(), any::<u16>())
            .prop_map(|(plot, places, wait_ms)| Take { plot, places, wait_ms }.into()),
        any::<(u16, u16)>().prop_map(|(first, count)| Blocks { first, count }.into()),
        Just(End {}.into()),
        (plot(), prop::collection::vec(node_id(), 0..9), any::<u8>()).prop_map(|(plot, known, wanted)| {
            FindParents { plot, known: List::first_of(known), wanted }.into()
        }),
        prop::collection::vec(holder(), 0..5)
            .prop_map(|holders| Holders { holders: List::first_of(holders) }.into()),
        plot().prop_map(|plot| Watch { plot }.into()),
        (set(), set(), load()).prop_map(|(held, lost, load)| Have { held, lost, load }.into()),
        (any::<u16>(), prop::collection::vec(any::<[u8; 32]>(), 0..9))
            .prop_map(|(first, digests)| Attested { first, digests: List::first_of(digests) }.into()),
        (prop::collection::vec((plot(), set(), set()), 0..5), load()).prop_map(|(changes, load)| {
            let change = |(plot, held, lost)| Change { plot, held, lost };
            Holds { changes: List::first_of(changes.into_iter().map(change)), load }.into()
        }),
        (node_id(), plot(), any::<u16>(), fault).prop_map(|(parent, plot, place, fault)| Complain {
            parent,
            plot,
            place,
            fault
        }
        .into()),
        (plot(), any::<u64>(), prop::collection::vec(holder(), 0..5)).prop_map(|(plot, length, holders)| {
            MapPart { plot, length, holders: List::first_of(holders) }.into()
        }),
    ];
    let state = prop_oneof![Just(ReachState::Coming), Just(ReachState::Whole), Just(ReachState::Failed)];
    let reach = (node(), state, any::<(u64, u16)>(), "\\PC{0,30}").prop_map(
        |(node, state, (held_bytes, code), text)| Reach {
            node,
            state,
            held_bytes,
            code,
            detail: Text::cut(&text),
        },
    );
    let preheats = prop_oneof![
        (id(), any::<(bool, [u8; 32])>(), "\\PC{0,30}", opaque()).prop_map(
            |(content, (by_digest, registry), text, errand)| {
                let (registry, origin) = (RegistryScope::from_bytes(registry), Text::cut(&text));
                Spread { content, by_digest, registry, origin, errand }.into()
            }
        ),
        prop::collection::vec(reach, 0..5).prop_map(|nodes| Reached { nodes: List::first_of(nodes) }.into()),
        (id(), any::<(bool, [u8; 32], u64, bool)>(), "\\PC{0,30}").prop_map(
            |(content, (by_digest, registry, length, by_span), text)| {
                Preheat {
                    content,
                    by_digest,
                    registry: RegistryScope::from_bytes(registry),
                    origin: Text::cut(&text),
                    length,
                    by_span,
                    media_type: Text::cut(&text),
                    validator: Text::cut(&text),
                }
                .into()
            }
        ),
        any::<u64>().prop_map(|held_bytes| Brought { held_bytes }.into()),
    ];
    prop_oneof![5 => sessions, 9 => contents, 12 => blocks, 4 => preheats]
}

proptest! {
    #[test]
    fn a_message_survives(message in message()) {
        prop_assert_eq!(decode(&message.encode()), Ok(Decoded::Message(message)));
    }

    /// A later version appends fields; this one reads what it knows.
    #[test]
    fn fields_of_a_later_version_are_passed_over(message in message(), more in prop::collection::vec(any::<u8>(), 0..9)) {
        let frame = message.encode();
        let mut head = FrameHead::decode(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
        head.payload_bytes += more.len() as u32;
        let payload = [&frame[HEAD_BYTES..], &more[..]].concat();
        prop_assert_eq!(Message::decode(head, payload.into()), Ok(Decoded::Message(message)));
    }

    #[test]
    fn a_message_cut_short_is_refused(message in message(), cut in 1..64usize) {
        let frame = message.encode();
        let payload = frame.slice(HEAD_BYTES..frame.len().saturating_sub(cut).max(HEAD_BYTES));
        prop_assume!(payload.len() + HEAD_BYTES < frame.len());
        let head = FrameHead::decode(frame[..HEAD_BYTES].try_into().unwrap()).unwrap();
        prop_assert!(Message::decode(head, payload).is_err());
    }

    #[test]
    fn no_bytes_do_harm(kind in 0..0x90u16, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let head = FrameHead { payload_bytes: payload.len() as u32, kind, may_be_passed_over: false };
        if let Ok(Decoded::Message(message)) = Message::decode(head, payload.into()) {
            prop_assert_eq!(decode(&message.encode()), Ok(Decoded::Message(message)));
        }
    }
}

/// The fullest message of each list, in its longest form.
#[test]
fn the_longest_messages_fit_into_a_frame() {
    let node = Node {
        id: NodeId::from_bytes([1; 32]),
        address: ([0xff; 16], 1).into(),
        zone: Text::cut(&"z".repeat(ZONE_BYTES_MAX)),
    };
    let all = BlockSet::first(SPAN_BLOCKS);
    let scope = Scope::Registry(RegistryScope::from_bytes([1; 32]));
    let plot = Plot { content: ContentId::from_bytes([1; 32]), scope, span: SpanIndex::FIRST };
    let holder = Holder { node: node.clone(), held: all, coming: all, load: Load { busy: 1 } };
    let change = Change { plot, held: all, lost: all };
    let seed = Seed { node: node.clone(), capacity_slots: 1, owns: true };
    let detail = Text::cut(&"d".repeat(127));
    let reach = Reach { node, state: ReachState::Failed, held_bytes: 1, code: 1, detail };
    let longest: [Message; 7] = [
        Reached { nodes: List::first_of(vec![reach; 9999]) }.into(),
        MapPart { plot, length: 1, holders: List::first_of(vec![holder.clone(); 9999]) }.into(),
        Holders { holders: List::first_of(vec![holder; 9999]) }.into(),
        Holds { changes: List::first_of(vec![change; 9999]), load: Load { busy: 1 } }.into(),
        Seeds { seeds: List::first_of(vec![seed; 9999]) }.into(),
        BootOrder { runs: List::first_of(vec![BootRun { first: 1, count: 1 }; 99_999]) }.into(),
        Attested { first: 0, digests: List::first_of(vec![[1; 32]; 9999]) }.into(),
    ];
    for message in longest {
        let frame = message.encode();
        assert!(frame.len() - HEAD_BYTES <= MESSAGE_BYTES_MAX as usize, "{}", message.name());
        assert_eq!(decode(&frame), Ok(Decoded::Message(message)));
    }
}

fn preheat(content: ContentId) -> Preheat {
    Preheat {
        content,
        by_digest: true,
        registry: RegistryScope::from_bytes([9; 32]),
        origin: Text::cut("http://a:80"),
        length: 5,
        by_span: false,
        media_type: Text::default(),
        validator: Text::cut("v"),
    }
}

fn check(message: impl Into<Message>, bytes: &[u8]) {
    assert_eq!(message.into().encode(), bytes);
}

/// The bytes of version 1. If this has to change, the protocol has changed.
#[test]
fn known_bytes() {
    #[rustfmt::skip]
    check(hello(), &[
        31, 0, 0, 0,  1, 0,  0, 0,
        1, 0,  1, 0,  1,  4, 192, 0, 2, 1, 0xc6, 0x9f,  1, 0, b'a',  0, 16, 0, 0,  4,
        8, 0, b'd', b'a', b'r', b't', b'e', b'r', b' ', b'1',  0,
    ]);
    let content = ContentId::from_bytes([7; 32]);
    let plot = Plot { content, scope: Scope::Verified, span: SpanIndex::from_number(2) };
    let take = Take { plot, places: [0, 9].into_iter().collect(), wait_ms: 500 };
    let plot_bytes = [&[7; 32][..], &[0], &[2, 0, 0, 0]].concat();
    check(take, &[&[43, 0, 0, 0, 0x21, 0, 0, 0], &plot_bytes[..], &[10, 0, 1, 2, 0xf4, 1]].concat());
    check(Blocks { first: 960, count: 64 }, &[4, 0, 0, 0, 0x22, 0, 0, 0, 0xc0, 3, 64, 0]);
    check(End {}, &[0, 0, 0, 0, 0x23, 0, 0, 0]);
    check(Recall { content }, &[&[32, 0, 0, 0, 0x60, 0, 1, 0], &[7; 32][..]].concat());
    let head =
        [&[92, 0, 0, 0, 0x82, 0, 0, 0], &[7; 32][..], &[1], &[9; 32], &[11, 0], b"http://a:80"].concat();
    check(preheat(content), &[&head[..], &[5, 0, 0, 0, 0, 0, 0, 0], &[0], &[0, 0], &[1, 0, b'v']].concat());
    check(Brought { held_bytes: 258 }, &[8, 0, 0, 0, 0x83, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_kind_of_a_later_version_is_passed_over_or_refused() {
    let head = |may_be_passed_over| FrameHead { payload_bytes: 1, kind: 0x7fff, may_be_passed_over };
    assert_eq!(Message::decode(head(true), Bytes::from_static(b"x")), Ok(Decoded::PassedOver));
    assert_eq!(Message::decode(head(false), Bytes::from_static(b"x")), Ok(Decoded::Unknown(0x7fff)));
}

/// A peer's certificate does not make a node one that owns, attests or purges.
#[test]
fn what_only_seeds_say_does_not_come_from_a_peer() {
    let content = ContentId::from_bytes([7; 32]);
    let purge: Message = Purge { content, scope: Scope::Verified }.into();
    let attested: Message = Attested { first: 0, digests: List::default() }.into();
    let holders: Message = Holders { holders: List::default() }.into();
    let reached: Message = Reached { nodes: List::default() }.into();
    for message in [purge, attested, holders, preheat(content).into(), reached] {
        assert!(message.may_come_from(Role::Seed) && !message.may_come_from(Role::Peer));
    }
    let have = Have { held: BlockSet::EMPTY, lost: BlockSet::EMPTY, load: Load::default() };
    assert!(Message::from(have).may_come_from(Role::Peer));
}

#[test]
fn a_run_of_blocks_lies_inside_a_span() {
    let places = |first, count| Blocks { first, count }.places();
    assert_eq!(places(0, 64), Some(0..64));
    assert_eq!(places(960, 64), Some(960..1024));
    assert_eq!(
        [places(0, 0), places(0, 65), places(961, 64), places(u16::MAX, u16::MAX)],
        [const { None }; 4]
    );
}

/// The document names every message by its kind.
#[test]
fn the_document_knows_every_message() {
    let document = include_str!("../../../../docs/peer-protocol.md");
    for (kind, name) in Message::KINDS {
        assert!(document.contains(&format!("| {kind:#06x} | `{name}` |")), "{kind:#06x} {name}");
    }
}
