//! How the fields of a message are written: little-endian, in order, each list and text behind its length.
//!
//! What has a length has a type with a limit, and the limit is checked before anything is allocated. The same types
//! are used to build a message, so that none can be built that another node would refuse.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use bytes::{BufMut, Bytes, BytesMut};
use darter_engine::{ContentId, RegistryScope, Scope};

use crate::block_set::BlockSet;
use crate::node::{Node, NodeId, Role};
use crate::span::{Plot, SPAN_BLOCKS, SpanIndex};

/// Bytes that are no message of this protocol, and what is wrong with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a field.
    #[error("the message ends inside the field {0}")]
    Short(&'static str),
    /// A length is above the field's limit.
    #[error("{count} in the field {field}, where at most {max} may be")]
    TooMany {
        /// Which field.
        field: &'static str,
        /// What it says.
        count: usize,
        /// What it may say.
        max: usize,
    },
    /// A value that means nothing.
    #[error("the field {0} has a value that means nothing")]
    Value(&'static str),
}

/// What is left of a message.
#[derive(Debug)]
pub struct Reader {
    left: Bytes,
}

impl Reader {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self { left: payload }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    fn bytes(&mut self, count: usize, field: &'static str) -> Result<Bytes, Malformed> {
        if self.left.len() < count {
            return Err(Malformed::Short(field));
        }
        Ok(self.left.split_to(count))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes(N, field)?);
        Ok(array)
    }
}

/// A field, or a message: a sequence of fields.
pub(crate) trait Wire: Sized {
    fn put(&self, to: &mut BytesMut);
    /// `field` names what is being read, for the error.
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn put(&self, to: &mut BytesMut) {
                to.put_slice(&self.to_le_bytes());
            }
            fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
                Ok(Self::from_le_bytes(from.array(field)?))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

macro_rules! names {
    ($($name:ty),*) => {$(
        impl Wire for $name {
            fn put(&self, to: &mut BytesMut) {
                to.put_slice(self.as_bytes());
            }
            fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
                Ok(Self::from_bytes(from.array(field)?))
            }
        }
    )*};
}
names!(ContentId, NodeId, RegistryScope);

/// The BLAKE3 of a block.
pub type BlockDigest = [u8; 32];

impl Wire for BlockDigest {
    fn put(&self, to: &mut BytesMut) {
        to.put_slice(self);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        from.array(field)
    }
}

impl Wire for bool {
    fn put(&self, to: &mut BytesMut) {
        u8::from(*self).put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        match u8::take(from, field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value(field)),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, to: &mut BytesMut) {
        self.is_some().put(to);
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(if bool::take(from, field)? { Some(T::take(from, field)?) } else { None })
    }
}

impl Wire for Role {
    fn put(&self, to: &mut BytesMut) {
        (*self == Self::Seed).put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(if bool::take(from, field)? { Self::Seed } else { Self::Peer })
    }
}

impl Wire for Scope {
    fn put(&self, to: &mut BytesMut) {
        match self {
            Self::Verified => None,
            Self::Registry(registry) => Some(*registry),
        }
        .put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let registry: Option<RegistryScope> = Wire::take(from, field)?;
        Ok(registry.map_or(Self::Verified, Self::Registry))
    }
}

impl Wire for SpanIndex {
    fn put(&self, to: &mut BytesMut) {
        self.number().put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(Self::from_number(u32::take(from, field)?))
    }
}

impl Wire for Plot {
    fn put(&self, to: &mut BytesMut) {
        self.content.put(to);
        self.scope.put(to);
        self.span.put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(Self {
            content: Wire::take(from, field)?,
            scope: Wire::take(from, field)?,
            span: Wire::take(from, field)?,
        })
    }
}

/// Places up to the highest one, eight to a byte; so a set is written in one way only.
impl Wire for BlockSet {
    fn put(&self, to: &mut BytesMut) {
        let end = self.end();
        (end as u16).put(to);
        (0..end.div_ceil(8)).for_each(|byte| to.put_u8(self.byte(byte)));
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let end = u32::from(u16::take(from, field)?);
        if end > SPAN_BLOCKS {
            return Err(Malformed::TooMany { field, count: end as usize, max: SPAN_BLOCKS as usize });
        }
        let mut set = Self::EMPTY;
        let bytes = from.bytes(end.div_ceil(8) as usize, field)?;
        bytes.iter().zip(0..).for_each(|(bits, byte)| set.set_byte(byte, *bits));
        if set.end() == end { Ok(set) } else { Err(Malformed::Value(field)) }
    }
}

impl Wire for SocketAddr {
    fn put(&self, to: &mut BytesMut) {
        match self.ip() {
            IpAddr::V4(ip) => {
                to.put_u8(4);
                to.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                to.put_u8(6);
                to.put_slice(&ip.octets());
            }
        }
        self.port().put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let ip = match u8::take(from, field)? {
            4 => IpAddr::from(from.array::<4>(field)?),
            6 => IpAddr::from(from.array::<16>(field)?),
            _ => return Err(Malformed::Value(field)),
        };
        Ok(Self::new(ip, u16::take(from, field)?))
    }
}

impl Wire for Node {
    fn put(&self, to: &mut BytesMut) {
        self.id.put(to);
        self.address.put(to);
        self.zone.put(to);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        Ok(Self {
            id: Wire::take(from, field)?,
            address: Wire::take(from, field)?,
            zone: Wire::take(from, field)?,
        })
    }
}

/// A text of at most `MAX` bytes, and `MAX` at most 65 535.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// The text, cut at a character if it is too long.
    pub fn cut(text: &str) -> Self {
        let end = (0..=MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        Self(text[..end].to_owned())
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Wire for Text<MAX> {
    fn put(&self, to: &mut BytesMut) {
        (self.len() as u16).put(to);
        to.put_slice(self.as_bytes());
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let count = usize::from(u16::take(from, field)?);
        if count > MAX {
            return Err(Malformed::TooMany { field, count, max: MAX });
        }
        let bytes = from.bytes(count, field)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Malformed::Value(field))?;
        Ok(Self(text.to_owned()))
    }
}

/// At most `MAX` bytes that mean nothing to this crate, and `MAX` at most 65 535: what the daemons say to each other
/// of origins, or a packet of the membership.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Opaque<const MAX: usize>(Bytes);

impl<const MAX: usize> Opaque<MAX> {
    /// `None` if there are more than `MAX` bytes.
    pub fn new(bytes: Bytes) -> Option<Self> {
        (bytes.len() <= MAX).then_some(Self(bytes))
    }
}

impl<const MAX: usize> Deref for Opaque<MAX> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> Wire for Opaque<MAX> {
    fn put(&self, to: &mut BytesMut) {
        (self.len() as u16).put(to);
        to.put_slice(self);
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let count = usize::from(u16::take(from, field)?);
        if count > MAX {
            return Err(Malformed::TooMany { field, count, max: MAX });
        }
        from.bytes(count, field).map(Self)
    }
}

/// At most `MAX` values, and `MAX` at most 65 535.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// `None` if there are more than `MAX`.
    pub fn new(values: Vec<T>) -> Option<Self> {
        (values.len() <= MAX).then_some(Self(values))
    }

    /// As many as fit.
    pub fn first_of(values: impl IntoIterator<Item = T>) -> Self {
        Self(values.into_iter().take(MAX).collect())
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Wire, const MAX: usize> Wire for List<T, MAX> {
    fn put(&self, to: &mut BytesMut) {
        (self.len() as u16).put(to);
        self.iter().for_each(|value| value.put(to));
    }
    fn take(from: &mut Reader, field: &'static str) -> Result<Self, Malformed> {
        let count = usize::from(u16::take(from, field)?);
        if count > MAX {
            return Err(Malformed::TooMany { field, count, max: MAX });
        }
        // Each value has at least a byte: a short message cannot claim memory for a long list.
        if count > from.left.len() {
            return Err(Malformed::Short(field));
        }
        (0..count).map(|_| T::take(from, field)).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<T: Wire>(bytes: &[u8]) -> Result<T, Malformed> {
        T::take(&mut Reader::new(Bytes::copy_from_slice(bytes)), "x")
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_are_looked_for() {
        let too_many = |count, max| Malformed::TooMany { field: "x", count, max };
        assert_eq!(take::<Text<3>>(&[4, 0]), Err(too_many(4, 3)));
        assert_eq!(take::<Opaque<3>>(&[255, 255]), Err(too_many(65_535, 3)));
        assert_eq!(take::<List<u64, 2>>(&[3, 0]), Err(too_many(3, 2)));
        assert_eq!(take::<BlockSet>(&[1, 4]), Err(too_many(1025, 1024)));
        assert_eq!(take::<List<u64, 2>>(&[2, 0, 1]), Err(Malformed::Short("x")));
    }

    #[test]
    fn a_set_is_written_in_one_way() {
        assert_eq!(take::<BlockSet>(&[9, 0, 1, 1]), Ok([0, 8].into_iter().collect()));
        // A place beyond the end, and an end without its place.
        assert_eq!(take::<BlockSet>(&[9, 0, 1, 2]), Err(Malformed::Value("x")));
        assert_eq!(take::<BlockSet>(&[10, 0, 1, 1]), Err(Malformed::Value("x")));
        assert_eq!(take::<BlockSet>(&[0, 0]), Ok(BlockSet::EMPTY));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert_eq!(take::<bool>(&[2]), Err(Malformed::Value("x")));
        assert_eq!(take::<SocketAddr>(&[5, 0, 0, 0, 0, 0, 0]), Err(Malformed::Value("x")));
        assert_eq!(take::<Text<8>>(&[1, 0, 0xff]), Err(Malformed::Value("x")));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(&*Text::<4>::cut("aäöü"), "aä");
        assert_eq!(&*Text::<5>::cut("aäöü"), "aäö");
    }
}
