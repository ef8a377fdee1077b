//! SIGBUS beneath a mapping that this process reads.
//!
//! A file that is truncated, or a disk that cannot bring a page, makes the touch of a mapped page a SIGBUS, which
//! ends a process. Here it does not: the handler puts pages of zeros where the mapping was and marks it as failed.
//! Whoever was reading goes on over zeros, and its checksum tells it that they are none of its bytes. A mapping that
//! has failed is given up whole; nothing brings its pages back.
//!
//! What the handler may do is little: it reads atomics, calls mmap(2) and returns. A fault that lies in no mapping
//! registered here is handed to the handler that was there before, std's of stack overflows included.
//!
//! Deliberately elsewhere: what becomes of the pieces of a failed slab (`keeper`), and mappings that only the kernel
//! reads for a socket, where the same page is EFAULT and no signal (`slab`).
#![allow(unsafe_code, reason = "a signal handler; each block names its invariant")]

use std::ffi::c_int;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::MmapRaw;

/// A read-only mapping whose bad pages turn to zeros instead of ending the process.
#[derive(Debug)]
pub(crate) struct Contained {
    // Watched for as long as it is mapped, and no longer.
    watched: Watching,
    map: MmapRaw,
}

impl Contained {
    /// Takes over the mapping. The first call of a process installs the handler.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub(crate) fn new(map: MmapRaw) -> io::Result<Self> {
        install()?;
        let start = map.as_ptr() as usize;
        Ok(Self { watched: Watching(watch(start, map.len())), map })
    }

    pub(crate) fn map(&self) -> &MmapRaw {
        &self.map
    }

    /// Whether a page of it was bad since it was mapped. It is all zeros then, or about to be.
    pub(crate) fn has_failed(&self) -> bool {
        self.watched.0.failed.load(Ordering::Acquire)
    }
}

/// An entry of the list that the handler walks. It is never freed, and only its flags change: 40 bytes for each slab
/// that a process opens, which a daemon does once.
#[derive(Debug)]
struct Watched {
    start: usize,
    bytes: usize,
    /// The mapping is there.
    live: AtomicBool,
    failed: AtomicBool,
    next: *const Watched,
}

// SAFETY: `next` is written before the entry is published and points to an entry that is never freed; all else that
// is shared is atomic or never changes.
unsafe impl Sync for Watched {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Watched {}

/// The newest entry.
static NEWEST: AtomicPtr<Watched> = AtomicPtr::new(ptr::null_mut());

/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn watch(start: usize, bytes: usize) -> &'static Watched {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let next = NEWEST.load(Ordering::Relaxed).cast_const();
    let (live, failed) = (AtomicBool::new(true), AtomicBool::new(false));
    let watched = Box::leak(Box::new(Watched { start, bytes, live, failed, next }));
    NEWEST.store(ptr::from_mut(watched), Ordering::Release);
    watched
}

/// The entry of a mapping that is there.
#[derive(Debug)]
struct Watching(&'static Watched);

impl Drop for Watching {
    fn drop(&mut self) {
        // Before the mapping goes, and with it the claim to its addresses.
        self.0.live.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: a sigaction of zeros is a valid one (SIG_DFL without flags), to be overwritten.
    let (mut before, mut ours): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    // SAFETY: `before` is valid for the write; no action is given, so none is changed.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Before the handler can run, which reads it.
    let _ = BEFORE.set(before);
    ours.sa_sigaction = on_sigbus as extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    // On the thread's signal stack where it has one, as std's handler wants it. Not SA_NODEFER: the handler touches
    // no mapping of its own.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `ours` names a handler of the signature that SA_SIGINFO asks for, which does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo.
    let code = unsafe { (*info).si_code };
    // Faults of this thread; a signal that somebody sent has no address.
    if code == libc::BUS_ADRERR || code == libc::BUS_MCEERR_AR {
        // SAFETY: as above, and a SIGBUS with these codes has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        if let Some(watched) = watched_at(address)
            && cover(watched)
        {
            return;
        }
    }
    hand_on(signal, info, context);
}

/// The mapping that an address lies in. Called in the handler.
fn watched_at(address: usize) -> Option<&'static Watched> {
    let mut entry = NEWEST.load(Ordering::Acquire).cast_const();
    // SAFETY: an entry is published only when it is written, and never freed.
    while let Some(watched) = unsafe { entry.as_ref() } {
        let inside = address.wrapping_sub(watched.start) < watched.bytes;
        if inside && watched.live.load(Ordering::Acquire) {
            return Some(watched);
        }
        entry = watched.next;
    }
    None
}

/// Pages of zeros in place of the whole mapping: it is given up whole, and one mapping is one entry of the kernel's,
/// where pages of their own would be thousands. Called in the handler; two threads may be here at once.
fn cover(watched: &Watched) -> bool {
    // Before the zeros can be seen: who finds them finds the mark too.
    watched.failed.store(true, Ordering::Release);
    // SAFETY: the range is a mapping of ours that is live: a thread is reading it at this moment, so its owner has
    // not dropped it. It is read-only and stays so, and no reference into it promises bytes that do not change.
    // errno is saved because the interrupted code may be about to read it.
    unsafe {
        let errno = *libc::__errno_location();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let start = ptr::without_provenance_mut(watched.start);
        let covered = libc::mmap(start, watched.bytes, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED;
        *libc::__errno_location() = errno;
        covered
    }
}

/// To the handler that was there before, or to the default, which ends the process at the next fault.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    match before.map_or(libc::SIG_DFL, |before| before.sa_sigaction) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: a sigaction of zeros is SIG_DFL without flags. The faulting instruction runs again and now ends
            // the process as if nobody had handled it; a signal that was sent is sent once more.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler => {
            let with_info = before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0);
            // SAFETY: `handler` was installed for this signal with the signature that its flags say.
            unsafe {
                if with_info {
                    type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);
                    std::mem::transmute::<usize, WithInfo>(handler)(signal, info, context);
                } else {
                    std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const BYTES: usize = 64 << 12;

    fn mapped() -> (std::fs::File, MmapRaw) {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[7; BYTES]).unwrap();
        let map = MmapOptions::new().len(BYTES).map_raw_read_only(&file).unwrap();
        (file, map)
    }

    fn byte(map: &MmapRaw, at: usize) -> u8 {
        assert!(at < map.len());
        // SAFETY: inside the mapping.
        unsafe { map.as_ptr().add(at).read_volatile() }
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_and_the_mapping_has_failed() {
        let (file, map) = mapped();
        let (_other_file, other) = mapped();
        let (contained, other) = (Contained::new(map).unwrap(), Contained::new(other).unwrap());
        file.set_len(BYTES as u64 / 2).unwrap();
        assert_eq!(byte(contained.map(), 0), 7);
        assert!(!contained.has_failed(), "what is there can be read");
        assert_eq!(byte(contained.map(), BYTES - 1), 0);
        assert!(contained.has_failed() && !other.has_failed());
        file.set_len(BYTES as u64).unwrap();
        assert_eq!(byte(contained.map(), 0), 0, "a failed mapping stays zeros whatever becomes of the file");
        assert_eq!(byte(other.map(), BYTES - 1), 7);
    }

    #[test]
    fn many_threads_may_find_out_at_once() {
        for _ in 0..50 {
            let (file, map) = mapped();
            let contained = Contained::new(map).unwrap();
            file.set_len(0).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        (0..BYTES).step_by(4096).for_each(|at| assert_eq!(byte(contained.map(), at), 0))
                    });
                }
            });
            assert!(contained.has_failed());
        }
    }

    /// A fault elsewhere must end the process as it always has, so it needs one of its own: this test runs itself.
    #[test]
    fn a_fault_elsewhere_and_a_signal_that_was_sent_end_the_process_as_before() {
        const CASE: &str = "DARTER_TEST_FAULT";
        const THIS: &str =
            "fault::tests::a_fault_elsewhere_and_a_signal_that_was_sent_end_the_process_as_before";
        let (file, map) = mapped();
        let (_file, watched) = mapped();
        match std::env::var(CASE).as_deref() {
            Ok("elsewhere") => {
                let _contained = Contained::new(watched).unwrap();
                file.set_len(0).unwrap();
                byte(&map, 0);
            }
            Ok("unmapped") => {
                let contained = Contained::new(map).unwrap();
                let start = contained.map().as_ptr();
                drop(contained);
                let again = MmapOptions::new().len(BYTES).map_raw_read_only(&file).unwrap();
                file.set_len(0).unwrap();
                // Usually the same addresses: nobody watches them any more.
                println!("mapped again at {start:?} and {:?}", again.as_ptr());
                byte(&again, 0);
            }
            Ok("sent") => {
                let _contained = Contained::new(watched).unwrap();
                // std's handler takes such a signal for a fault that will come again; the second one finds the default.
                for _ in 0..2 {
                    // SAFETY: raise has no condition.
                    unsafe { libc::raise(libc::SIGBUS) };
                }
            }
            _ => {
                for case in ["elsewhere", "unmapped", "sent"] {
                    let ended = Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", THIS, "--nocapture"])
                        .env(CASE, case)
                        .output()
                        .unwrap();
                    assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{case}: {ended:?}");
                }
            }
        }
    }
}
