//! Somebody who has broken into a process: makes system calls in its name, in whichever of its threads.
//!
//! A debugger's work: the thread is stopped where it waits, made to do one call, and let go on as if nothing had been.
//! No code of the process is changed; the instruction is the one that the thread waits in.

use std::ffi::{CString, c_void};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::pause;

/// `syscall`, in the order of its bytes.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// What the x86-64 ABI lets a function use below its stack.
const RED_ZONE_BYTES: u64 = 128;
/// Bytes of the longest text that is put into the other's memory.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// In one thread, which stands still for as long as this is there.
#[derive(Debug)]
pub struct Burglar {
    thread: Pid,
    /// As it was found.
    registers: libc::user_regs_struct,
}

/// What a call is given.
#[derive(Clone, Debug)]
pub enum Loot<'a> {
    /// A number, or nothing.
    Number(u64),
    /// The address of a path.
    Path(&'a Path),
    /// The address of these bytes.
    Bytes(&'a [u8]),
}

/// The threads of a process, the first one first.
///
/// # Panics
/// When it does not run.
pub fn threads(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a child's threads can be listed");
    let number = |task: io::Result<fs::DirEntry>| task.ok()?.file_name().to_str()?.parse().ok();
    let mut threads: Vec<u32> = tasks.filter_map(number).collect();
    threads.sort_unstable();
    threads
}

impl Burglar {
    /// Stops a thread that waits for something in a system call. `None` if it has ended, is at work all the time, or is
    /// one of the kernel's own that works for a ring.
    ///
    /// # Panics
    /// When this process may not debug it.
    pub fn in_thread(thread: u32) -> Option<Burglar> {
        let thread = Pid::from_raw(i32::try_from(thread).expect("an id"));
        for _ in 0..100 {
            match ptrace::seize(thread, ptrace::Options::empty()) {
                Err(nix::errno::Errno::ESRCH) => return None,
                seized => seized.expect("a child can be debugged by its parent"),
            }
            ptrace::interrupt(thread).ok()?;
            stopped(thread)?;
            let registers = ptrace::getregs(thread).ok()?;
            let burglar = Burglar { thread, registers };
            if registers.rip == 0 {
                return None;
            }
            if burglar.waits() {
                return Some(burglar);
            }
            drop(burglar);
            pause(std::time::Duration::from_millis(10));
        }
        None
    }

    /// Opens a file in the process's name, and closes it again. The error is the one that the process would get.
    ///
    /// # Errors
    /// It may not.
    pub fn open(&mut self, path: &Path, flags: i32) -> io::Result<()> {
        let flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
        let here = Loot::Number(i64::from(libc::AT_FDCWD).cast_unsigned());
        let given = [here, Loot::Path(path), Loot::Number(flags), Loot::Number(0o600)];
        let file = self.call(libc::SYS_openat, &given)?;
        self.call(libc::SYS_close, &[Loot::Number(file)])?;
        Ok(())
    }

    /// Makes one system call.
    ///
    /// # Errors
    /// What it answers.
    ///
    /// # Panics
    /// When the thread is gone, or with more than one address.
    pub fn call(&mut self, number: i64, given: &[Loot<'_>]) -> io::Result<u64> {
        let mut registers = self.registers;
        let text_at = (registers.rsp - RED_ZONE_BYTES - TEXT_BYTES_MAX as u64) & !0xf;
        let value = |loot: &Loot<'_>| match loot {
            Loot::Number(number) => *number,
            Loot::Path(path) => {
                let path = CString::new(path.as_os_str().as_bytes()).expect("a path without a zero");
                self.put(text_at, path.as_bytes_with_nul());
                text_at
            }
            Loot::Bytes(bytes) => {
                self.put(text_at, bytes);
                text_at
            }
        };
        let mut values: Vec<u64> = given.iter().map(value).collect();
        let addresses = given.iter().filter(|loot| !matches!(loot, Loot::Number(_))).count();
        assert!(addresses <= 1, "there is room for one");
        values.resize(4, 0);
        (registers.rdi, registers.rsi, registers.rdx, registers.r10) =
            (values[0], values[1], values[2], values[3]);
        registers.rax = number.cast_unsigned();
        // None that the kernel would think of taking up again.
        registers.orig_rax = u64::MAX;
        registers.rip -= SYSCALL.len() as u64;
        ptrace::setregs(self.thread, registers).expect("a stopped thread has registers");
        ptrace::step(self.thread, None).expect("a stopped thread takes a step");
        stopped(self.thread).expect("the thread is still there");
        let answer = ptrace::getregs(self.thread).expect("a stopped thread has registers").rax.cast_signed();
        match u64::try_from(answer) {
            Ok(answer) => Ok(answer),
            Err(_) => Err(io::Error::from_raw_os_error(i32::try_from(-answer).expect("an errno"))),
        }
    }

    /// Whether the instruction before this one is a system call.
    fn waits(&self) -> bool {
        let address = (self.registers.rip - SYSCALL.len() as u64) as *mut c_void;
        ptrace::read(self.thread, address).is_ok_and(|word| word.to_le_bytes().starts_with(&SYSCALL))
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        assert!(bytes.len() <= TEXT_BYTES_MAX, "there is no room for that");
        for (index, part) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let address = (address + 8 * index as u64) as *mut c_void;
            ptrace::write(self.thread, address, i64::from_le_bytes(word)).expect("a stack can be written");
        }
    }
}

impl Drop for Burglar {
    fn drop(&mut self) {
        // Both fail only when the thread has ended.
        let _ = ptrace::setregs(self.thread, self.registers);
        let _ = ptrace::detach(self.thread, None);
    }
}

/// Waits until the thread stands still; `None` if it has ended.
fn stopped(thread: Pid) -> Option<()> {
    match waitpid(thread, Some(WaitPidFlag::__WALL)) {
        Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) => Some(()),
        _ => None,
    }
}
