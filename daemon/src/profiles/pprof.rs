//! The form of a profile: the protobuf message `perftools.profiles.Profile` of google/pprof (`proto/profile.proto`), which
//! `go tool pprof` and others read. Only what is written here, field by field; pure.

use std::collections::HashMap;

/// Where a stack's frame is in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the instruction; of a caller, within that of the call.
    pub(super) address: u64,
    /// Into `mappings`, if it lies in one.
    pub(super) mapping: Option<usize>,
    /// The function there; before it those that were inlined into it, innermost first. None where there are no symbols.
    pub(super) functions: Vec<Named>,
}

/// A function at one of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) file: String,
    /// 0: unknown.
    pub(super) line: u32,
}

/// A file that code is mapped from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Of `start`, in the file.
    pub(super) offset: u64,
    pub(super) file: String,
    /// In hexadecimal; empty if it has none.
    pub(super) build_id: String,
}

/// One stack, seen so often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stack {
    pub(super) thread: String,
    pub(super) count: u64,
    /// Into `places`, innermost first.
    pub(super) places: Vec<usize>,
}

/// A profile of processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) begun_at_ns: u64,
    pub(super) duration_ns: u64,
    /// Processor time that one sample stands for.
    pub(super) period_ns: u64,
    pub(super) mappings: Vec<Mapping>,
    pub(super) places: Vec<Place>,
    pub(super) stacks: Vec<Stack>,
    /// For whoever reads it.
    pub(super) comment: String,
}

impl Profile {
    /// As the message, not compressed.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        let mut functions = Functions::default();
        let mut message = Message::default();
        let value_type = |kind: &str, unit: &str, strings: &mut Strings| {
            Message::default().number(1, strings.index(kind)).number(2, strings.index(unit)).0
        };
        let samples = value_type("samples", "count", &mut strings);
        let cpu = value_type("cpu", "nanoseconds", &mut strings);
        message = message.bytes(1, &samples).bytes(1, &cpu);
        for stack in &self.stacks {
            let label = Message::default().number(1, strings.index("thread"));
            let label = label.number(2, strings.index(&stack.thread));
            let sample = Message::default()
                .numbers(1, stack.places.iter().map(|place| *place as u64 + 1))
                .numbers(2, [stack.count, stack.count.saturating_mul(self.period_ns)])
                .bytes(3, &label.0);
            message = message.bytes(2, &sample.0);
        }
        for (number, mapping) in self.mappings.iter().enumerate() {
            let mut has = |place: &Place| place.mapping == Some(number) && !place.functions.is_empty();
            let has = u64::from(self.places.iter().any(&mut has));
            let encoded = Message::default()
                .number(1, number as u64 + 1)
                .number(2, mapping.start)
                .number(3, mapping.end)
                .number(4, mapping.offset)
                .number(5, strings.index(&mapping.file))
                .number(6, strings.index(&mapping.build_id));
            // Names, files, lines and inlined functions come together; without them a reader looks itself.
            let encoded = (7..=10).fold(encoded, |encoded, field| encoded.number(field, has));
            message = message.bytes(3, &encoded.0);
        }
        for (number, place) in self.places.iter().enumerate() {
            let mut encoded = Message::default()
                .number(1, number as u64 + 1)
                .number(2, place.mapping.map_or(0, |mapping| mapping as u64 + 1))
                .number(3, place.address);
            for named in &place.functions {
                let line = Message::default()
                    .number(1, functions.id(named, &mut strings))
                    .number(2, named.line.into());
                encoded = encoded.bytes(4, &line.0);
            }
            message = message.bytes(4, &encoded.0);
        }
        for (id, (name, file)) in (1..).zip(&functions.all) {
            let encoded = Message::default().number(1, id).number(2, *name).number(3, *name).number(4, *file);
            message = message.bytes(5, &encoded.0);
        }
        let comment = strings.index(&self.comment);
        for text in &strings.all {
            message = message.bytes(6, text.as_bytes());
        }
        message
            .number(9, self.begun_at_ns)
            .number(10, self.duration_ns)
            .bytes(11, &cpu)
            .number(12, self.period_ns)
            .numbers(13, [comment])
            .0
    }
}

/// Each text once; the first is the empty one.
struct Strings {
    all: Vec<String>,
    known: HashMap<String, u64>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { all: vec![String::new()], known: HashMap::from([(String::new(), 0)]) }
    }
}

impl Strings {
    fn index(&mut self, text: &str) -> u64 {
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        let index = self.all.len() as u64;
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), index);
        index
    }
}

/// Each function once, by name and file.
#[derive(Default)]
struct Functions {
    all: Vec<(u64, u64)>,
    known: HashMap<(u64, u64), u64>,
}

impl Functions {
    fn id(&mut self, named: &Named, strings: &mut Strings) -> u64 {
        let function = (strings.index(&named.name), strings.index(&named.file));
        *self.known.entry(function).or_insert_with(|| {
            self.all.push(function);
            self.all.len() as u64
        })
    }
}

/// A message of protobuf that grows field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// A field of a number; none for 0, which is what an absent one means.
    fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
        self
    }

    /// A field of several numbers, packed.
    fn numbers(self, field: u32, values: impl IntoIterator<Item = u64>) -> Self {
        let mut packed = Self::default();
        values.into_iter().for_each(|value| packed.varint(value));
        self.bytes(field, &packed.0)
    }

    /// A field of text or of another message.
    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_protobuf_has_them() {
        // The examples of protobuf.dev/programming-guides/encoding.
        assert_eq!(Message::default().number(1, 150).0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, b"testing").0, b"\x12\x07testing");
        assert_eq!(Message::default().numbers(6, [3, 270, 86_942]).0, b"\x32\x06\x03\x8e\x02\x9e\xa7\x05");
        assert!(Message::default().number(1, 0).0.is_empty());
        let most = Message::default().number(1, u64::MAX).0;
        assert_eq!((most.len(), most.last()), (11, Some(&1)));
    }

    #[test]
    fn a_name_that_comes_again_is_there_once() {
        let named = Named { name: "darter::burn".into(), file: "burn.rs".into(), line: 7 };
        let place = Place { address: 0x1000, mapping: None, functions: vec![named] };
        let profile = Profile { places: vec![place.clone(), place], ..Profile::default() };
        let encoded = profile.encoded();
        let times = encoded.windows(12).filter(|window| window == b"darter::burn").count();
        assert_eq!(times, 1);
    }
}
