//! Packets of the membership as bytes: what is inside a [`wire::Gossip`](crate::wire::Gossip).
//!
//! All that comes from another node is read here, checked, and written anew before foca sees it; so foca only reads
//! what this module has written.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foca::{Header, Member, Message, State};

use super::entry::Entry;
use crate::wire::{GOSSIP_BYTES_MAX, Malformed, Reader, Wire};

/// A packet: a message of SWIM, and what its sender has to tell of others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    pub(super) header: Header<Entry>,
    pub(super) updates: Vec<Member<Entry>>,
}

impl Packet {
    /// Reads a packet. What follows the last update is of a later version and is passed over.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.len() > GOSSIP_BYTES_MAX {
            return Err(Malformed::TooMany { field: "packet", count: bytes.len(), max: GOSSIP_BYTES_MAX });
        }
        let mut from = Reader::new(bytes);
        let header = take_header(&mut from)?;
        let mut updates = Vec::new();
        if carries_updates(&header.message) && from.left() > 0 {
            // The one number that foca writes itself, the highest byte first.
            let count = u16::take(&mut from, "updates")?.swap_bytes();
            for _ in 0..count {
                updates.push(take_member(&mut from)?);
            }
        }
        Ok(Self { header, updates })
    }

    /// The packet as bytes; updates that find no room in it are left out. `None` if not even the header does.
    pub(super) fn encode(&self) -> Option<Bytes> {
        let mut bytes = BytesMut::with_capacity(GOSSIP_BYTES_MAX);
        put_header(&self.header, &mut bytes);
        if bytes.len() > GOSSIP_BYTES_MAX {
            return None;
        }
        if carries_updates(&self.header.message) && bytes.len() + 2 <= GOSSIP_BYTES_MAX {
            let count_at = bytes.len();
            bytes.put_u16(0);
            let mut count = 0u16;
            for update in &self.updates {
                let end = bytes.len();
                put_member(update, &mut bytes);
                if bytes.len() > GOSSIP_BYTES_MAX {
                    bytes.truncate(end);
                    break;
                }
                count += 1;
            }
            bytes[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        }
        Some(bytes.freeze())
    }
}

/// Bytes of a member, for filling packets.
pub(super) fn member_bytes(member: &Member<Entry>) -> usize {
    let mut bytes = BytesMut::with_capacity(128);
    put_member(member, &mut bytes);
    bytes.len()
}

fn carries_updates(message: &Message<Entry>) -> bool {
    !matches!(message, Message::Announce | Message::TurnUndead | Message::Broadcast)
}

fn put_header(header: &Header<Entry>, to: &mut BytesMut) {
    header.src.put(to);
    header.src_incarnation.put(to);
    header.dst.put(to);
    let (kind, of): (u8, _) = match &header.message {
        Message::Ping(number) => (0, Some((None, number))),
        Message::Ack(number) => (1, Some((None, number))),
        Message::PingReq { target, probe_number } => (2, Some((Some(target), probe_number))),
        Message::IndirectPing { origin, probe_number } => (3, Some((Some(origin), probe_number))),
        Message::IndirectAck { target, probe_number } => (4, Some((Some(target), probe_number))),
        Message::ForwardedAck { origin, probe_number } => (5, Some((Some(origin), probe_number))),
        Message::Announce => (6, None),
        Message::Feed => (7, None),
        Message::Gossip => (8, None),
        Message::TurnUndead => (9, None),
        // Nothing here is broadcast beside the updates, and who reads this kind refuses it.
        Message::Broadcast => (10, None),
    };
    kind.put(to);
    if let Some((other, number)) = of {
        number.put(to);
        if let Some(other) = other {
            other.put(to);
        }
    }
}

fn take_header(from: &mut Reader) -> Result<Header<Entry>, Malformed> {
    let src = Wire::take(from, "sender")?;
    let src_incarnation = Wire::take(from, "incarnation")?;
    let dst = Wire::take(from, "receiver")?;
    let kind = u8::take(from, "what")?;
    let mut number = || u8::take(from, "probe");
    let message = match kind {
        0 => Message::Ping(number()?),
        1 => Message::Ack(number()?),
        2..=5 => {
            let probe_number = number()?;
            let other = Wire::take(from, "other")?;
            match kind {
                2 => Message::PingReq { target: other, probe_number },
                3 => Message::IndirectPing { origin: other, probe_number },
                4 => Message::IndirectAck { target: other, probe_number },
                _ => Message::ForwardedAck { origin: other, probe_number },
            }
        }
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::TurnUndead,
        _ => return Err(Malformed::Value("what")),
    };
    Ok(Header { src, src_incarnation, dst, message })
}

fn put_member(member: &Member<Entry>, to: &mut BytesMut) {
    member.id().put(to);
    member.incarnation().put(to);
    match member.state() {
        State::Alive => 0u8,
        State::Suspect => 1,
        State::Down => 2,
    }
    .put(to);
}

fn take_member(from: &mut Reader) -> Result<Member<Entry>, Malformed> {
    let (entry, incarnation) = (Wire::take(from, "member")?, Wire::take(from, "incarnation")?);
    let state = match u8::take(from, "state")? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(Malformed::Value("state")),
    };
    Ok(Member::new(entry, incarnation, state))
}

/// How foca reads and writes the parts of a packet.
#[derive(Debug)]
pub(super) struct Codec;

/// Why a part was not read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error("the packet has no room for it")]
    NoRoom,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl foca::Codec<Entry> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Entry>, buf: impl BufMut) -> Result<(), CodecError> {
        written(buf, |to| put_header(header, to))
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Entry>, CodecError> {
        read(buf, take_header)
    }

    fn encode_member(&mut self, member: &Member<Entry>, buf: impl BufMut) -> Result<(), CodecError> {
        written(buf, |to| put_member(member, to))
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Entry>, CodecError> {
        read(buf, take_member)
    }
}

/// All of it or nothing.
fn written(mut buf: impl BufMut, put: impl FnOnce(&mut BytesMut)) -> Result<(), CodecError> {
    let mut part = BytesMut::with_capacity(256);
    put(&mut part);
    if part.len() > buf.remaining_mut() {
        return Err(CodecError::NoRoom);
    }
    buf.put_slice(&part);
    Ok(())
}

fn read<T>(
    mut buf: impl Buf,
    take: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
) -> Result<T, CodecError> {
    // foca says that a packet is in one piece.
    let mut from = Reader::new(Bytes::copy_from_slice(buf.chunk()));
    let before = from.left();
    let part = take(&mut from)?;
    buf.advance(before - from.left());
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, NodeId, ZONE_BYTES_MAX};
    use crate::wire::{self, Text};
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let zone = prop::string::string_regex("[a-z]{0,63}").unwrap();
        (any::<([u8; 32], [u8; 16], bool, u16)>(), zone, any::<(u32, bool, u64, bool)>()).prop_map(
            |((id, ip, v6, port), zone, (capacity_slots, owns, life, leaving))| {
                let [a, b, c, d, ..] = ip;
                let address = if v6 { (ip, port).into() } else { ([a, b, c, d], port).into() };
                let node = Node { id: NodeId::from_bytes(id), address, zone: Text::cut(&zone) };
                Entry { seed: wire::Seed { node, capacity_slots, owns }, life, leaving }
            },
        )
    }
    fn message() -> impl Strategy<Value = Message<Entry>> {
        (0..10u8, any::<u8>(), entry()).prop_map(|(kind, probe_number, other)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: other, probe_number },
            3 => Message::IndirectPing { origin: other, probe_number },
            4 => Message::IndirectAck { target: other, probe_number },
            5 => Message::ForwardedAck { origin: other, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            _ => Message::TurnUndead,
        })
    }
    fn member() -> impl Strategy<Value = Member<Entry>> {
        let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
        (entry(), any::<u16>(), state)
            .prop_map(|(id, incarnation, state)| Member::new(id, incarnation, state))
    }
    prop_compose! {
        fn packet()(src in entry(), src_incarnation: u16, dst in entry(), message in message(),
                    updates in prop::collection::vec(member(), 0..4)) -> Packet {
            let updates = if carries_updates(&message) { updates } else { Vec::new() };
            Packet { header: Header { src, src_incarnation, dst, message }, updates }
        }
    }

    proptest! {
        #[test]
        fn a_packet_survives(packet in packet()) {
            let bytes = packet.encode().unwrap();
            prop_assert_eq!(Packet::decode(bytes), Ok(packet));
        }

        #[test]
        fn what_a_later_version_appends_is_passed_over(packet in packet(), more in prop::collection::vec(any::<u8>(), 1..9)) {
            prop_assume!(carries_updates(&packet.header.message));
            let bytes = [&packet.encode().unwrap()[..], &more].concat();
            prop_assume!(bytes.len() <= GOSSIP_BYTES_MAX);
            prop_assert_eq!(Packet::decode(bytes.into()), Ok(packet));
        }

        #[test]
        fn a_packet_cut_short_is_refused(packet in packet(), cut in 1..1100usize) {
            let bytes = packet.encode().unwrap();
            let cut = bytes.slice(..bytes.len() - cut.min(bytes.len()));
            match Packet::decode(cut) {
                // Without its updates it is a packet as well.
                Ok(read) => prop_assert!(read.updates.is_empty() && read.header == packet.header),
                Err(malformed) => prop_assert!(matches!(malformed, Malformed::Short(_))),
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            if let Ok(packet) = Packet::decode(bytes.into()) {
                prop_assert_eq!(Packet::decode(packet.encode().unwrap()), Ok(packet));
            }
        }

        /// Whatever there is to tell, a packet fits, and what is left out does not tear what is in.
        #[test]
        fn a_packet_is_never_too_long(packet in packet(), copies in 0..40usize) {
            let updates: Vec<_> = packet.updates.iter().cloned().cycle().take(copies).collect();
            let packet = Packet { updates: updates.clone(), ..packet };
            let bytes = packet.encode().unwrap();
            prop_assert!(bytes.len() <= GOSSIP_BYTES_MAX);
            let read = Packet::decode(bytes).unwrap();
            prop_assert_eq!(&read.updates[..], &updates[..read.updates.len()]);
        }

        /// Of two entries of a seed exactly one is believed, by all.
        #[test]
        fn one_of_two_wins(one in entry(), other in entry()) {
            use foca::Identity as _;
            prop_assume!(one != other);
            prop_assert!(one.win_addr_conflict(&other) != other.win_addr_conflict(&one));
            prop_assert!(one.life <= other.life || one.win_addr_conflict(&other));
        }
    }

    fn longest() -> Entry {
        let (id, address) = (NodeId::from_bytes([1; 32]), ([0xff; 16], 1).into());
        let node = Node { id, address, zone: Text::cut(&"z".repeat(ZONE_BYTES_MAX)) };
        Entry { seed: wire::Seed { node, capacity_slots: 1, owns: true }, life: 7, leaving: false }
    }

    #[test]
    fn the_longest_header_leaves_room_for_updates() {
        let message = Message::PingReq { target: longest(), probe_number: 1 };
        let header = Header { src: longest(), src_incarnation: 0, dst: longest(), message };
        let updates = vec![Member::alive(longest()); 99];
        let bytes = Packet { header, updates }.encode().unwrap();
        assert_eq!(Packet::decode(bytes).unwrap().updates.len(), 5);
    }

    /// The bytes of version 1.
    #[test]
    fn known_bytes() {
        let node = |byte: u8| Node {
            id: NodeId::from_bytes([byte; 32]),
            address: ([192, 0, 2, byte], 40_902).into(),
            zone: Text::cut("a"),
        };
        let entry = |byte, life| Entry {
            seed: wire::Seed { node: node(byte), capacity_slots: 4096, owns: byte == 1 },
            life,
            leaving: false,
        };
        let bytes = |byte: u8, life: u8| {
            let rest = [4, 192, 0, 2, byte, 0xc6, 0x9f, 1, 0, b'a', 0, 16, 0, 0, u8::from(byte == 1)];
            [&[byte; 32][..], &rest, &[life, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
        };
        let header =
            Header { src: entry(1, 9), src_incarnation: 3, dst: entry(2, 8), message: Message::Ping(5) };
        let packet = Packet { header, updates: vec![Member::new(entry(3, 7), 2, State::Suspect)] };
        let expected =
            [bytes(1, 9), vec![3, 0], bytes(2, 8), vec![0, 5], vec![0, 1], bytes(3, 7), vec![2, 0, 1]]
                .concat();
        assert_eq!(packet.encode().unwrap(), expected);
    }
}
