//! Samples of what this process's threads are doing, for a profile of its processor time.
//!
//! While a [`Sampler`] lives, the kernel sends SIGPROF to a running thread each time that the process has used so much
//! processor time. The handler does what a handler may do, whatever it has interrupted: it takes a free slot of a
//! fixed table, copies the registers and the upper part of the stack into it, and returns. It takes no lock, allocates
//! nothing and reads no address that could fault: the copy is made by the kernel, for which a bad address is EFAULT. Whoever
//! has the sampler empties the slots, and makes of registers and stack who has called whom, on a thread of its own and with all
//! the time that it needs. Where no slot is free the sample is missed, and counted.
//!
//! The table is static and untouched until the first sampler, so that it costs nothing before. The handler stays once
//! it is there: a signal that was on its way when a sampler ended must not meet the default, which ends the process. System
//! calls that it interrupts go on by themselves where the kernel can have them so (SA_RESTART), and epoll and io_uring, where it
//! cannot, are asked again by the runtimes.
//!
//! Deliberately elsewhere: unwinding, names, and the form of a profile. x86_64 only.
#![allow(unsafe_code, reason = "a signal handler; each block names its invariant")]

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Of a stack, from its innermost frame on. What is deeper is not seen.
pub const STACK_BYTES: usize = 64 << 10;
/// Samples that may wait to be taken: 64 of 64 KiB. At 250 in a second of each of 16 processors that is 16 ms.
const SLOTS: usize = 64;
/// Samples in a second of processor time. The kernel looks at its ticks, of which there may be 250.
pub const HZ_MAX: u32 = 250;
const PAGE_BYTES: usize = 4096;
/// A stack that does not begin at a page's beginning is in one page more.
const PAGES: usize = STACK_BYTES / PAGE_BYTES + 1;

/// Nobody has it.
const EMPTY: u8 = 0;
/// The handler that has claimed it.
const CLAIMED: u8 = 1;
/// The sampler.
const FULL: u8 = 2;

/// What one thread was doing at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Of the thread, as in `/proc/self/task`.
    pub thread: u32,
    /// The instruction that it was at.
    pub instruction: u64,
    /// The address that `stack` begins at.
    pub stack_pointer: u64,
    /// Of the frame, if the code keeps one.
    pub frame_pointer: u64,
    /// The stack from there on, up to its end or to [`STACK_BYTES`]. Empty where a sandbox forbids to look.
    pub stack: &'a [u8],
}

/// Takes samples for as long as it lives. There is one at a time in a process.
#[derive(Debug)]
pub struct Sampler(());

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// Another one is there: try again when it has ended.
    #[error("a profile is being taken already; try again when that has ended")]
    Busy,
    /// Rather a mistake of ours than anything that a caller could mend.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

struct Slot {
    /// Who may touch the rest.
    state: AtomicU8,
    taken: UnsafeCell<Taken>,
}

struct Taken {
    thread: u32,
    instruction: u64,
    stack_pointer: u64,
    frame_pointer: u64,
    stack_bytes: usize,
    stack: [u8; STACK_BYTES],
}

// SAFETY: `taken` is touched only by the handler that has claimed the slot (EMPTY to CLAIMED by one compare-exchange), until it
// gives it up by storing FULL, and then only by the one sampler of the process, until it stores EMPTY.
unsafe impl Sync for Slot {}

/// All zeros, so that it is no part of the binary and no memory until it is used.
static SLOTS_OF_ALL: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicU8::new(EMPTY),
        taken: UnsafeCell::new(Taken {
            thread: 0,
            instruction: 0,
            stack_pointer: 0,
            frame_pointer: 0,
            stack_bytes: 0,
            stack: [0; STACK_BYTES],
        }),
    }
}; SLOTS];
static NEXT: AtomicUsize = AtomicUsize::new(0);
static MISSED: AtomicU64 = AtomicU64::new(0);
/// Somebody wants samples.
static ON: AtomicBool = AtomicBool::new(false);
/// There is a sampler.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Sampler {
    /// Begins to take `hz` samples in each second of processor time that the process uses, all threads together; 1 to
    /// [`HZ_MAX`], others count as the nearest of these.
    ///
    /// # Errors
    /// There is a sampler already, or the system refuses.
    pub fn start(hz: u32) -> Result<Self, SamplerError> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(SamplerError::Busy);
        }
        // From here on its end gives back what was taken.
        let mut sampler = Self(());
        sampler.take(|_| {});
        MISSED.store(0, Ordering::Relaxed);
        install().map_err(|error| SamplerError::System("take the signal SIGPROF", error))?;
        ON.store(true, Ordering::Release);
        set_timer(1_000_000 / hz.clamp(1, HZ_MAX))
            .map_err(|error| SamplerError::System("set a timer of processor time", error))?;
        Ok(sampler)
    }

    /// Hands over what has been sampled since the last call. To be called again before all slots are full: each 16 ms
    /// where much is going on.
    pub fn take(&mut self, mut each: impl FnMut(&Sample<'_>)) {
        for slot in &SLOTS_OF_ALL {
            if slot.state.load(Ordering::Acquire) != FULL {
                continue;
            }
            // SAFETY: the slot is full, and this is the process's one sampler, by `&mut self`.
            let taken = unsafe { &*slot.taken.get() };
            each(&Sample {
                thread: taken.thread,
                instruction: taken.instruction,
                stack_pointer: taken.stack_pointer,
                frame_pointer: taken.frame_pointer,
                stack: &taken.stack[..taken.stack_bytes.min(STACK_BYTES)],
            });
            slot.state.store(EMPTY, Ordering::Release);
        }
    }

    /// Samples for which there was no slot.
    #[must_use]
    pub fn missed(&self) -> u64 {
        MISSED.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // It fails for no timer that there is.
        let _ = set_timer(0);
        ON.store(false, Ordering::Release);
        TAKEN.store(false, Ordering::Release);
    }
}

/// Has the allocator return to the system what it holds and nobody uses. To find the names for a profile takes tens of MiB
/// once, which would stay in the heap for good.
pub fn give_back_heap() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it touches free memory only.
    unsafe { libc::malloc_trim(0) };
}

fn set_timer(every_us: u32) -> io::Result<()> {
    let every =
        libc::timeval { tv_sec: i64::from(every_us / 1_000_000), tv_usec: i64::from(every_us % 1_000_000) };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the pointer is that of a whole `itimerval` that lives through the call; the old one is not asked for.
    match unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn install() -> io::Result<()> {
    // SAFETY: a sigaction of zeros is a valid one (SIG_DFL without flags), to be overwritten.
    let mut ours: libc::sigaction = unsafe { mem::zeroed() };
    ours.sa_sigaction = on_sigprof as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `ours` names a handler of the signature that SA_SIGINFO asks for, which does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGPROF, &raw const ours, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_sigprof(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !ON.load(Ordering::Acquire) {
        return;
    }
    let slot = &SLOTS_OF_ALL[NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS];
    if slot.state.compare_exchange(EMPTY, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
        MISSED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid context; the slot is claimed by this call, so that nobody
    // else touches `taken`. errno is saved because the interrupted code may be about to read it.
    unsafe {
        let errno = *libc::__errno_location();
        let registers = (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let taken = &mut *slot.taken.get();
        taken.thread = libc::gettid().cast_unsigned();
        taken.instruction = registers[libc::REG_RIP as usize].cast_unsigned();
        taken.stack_pointer = registers[libc::REG_RSP as usize].cast_unsigned();
        taken.frame_pointer = registers[libc::REG_RBP as usize].cast_unsigned();
        taken.stack_bytes = copy(taken.stack_pointer as usize, &mut taken.stack);
        *libc::__errno_location() = errno;
    }
    slot.state.store(FULL, Ordering::Release);
}

/// Copies memory of this process from `from` on, as far as there is some, and returns how much. Called in the handler.
fn copy(from: usize, to: &mut [u8; STACK_BYTES]) -> usize {
    let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    // The kernel copies whole entries or none of them: so each page is one.
    let mut pages = [nothing; PAGES];
    let (mut at, mut left) = (from, STACK_BYTES);
    for page in &mut pages {
        let bytes = left.min(PAGE_BYTES - at % PAGE_BYTES);
        *page = libc::iovec { iov_base: ptr::without_provenance_mut(at), iov_len: bytes };
        at = at.wrapping_add(bytes);
        left -= bytes;
    }
    let all = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: STACK_BYTES };
    // SAFETY: the kernel writes at most STACK_BYTES to `to`, which is that long and lent to this call alone. What it reads
    // is this process's own memory, and where there is none it stops. A process may read itself in this way.
    let copied = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const all, 1, pages.as_ptr(), PAGES as libc::c_ulong, 0)
    };
    usize::try_from(copied).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::Mutex;
    use std::thread;
    use std::time::{Duration, Instant};

    use memmap2::MmapOptions;

    use super::*;
    use crate::fault::Contained;

    /// There is one sampler in a process, and tests are threads of one.
    static TURN: Mutex<()> = Mutex::new(());
    const LONG: Duration = Duration::from_secs(60);

    #[inline(never)]
    fn burn() -> u64 {
        (0..100_000_u64).fold(1, |sum, number| black_box(sum ^ number.wrapping_mul(sum | 1)))
    }

    #[test]
    fn a_thread_that_works_is_seen_with_its_stack() {
        let _turn = TURN.lock().unwrap();
        let mut sampler = Sampler::start(HZ_MAX).unwrap();
        assert!(matches!(Sampler::start(99), Err(SamplerError::Busy)));
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let (mut seen, begun) = (0, Instant::now());
        let marker = 0x5eed_0bad_cafe_u64;
        while seen < 5 {
            assert!(begun.elapsed() < LONG, "no samples");
            black_box(&marker);
            black_box(burn());
            sampler.take(|sample| {
                assert!(sample.instruction != 0 && sample.stack_pointer != 0);
                if sample.thread == own {
                    let at = ptr::from_ref(&marker) as u64 - sample.stack_pointer;
                    let bytes = &sample.stack[usize::try_from(at).unwrap()..][..8];
                    assert_eq!(bytes, marker.to_le_bytes(), "the stack as it is");
                    seen += 1;
                }
            });
        }
        drop(sampler);
        assert!(Sampler::start(99).is_ok(), "the place is free again");
    }

    #[test]
    fn a_signal_after_the_end_is_nothing() {
        let _turn = TURN.lock().unwrap();
        drop(Sampler::start(99).unwrap());
        // SAFETY: a signal that has a handler, to this thread.
        assert_eq!(unsafe { libc::raise(libc::SIGPROF) }, 0);
        let mut sampler = Sampler::start(1).unwrap();
        sampler.take(|sample| panic!("{sample:?} is of nobody"));
    }

    #[test]
    fn nobody_takes_and_samples_are_missed() {
        let _turn = TURN.lock().unwrap();
        let sampler = Sampler::start(HZ_MAX).unwrap();
        let begun = Instant::now();
        while sampler.missed() == 0 {
            assert!(begun.elapsed() < LONG, "nothing is missed");
            black_box(burn());
        }
    }

    /// Pages that turn to zeros under a reader, while signals come in the middle of that.
    #[test]
    fn mappings_that_fail_do_so_as_ever() {
        const BYTES: usize = 64 << 12;
        let _turn = TURN.lock().unwrap();
        let mut sampler = Sampler::start(HZ_MAX).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let file = tempfile::tempfile().unwrap();
                        file.set_len(BYTES as u64).unwrap();
                        let map = MmapOptions::new().len(BYTES).map_raw_read_only(&file).unwrap();
                        let contained = Contained::new(map).unwrap();
                        file.set_len(0).unwrap();
                        for at in (0..BYTES).step_by(PAGE_BYTES) {
                            // SAFETY: inside the mapping.
                            assert_eq!(unsafe { contained.map().as_ptr().add(at).read_volatile() }, 0);
                        }
                        assert!(contained.has_failed());
                        black_box(burn());
                    }
                });
            }
        });
        sampler.take(|_| {});
    }
}
