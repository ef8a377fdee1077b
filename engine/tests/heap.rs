//! The allocator of the daemon, in a program of its own: it is sampled as a whole.

use std::hint::black_box;

use darter_engine::heap::{self, Amount, HeapStack, SampledHeap};

#[global_allocator]
static HEAP: SampledHeap = SampledHeap;

const MIB: usize = 1 << 20;

/// Looks at it, so that the function that allocated it is not over with the call that did.
#[inline(always)]
fn kept<T>(made: T) -> T {
    black_box(&made);
    made
}

#[inline(never)]
fn keeps(buffers: usize) -> Vec<Vec<u8>> {
    kept((0..buffers).map(|_| vec![1; 4 * MIB]).collect())
}

#[inline(never)]
fn grows_and_forgets(times: usize) {
    for _ in 0..times {
        let mut bytes = black_box(Vec::<u8>::with_capacity(1));
        bytes.reserve_exact(4 * MIB);
        drop(black_box(bytes));
    }
}

/// What was sampled with that function on the stack.
fn under(function: &str) -> (Amount, Amount) {
    let is_under = |stack: &&HeapStack| {
        let sampler = ["trace", "here", "sample"];
        stack.addresses().iter().any(|address| {
            let mut found = false;
            backtrace::resolve(std::ptr::without_provenance_mut(*address as usize), |symbol| {
                // With its path or without, as the debug information has it.
                let name = symbol.name().map(|name| format!("{name:#}")).unwrap_or_default();
                assert!(!sampler.contains(&&*name), "the sampler is no part of what it samples");
                found |= name.rsplit("::").next() == Some(function);
            });
            found
        })
    };
    let samples = heap::stacks();
    assert_eq!(samples.lost, 0);
    let mut sum = (Amount::default(), Amount::default());
    for stack in samples.stacks.iter().filter(is_under) {
        sum.0.objects += stack.allocated.objects;
        sum.0.bytes += stack.allocated.bytes;
        sum.1.objects += stack.freed.objects;
        sum.1.bytes += stack.freed.bytes;
    }
    sum
}

/// In one test, since what is sampled is the process.
#[test]
fn what_is_allocated_and_freed_is_known_by_its_stack() {
    let before = keeps(10);
    assert!(heap::stacks().stacks.is_empty(), "nobody samples before the start");
    heap::start();
    // The first allocation of a thread draws when its first sample comes.
    drop(black_box(vec![0_u8; 1]));
    let kept = keeps(50);
    grows_and_forgets(50);
    // One of 4 MiB is none with a probability of e^-8.
    let (allocated, freed) = under("keeps");
    assert!((45..=51).contains(&allocated.objects), "{allocated:?}");
    assert!(allocated.bytes >= allocated.objects.saturating_sub(1) * 4 * MIB as u64);
    assert_eq!(freed, Amount::default(), "they are there still");
    drop(before);
    // From other threads too.
    std::thread::spawn(move || drop(kept)).join().unwrap();
    let (_, freed) = under("keeps");
    assert_eq!(freed, allocated);
    let (grown, forgotten) = under("grows_and_forgets");
    assert!((45..=51).contains(&grown.objects), "{grown:?}");
    assert_eq!(grown, forgotten);

    heap::unseen(|| drop(hidden(50 * MIB)));
    assert_eq!(under("hidden").0, Amount::default());
    let seen = hidden(50 * MIB);
    assert_eq!(under("hidden").0.objects, 1);
    drop(seen);

    // Many at once, and none of it is left in the end.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..20 {
                    let some: Vec<_> = (0..500).map(|number| many(number * round)).collect();
                    drop(black_box(some));
                }
            });
        }
    });
    let (all, gone) = under("many");
    assert!(all.objects > 100, "{all:?}");
    assert_eq!(all, gone);
}

#[inline(never)]
fn hidden(bytes: usize) -> Vec<u8> {
    kept(vec![8; bytes])
}

#[inline(never)]
fn many(bytes: usize) -> Vec<u8> {
    kept(vec![7; bytes])
}
