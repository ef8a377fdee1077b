//! The messages, each with its kind, who may send it, and its fields in the order of the wire.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use darter_engine::{ContentId, RegistryScope, Scope};

use super::fields::{BlockDigest, List, Malformed, Opaque, Reader, Text, Wire};
use super::frame::{FrameHead, framed};
use crate::block_set::BlockSet;
use crate::node::{Node, NodeId, Role, ZONE_BYTES_MAX};
use crate::span::{Plot, SPAN_BLOCKS};

/// Blocks that one [`Blocks`] message announces: 4 MiB, as one request to an origin.
pub const RUN_BLOCKS_MAX: u32 = 64;
/// Parents that a node is told of, and that it watches, for one span.
pub const CANDIDATES_MAX: usize = 24;
/// Seeds of a cluster.
pub const SEEDS_MAX: usize = 128;
/// Changes that one [`Holds`] reports.
pub const CHANGES_MAX: usize = 64;
/// Holders that one [`MapPart`] tells of.
pub const MAP_PART_HOLDERS_MAX: usize = 256;
/// Runs of blocks in a boot list: 6 bytes each, 64 KiB for a blob.
pub const BOOT_RUNS_MAX: usize = 64 * 1024 / 6;
/// Bytes of what the daemon says of an origin: the client's request, with its credentials.
pub const ERRAND_BYTES_MAX: usize = 24 * 1024;
/// Bytes of what the daemon says of an origin's verdict.
pub const VERDICT_BYTES_MAX: usize = 8 * 1024;
/// Nodes that one [`Reached`] tells of.
pub const REACHES_MAX: usize = 256;
/// Bytes of a registry's canonical origin, `scheme://host:port`.
pub const ORIGIN_BYTES_MAX: usize = 255;
/// Bytes of a packet of the membership.
pub const GOSSIP_BYTES_MAX: usize = 1100;

/// A client's request at the origin, as the daemons tell it to each other. Means nothing to this crate.
pub type Errand = Opaque<ERRAND_BYTES_MAX>;
/// An origin's verdict on a request. Means nothing to this crate.
pub type Verdict = Opaque<VERDICT_BYTES_MAX>;

/// Fields in their order.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }

        impl Wire for $name {
            fn put(&self, _to: &mut BytesMut) {
                $(self.$field.put(_to);)*
            }
            fn take(_from: &mut Reader, _: &'static str) -> Result<Self, Malformed> {
                Ok(Self { $($field: Wire::take(_from, stringify!($field))?,)* })
            }
        }
    )*};
}

/// `kind, who may send it, what a node does that does not know it: name { fields }`
macro_rules! messages {
    ($($(#[$doc:meta])* $kind:literal, $sender:ident, $unknown:ident: $name:ident
        { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        fields! { $($(#[$doc])* $name { $($(#[$field_doc])* $field: $type,)* })* }

        /// A message of the protocol.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Message {
            $(#[doc = concat!("[`", stringify!($name), "`]")] $name($name),)*
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*

        impl Message {
            /// The message as a frame: head and payload.
            pub fn encode(&self) -> Bytes {
                match self {
                    $(Self::$name(message) => {
                        framed($kind, messages!(@is $unknown passed), |to| message.put(to))
                    })*
                }
            }

            /// Reads the payload that `head` stands for. What follows the last known field is of a later version and is
            /// passed over.
            ///
            /// # Errors
            /// The bytes are none that this message can have.
            pub fn decode(head: FrameHead, payload: Bytes) -> Result<Decoded, Malformed> {
                let mut from = Reader::new(payload);
                let message = match head.kind {
                    $($kind => $name::take(&mut from, stringify!($name))?.into(),)*
                    _ if head.may_be_passed_over => return Ok(Decoded::PassedOver),
                    kind => return Ok(Decoded::Unknown(kind)),
                };
                Ok(Decoded::Message(message))
            }

            /// Whether a node of this role may say this. What only seeds say is refused when it comes from a peer:
            /// who owns a content, what blocks are right, what is to be purged, who holds what.
            pub fn may_come_from(&self, role: Role) -> bool {
                match self {
                    $(Self::$name(_) => role == Role::Seed || !messages!(@is $sender seed),)*
                }
            }

            /// The message's name, for logs.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }

            /// Every kind with its name, for the documents.
            pub const KINDS: &[(u16, &str)] = &[$(($kind, stringify!($name)),)*];
        }
    };
    (@is passed passed) => { true };
    (@is refused passed) => { false };
    (@is seed seed) => { true };
    (@is anyone seed) => { false };
}

/// What a frame turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart as soon as it is made")]
pub enum Decoded {
    /// A message.
    Message(Message),
    /// One of a later version, that may be passed over.
    PassedOver,
    /// One of a later version: the stream is refused with [`super::Code::Unknown`].
    Unknown(u16),
}

messages! {
    /// The first message of either side on the control stream.
    0x0001, anyone, refused: Hello {
        /// The oldest version of the protocol that the node speaks.
        version_oldest: u16,
        /// The newest one. These two fields stay where they are in all versions.
        version_newest: u16,
        /// What it is; its certificate must say the same.
        role: Role,
        /// Where it listens for others.
        address: SocketAddr,
        /// Its zone.
        zone: Text<ZONE_BYTES_MAX>,
        /// Slots of its store, the seed's weight.
        capacity_slots: u32,
        /// Shards: so many connections are of use.
        shards: u8,
        /// Name and version of the software, for people.
        software: Text<63>,
        /// The connection is for the membership only: see [`Gossip`].
        apart: bool,
    }
    /// All live seeds; replaces what was told before.
    0x0002, seed, refused: Seeds {
        /// The seeds.
        seeds: List<Seed, SEEDS_MAX>,
    }
    /// The node goes: nothing new is asked of it, and what it held is no longer held.
    0x0003, anyone, refused: Leaving {}
    /// A packet of the membership, on a connection of its own.
    0x0004, seed, refused: Gossip {
        /// The packet.
        packet: Opaque<GOSSIP_BYTES_MAX>,
    }
    /// The last message of a stream on which nothing more comes.
    0x0005, anyone, refused: Refused {
        /// A [`super::Code`].
        code: u16,
        /// When to come again, in milliseconds; 0 if that would be in vain.
        retry_ms: u32,
        /// Who to ask instead.
        instead: Option<Node>,
        /// What happened, for people.
        detail: Text<255>,
        /// The origin's own verdict, if it is one.
        verdict: Verdict,
    }

    /// What is this content? Asked of its owner.
    0x0010, anyone, refused: Describe {
        /// The content.
        content: ContentId,
        /// Named by its digest, not by a URL.
        by_digest: bool,
        /// The registry of the client's request.
        registry: RegistryScope,
        /// A seed has passed it on: it is not passed on again.
        forwarded: bool,
        /// The client's request.
        errand: Errand,
    }
    /// The answer to [`Describe`].
    0x0011, seed, refused: Description {
        /// Length in bytes.
        length: u64,
        /// The scope that plots of this content are to be asked under.
        scope: Scope,
        /// Each span has an owner of its own.
        by_span: bool,
        /// Who describes it, after one forwarding the owner and not the seed that was asked.
        owner: NodeId,
        /// The media type, or empty.
        media_type: Text<95>,
        /// `ETag` or `Last-Modified` of a content named by URL, or empty.
        validator: Text<127>,
    }

    /// Blocks, asked of the owner: it sends them, or names who has them.
    0x0020, anyone, refused: Want {
        /// Where.
        plot: Plot,
        /// What is asked for. With `any` what would be of use, of which the owner chooses.
        places: BlockSet,
        /// Bulk: some of these, the rarest first. Else all of these, because a reader waits.
        any: bool,
        /// A seed has passed it on: it is not passed on again.
        forwarded: bool,
        /// The owner cannot be reached: asks the deputy to stand in.
        stand_in: bool,
        /// Holders that were named and did not send.
        failed: List<NodeId, CANDIDATES_MAX>,
        /// The client's request.
        errand: Errand,
    }
    /// Blocks, asked of a parent.
    0x0021, anyone, refused: Take {
        /// Where.
        plot: Plot,
        /// What.
        places: BlockSet,
        /// How long to wait for blocks that the parent is about to have.
        wait_ms: u16,
    }
    /// So many blocks follow, in order, bare.
    0x0022, anyone, refused: Blocks {
        /// Place of the first.
        first: u16,
        /// How many, from 1 to [`RUN_BLOCKS_MAX`], inside the span: see [`Blocks::places`].
        count: u16,
    }
    /// Nothing more comes: what was asked for and not sent is not held.
    0x0023, anyone, refused: End {}
    /// Which nodes have blocks of this plot? Asked of the owner.
    0x0024, anyone, refused: FindParents {
        /// Where.
        plot: Plot,
        /// Who is known already.
        known: List<NodeId, CANDIDATES_MAX>,
        /// How many more.
        wanted: u8,
    }
    /// Who has blocks. Answers [`FindParents`], and [`Want`] for blocks that the owner has given often enough.
    0x0025, seed, refused: Holders {
        /// The nodes, the best first.
        holders: List<Holder, CANDIDATES_MAX>,
    }

    /// Tell me what you have of this, and what comes, until I end the stream.
    0x0030, anyone, refused: Watch {
        /// Where.
        plot: Plot,
    }
    /// What has come and gone since the last time; the first one tells everything.
    0x0031, anyone, refused: Have {
        /// Now held.
        held: BlockSet,
        /// No longer held.
        lost: BlockSet,
        /// How busy the node is: see [`Load`].
        load: Load,
    }
    /// The digests of blocks whose bytes the owner took from the origin. Sent to whoever watches the owner.
    0x0032, seed, refused: Attested {
        /// Place of the first.
        first: u16,
        /// The BLAKE3 of each.
        digests: List<BlockDigest, { SPAN_BLOCKS as usize }>,
    }

    /// What this node holds now and no longer, to owner and deputy.
    0x0040, anyone, refused: Holds {
        /// The changes since the last batch.
        changes: List<Change, CHANGES_MAX>,
        /// How busy the node is.
        load: Load,
    }
    /// A parent did not do what it should, to the owner.
    0x0041, anyone, refused: Complain {
        /// Who.
        parent: NodeId,
        /// Where.
        plot: Plot,
        /// Which block.
        place: u16,
        /// What.
        fault: Fault,
    }
    /// The bytes of this content are wrong: drop them.
    0x0042, seed, refused: Purge {
        /// The content.
        content: ContentId,
        /// Whose bytes.
        scope: Scope,
    }

    /// May this client read this? Asked of the owner, which asks the registry once for all.
    0x0050, anyone, refused: Prove {
        /// The content.
        content: ContentId,
        /// The client's request.
        errand: Errand,
    }
    /// The answer to [`Prove`].
    0x0051, seed, refused: Proof {
        /// It may.
        granted: bool,
        /// For so long, in seconds.
        lasts_s: u32,
        /// The registry's verdict when it may not.
        verdict: Verdict,
    }

    /// How does a boot read this content? Asked of the owner.
    0x0060, anyone, passed: Recall {
        /// The content.
        content: ContentId,
    }
    /// The blocks of a boot in their order.
    0x0061, seed, passed: BootOrder {
        /// Neighbours that were read one after the other.
        runs: List<BootRun, BOOT_RUNS_MAX>,
    }
    /// The blocks of a boot as this node saw them, to the owner.
    0x0062, anyone, passed: Booted {
        /// The content.
        content: ContentId,
        /// Neighbours that were read one after the other.
        runs: List<BootRun, BOOT_RUNS_MAX>,
    }

    /// The map of what this seed has become the owner of, asked of the deputy.
    0x0070, seed, refused: MapOf {
        /// The content.
        content: ContentId,
        /// Whose bytes.
        scope: Scope,
    }
    /// Part of a map. [`End`] follows the last.
    0x0071, seed, refused: MapPart {
        /// Where.
        plot: Plot,
        /// Length of the content in bytes.
        length: u64,
        /// Who holds what.
        holders: List<Holder, MAP_PART_HOLDERS_MAX>,
    }

    /// Every node that the seed is connected with shall have this content.
    0x0080, anyone, refused: Spread {
        /// The content.
        content: ContentId,
        /// Named by its digest, not by a URL.
        by_digest: bool,
        /// Whose bytes.
        registry: RegistryScope,
        /// What `registry` is the hash of.
        origin: Text<ORIGIN_BYTES_MAX>,
        /// The request of who wants it: it has to be allowed to read it.
        errand: Errand,
    }
    /// How far that is: the first ones name all nodes, each further one those at which something has changed.
    0x0081, seed, refused: Reached {
        /// The nodes.
        nodes: List<Reach, REACHES_MAX>,
    }
    /// Take all of this content from other nodes, and from no origin.
    0x0082, seed, refused: Preheat {
        /// The content.
        content: ContentId,
        /// Named by its digest, not by a URL.
        by_digest: bool,
        /// Whose bytes.
        registry: RegistryScope,
        /// What `registry` is the hash of.
        origin: Text<ORIGIN_BYTES_MAX>,
        /// Length in bytes, and what follows: as in [`Description`].
        length: u64,
        /// Each span has an owner of its own.
        by_span: bool,
        /// The media type, or empty.
        media_type: Text<95>,
        /// `ETag` or `Last-Modified` of a content named by URL, or empty.
        validator: Text<127>,
    }
    /// How much of it is held. [`End`] follows when that is all.
    0x0083, anyone, refused: Brought {
        /// In bytes.
        held_bytes: u64,
    }
}

fields! {
    /// A seed as others are told of it.
    Seed {
        /// The node.
        node: Node,
        /// Slots of its store, its weight.
        capacity_slots: u32,
        /// It owns contents. A seed that has just joined does not yet.
        owns: bool,
    }
    /// A node that holds blocks.
    Holder {
        /// Who and where.
        node: Node,
        /// What it has.
        held: BlockSet,
        /// What it is about to have: asked for with [`Take::wait_ms`].
        coming: BlockSet,
        /// How busy it is.
        load: Load,
    }
    /// What has changed at a holder.
    Change {
        /// Where.
        plot: Plot,
        /// Now held.
        held: BlockSet,
        /// No longer held.
        lost: BlockSet,
    }
    /// A node that is to have a content.
    Reach {
        /// Who and where.
        node: Node,
        /// Whether it has.
        state: ReachState,
        /// What it holds.
        held_bytes: u64,
        /// Why it does not get it: a [`super::Code`]; 0 in other states.
        code: u16,
        /// The same for people.
        detail: Text<127>,
    }
    /// Neighbouring blocks of a content, as a boot reads them.
    BootRun {
        /// Number of the first block in the content.
        first: u32,
        /// How many.
        count: u16,
    }
    /// How busy a node's uplink is: 0 idle, 255 as full as its limits allow.
    #[derive(Copy, Default, PartialOrd, Ord)]
    Load {
        /// In 255ths.
        busy: u8,
    }
}

/// What a parent did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes of a block had another digest than the attested one.
    WrongBytes,
    /// It did not hold the block.
    NotHeld,
    /// It sent nothing, or too little.
    Slow,
}

impl Wire for Fault {
    fn put(&self, to: &mut BytesMut) {
        (*self as u8).put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        match u8::take(from, field)? {
            0 => Ok(Self::WrongBytes),
            1 => Ok(Self::NotHeld),
            2 => Ok(Self::Slow),
            _ => Err(Malformed::Value(field)),
        }
    }
}

/// What has become of a content at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReachState {
    /// It comes, or is about to.
    Coming,
    /// All of it is held.
    Whole,
    /// It does not get it.
    Failed,
}

impl Wire for ReachState {
    fn put(&self, to: &mut BytesMut) {
        (*self as u8).put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        match u8::take(from, field)? {
            0 => Ok(Self::Coming),
            1 => Ok(Self::Whole),
            2 => Ok(Self::Failed),
            _ => Err(Malformed::Value(field)),
        }
    }
}

impl Message {
    /// The kind of [`Hello`], which is known before the version is.
    pub const HELLO: u16 = 0x0001;

    /// Whether a stream may begin with this.
    #[must_use]
    pub fn is_request(&self) -> bool {
        use Message::*;
        matches!(
            self,
            Gossip(_)
                | Describe(_)
                | Want(_)
                | Take(_)
                | FindParents(_)
                | Watch(_)
                | Prove(_)
                | Recall(_)
                | Booted(_)
                | MapOf(_)
                | Spread(_)
                | Preheat(_)
        )
    }

    /// Whether this is said on the control stream, after `Hello`.
    #[must_use]
    pub fn is_told(&self) -> bool {
        matches!(
            self,
            Self::Seeds(_) | Self::Holds(_) | Self::Complain(_) | Self::Purge(_) | Self::Leaving(_)
        )
    }
}

impl Blocks {
    /// The places that follow; `None` if they are none, too many, or beyond a span.
    pub fn places(&self) -> Option<std::ops::Range<u32>> {
        let (first, count) = (u32::from(self.first), u32::from(self.count));
        ((1..=RUN_BLOCKS_MAX).contains(&count) && first + count <= SPAN_BLOCKS)
            .then_some(first..first + count)
    }
}

#[cfg(test)]
pub(crate) mod tests;
