//! Runs a command as a kernel without Landlock would: its system calls answer ENOSYS.
//!
//! `without-landlock PROGRAM ARGUMENT…` installs the filter on itself and becomes the program.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const REFUSED: [i64; 3] =
    [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];

fn main() {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().expect("usage: without-landlock PROGRAM ARGUMENT…");
    seccompiler::apply_filter(&filter()).expect("the kernel takes the seccomp filter");
    let error = Command::new(&program).args(arguments).exec();
    panic!("cannot execute {}: {error}", program.display());
}

fn filter() -> BpfProgram {
    let rules: BTreeMap<i64, _> = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .expect("the filter is within seccomp's limits")
}
