//! Seccomp: system calls that a daemon never makes, refused with EPERM.
//!
//! A list of what is refused and not of what is allowed: the C library, the runtime and rings come to other calls with
//! each version, and a daemon that is killed or hangs in a rare path is worse than one that could still ask for its
//! time of day. Refused are the ways out: other programs, other processes, other namespaces, mounts, the kernel itself,
//! and families of sockets that are none of the daemon's. Of files Landlock decides. What a ring does is not seen here;
//! it has no operation for any of these but `socket`.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Why system calls are not held.
#[derive(Debug, thiserror::Error)]
pub enum CallsError {
    /// No filter for this machine.
    #[error("{0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("{0}")]
    Kernel(#[from] seccompiler::Error),
}

/// Whatever their arguments.
const REFUSED: &[c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_memfd_create,
    libc::SYS_personality,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Other namespaces, and what is mounted where.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    // Files by number and not by name; devices; quotas; swap.
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Its keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Those that only this machine has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    // Those of the list above that have another number in the x32 form: execve, ptrace, kexec_load, process_vm_readv,
    // process_vm_writev and execveat.
    X32 | 520,
    X32 | 521,
    X32 | 528,
    X32 | 539,
    X32 | 540,
    X32 | 545,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// Set in a call's number for the form with short pointers, which is a way around a filter that forgets it.
const X32: c_long = 0x4000_0000;

const RINGS: &[c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Families of sockets: the network's, names' (nscd, systemd-resolved), and the kernel's, which the resolver asks for
/// addresses of this machine.
const FAMILIES: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];

type Chains = BTreeMap<i64, Vec<SeccompRule>>;

/// Holds this thread and all that there are or that are made.
///
/// # Errors
/// Nothing is held, or only that no other processes are made in the new way.
pub(super) fn hold(io_uring: bool) -> Result<(), CallsError> {
    // The new way of making threads and processes says what it wants in memory, which no filter sees. Told that the
    // kernel does not know it, the C library takes the old way.
    let unknown: Chains = [(libc::SYS_clone3, Vec::new())].into();
    let filters = [
        program(unknown, libc::ENOSYS.unsigned_abs())?,
        program(chains(io_uring)?, libc::EPERM.unsigned_abs())?,
    ];
    for filter in &filters {
        seccompiler::apply_filter_all_threads(filter)?;
    }
    Ok(())
}

fn chains(io_uring: bool) -> Result<Chains, CallsError> {
    let rings = if io_uring { &[] } else { RINGS };
    let calls = [REFUSED, REFUSED_HERE, rings].concat();
    let mut chains: Chains = calls.into_iter().map(|call| (call, Vec::new())).collect();
    chains.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process_not_thread()?])?]);
    chains.insert(libc::SYS_process_vm_readv, vec![SeccompRule::new(vec![other_process()?])?]);
    let foreign: Result<Vec<_>, _> = FAMILIES.into_iter().map(other_family).collect();
    chains.insert(libc::SYS_socket, vec![SeccompRule::new(foreign?)?]);
    if cfg!(target_arch = "x86_64") {
        let short: Vec<_> = chains.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        chains.extend(short);
    }
    Ok(chains)
}

/// Threads are made, processes are not.
fn process_not_thread() -> Result<SeccompCondition, seccompiler::BackendError> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)
}

/// Its own memory may be read so: the sampler of profiles does, to which a bad address is then an error.
fn other_process() -> Result<SeccompCondition, seccompiler::BackendError> {
    let own = u64::from(std::process::id());
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)
}

fn other_family(family: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()))
}

fn program(chains: Chains, errno: u32) -> Result<BpfProgram, CallsError> {
    let machine = TargetArch::try_from(ARCH)?;
    let filter = SeccompFilter::new(chains, SeccompAction::Allow, SeccompAction::Errno(errno), machine)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_within_the_kernels_limits() {
        for io_uring in [false, true] {
            let program = program(chains(io_uring).unwrap(), 1).unwrap();
            // BPF_MAXINSNS.
            assert!((100..4096).contains(&program.len()), "{}", program.len());
        }
    }

    #[test]
    fn rings_are_refused_where_none_is_used() {
        let is_refused = |io_uring: bool| chains(io_uring).unwrap().contains_key(&libc::SYS_io_uring_setup);
        assert!(is_refused(false) && !is_refused(true));
    }

    #[test]
    fn the_short_form_is_no_way_around() {
        let chains = chains(true).unwrap();
        for call in [libc::SYS_mount, libc::SYS_socket, libc::SYS_clone] {
            assert_eq!(chains.get(&call), chains.get(&(call | X32)), "{call}");
        }
    }
}
