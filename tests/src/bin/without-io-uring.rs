//! Runs a command as the default seccomp profiles of containerd and Docker would: io_uring answers EPERM.
//!
//! `without-io-uring PROGRAM ARGUMENT…` installs the filter on itself and becomes the program. A program of
//! its own, and not a `pre_exec` hook, because nothing here then runs between fork and exec.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// All three calls: an io_uring that somebody else has set up is of no use either.
const REFUSED: [i64; 3] = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

fn main() {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().expect("usage: without-io-uring PROGRAM ARGUMENT…");
    seccompiler::apply_filter(&filter()).expect("the kernel takes the seccomp filter");
    let error = Command::new(&program).args(arguments).exec();
    panic!("cannot execute {}: {error}", program.display());
}

fn filter() -> BpfProgram {
    // No condition on the arguments: the call is refused whatever it asks.
    let rules: BTreeMap<i64, _> = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .expect("the filter is within seccomp's limits")
}
