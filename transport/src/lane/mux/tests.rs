use proptest::prelude::*;

use super::*;

/// Two sides and what is on its way between them, in virtual time.
struct Pair {
    sides: [Mux; 2],
    under_way: [VecDeque<(Head, Bytes)>; 2],
}

impl Pair {
    fn new() -> Self {
        Self { sides: [Mux::new(true), Mux::new(false)], under_way: [VecDeque::new(), VecDeque::new()] }
    }

    /// Moves at most so many parts from one side to the other.
    fn move_parts(&mut self, from: usize, parts: usize) {
        while let Some(part) = self.sides[from].next() {
            self.under_way[from].push_back(part);
        }
        for _ in 0..parts {
            let Some((head, payload)) = self.under_way[from].pop_front() else { return };
            assert_eq!(Head::decode(head.encode()), Ok(head));
            self.sides[1 - from].receive(head, payload).expect("both sides keep the rules");
        }
    }

    fn move_all(&mut self) {
        loop {
            self.move_parts(0, usize::MAX);
            self.move_parts(1, usize::MAX);
            let parts: Vec<_> = self.sides.iter_mut().map(Mux::next).collect();
            for (side, part) in parts.into_iter().enumerate() {
                self.under_way[side].extend(part);
            }
            if self.under_way.iter().all(VecDeque::is_empty) {
                return;
            }
        }
    }
}

/// What a side does.
#[derive(Clone, Debug)]
enum Operation {
    Open,
    Write { stream: usize, bytes: usize },
    Finish { stream: usize },
    Reset { stream: usize },
    Read { stream: usize, bytes: usize },
    Stop { stream: usize },
    DropSender { stream: usize },
    DropReceiver { stream: usize },
    Move { parts: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    let stream = || 0..6_usize;
    prop_oneof![
        2 => Just(Operation::Open),
        6 => (stream(), 0..300_000_usize).prop_map(|(stream, bytes)| Operation::Write { stream, bytes }),
        1 => stream().prop_map(|stream| Operation::Finish { stream }),
        1 => stream().prop_map(|stream| Operation::Reset { stream }),
        6 => (stream(), 1..300_000_usize).prop_map(|(stream, bytes)| Operation::Read { stream, bytes }),
        1 => stream().prop_map(|stream| Operation::Stop { stream }),
        1 => stream().prop_map(|stream| Operation::DropSender { stream }),
        1 => stream().prop_map(|stream| Operation::DropReceiver { stream }),
        6 => (0..20_usize).prop_map(|parts| Operation::Move { parts }),
    ]
}

proptest! {
    /// Whatever the two sides do, none takes the other for a liar, what is held is bounded, and when all is
    /// dropped nothing is left and all credit is back.
    #[test]
    fn two_honest_sides_agree(operations in prop::collection::vec((0..2_usize, operation()), 1..200)) {
        let mut pair = Pair::new();
        let mut held: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
        for (side, operation) in operations {
            let mux = &mut pair.sides[side];
            let named = |index: usize| held[side].get(index).copied().unwrap_or(u32::MAX);
            match operation {
                Operation::Open => held[side].extend(mux.open()),
                Operation::Write { stream, bytes } => {
                    _ = mux.write(named(stream), &mut Bytes::from(vec![0; bytes]));
                }
                Operation::Finish { stream } => mux.end(named(stream), None),
                Operation::Reset { stream } => mux.end(named(stream), Some(1)),
                Operation::Read { stream, bytes } => _ = mux.read(named(stream), bytes),
                Operation::Stop { stream } => mux.stop(named(stream), 2),
                Operation::DropSender { stream } => _ = mux.sender_gone(named(stream)),
                Operation::DropReceiver { stream } => _ = mux.receiver_gone(named(stream)),
                Operation::Move { parts } => pair.move_parts(side, parts),
            }
            let other = 1 - side;
            while let Some(stream) = pair.sides[other].accept() {
                held[other].push(stream);
            }
            for mux in &pair.sides {
                prop_assert!(mux.held_bytes() <= CONNECTION_WINDOW_BYTES as usize);
                prop_assert!(mux.open_ours <= STREAMS_MAX && mux.open_theirs <= STREAMS_MAX);
            }
        }
        // What is given up before it has arrived is taken up and dropped as well.
        for _ in 0..2 {
            pair.move_all();
            for (side, held) in held.iter_mut().enumerate() {
                held.extend(std::iter::from_fn(|| pair.sides[side].accept()));
                for stream in held.drain(..) {
                    pair.sides[side].sender_gone(stream);
                    pair.sides[side].receiver_gone(stream);
                }
            }
        }
        pair.move_all();
        for mux in &pair.sides {
            prop_assert_eq!((mux.held_bytes(), mux.open_ours), (0, 0));
        }
    }
}

// Megabytes each.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Data comes in order and whole, however it is cut and whatever the pace.
    #[test]
    fn what_is_written_is_read(writes in prop::collection::vec(1..200_000_usize, 1..16), read in 1..100_000_usize) {
        let mut pair = Pair::new();
        let stream = pair.sides[0].open().expect("the first");
        let mut next = 0_u8;
        let mut expected = 0_u8;
        let mut left: usize = writes.iter().sum();
        let mut writes = writes.into_iter();
        let mut pending = Bytes::new();
        while left > 0 {
            if pending.is_empty() {
                let data: Vec<u8> = (0..writes.next().unwrap_or(0)).map(|_| { next = next.wrapping_add(1); next }).collect();
                pending = data.into();
            }
            pair.sides[0].write(stream, &mut pending).expect("open");
            pair.move_parts(0, 3);
            pair.move_parts(1, 3);
            if let Ok(Some(part)) = pair.sides[1].read(stream, read) {
                left -= part.len();
                for byte in part {
                    expected = expected.wrapping_add(1);
                    prop_assert_eq!(byte, expected);
                }
            }
        }
        pair.sides[0].end(stream, None);
        pair.move_all();
        prop_assert_eq!(pair.sides[1].read(stream, 1), Ok(None));
    }

    /// Any bytes are parts that keep the rules, or the end of the connection; what is held stays bounded.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4000), kinds in prop::collection::vec((0..8_u8, 0..12_u32, 0..70_000_u32), 0..60)) {
        let mut mux = Mux::new(false);
        let crafted: Vec<u8> = kinds.iter().flat_map(|(kind, stream, value)| {
            let payload = if *kind == 0 || *kind == 6 { *value as usize } else { 0 };
            let head = [&[*kind][..], &stream.to_le_bytes(), &value.to_le_bytes()].concat();
            head.into_iter().chain(std::iter::repeat_n(0, payload))
        }).collect();
        for input in [crafted, bytes] {
            let _ = mux.receive_bytes(&input);
            prop_assert!(mux.held_bytes() <= CONNECTION_WINDOW_BYTES as usize);
            prop_assert!(mux.streams.len() <= STREAMS_MAX as usize);
        }
    }
}

#[test]
fn who_gives_up_streams_faster_than_they_are_taken_up_comes_to_an_end() {
    let mut pair = Pair::new();
    let mut opened = 0;
    while let Some(stream) = pair.sides[0].open() {
        opened += 1;
        assert!(opened <= STREAMS_MAX, "without an end");
        pair.sides[0].sender_gone(stream);
        pair.sides[0].receiver_gone(stream);
        pair.move_all();
    }
    assert_eq!((opened, pair.sides[1].streams.len()), (STREAMS_MAX, STREAMS_MAX as usize));
    while let Some(stream) = pair.sides[1].accept() {
        pair.sides[1].sender_gone(stream);
        pair.sides[1].receiver_gone(stream);
    }
    pair.move_all();
    assert!(pair.sides[0].open().is_some() && pair.sides[1].streams.is_empty());
}

#[test]
fn streams_take_turns() {
    let mut pair = Pair::new();
    let streams: Vec<u32> = (0..3).filter_map(|_| pair.sides[0].open()).collect();
    for stream in &streams {
        pair.sides[0].write(*stream, &mut Bytes::from(vec![0; 3 * DATA_BYTES_MAX as usize])).expect("open");
    }
    let order: Vec<u32> = std::iter::from_fn(|| pair.sides[0].next())
        .map(|(head, _)| match head {
            Head::Data { stream, .. } => stream,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, streams.repeat(3));
}
