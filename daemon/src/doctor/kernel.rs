//! The kernel and what it lets a daemon have. Pure.

use super::finding::Finding;
use crate::config::size::ByteSize;
use crate::config::{IoChoice, SandboxMode};

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// Such as `6.1.0-13-amd64`.
    pub(super) release: String,
    /// Whether a ring with all operations can be made, or why not.
    pub(super) ring: Result<(), String>,
    /// `kernel.io_uring_disabled`, where there is one.
    pub(super) ring_disabled: Option<u8>,
    /// Whether a seccomp filter holds this process.
    pub(super) is_filtered: bool,
    /// Whether files can be held by Landlock, or why not.
    pub(super) landlock: Result<(), String>,
    /// Whether the daemon that runs is root; `None`: none runs.
    pub(super) runs_as_root: Option<bool>,
    /// The process that has the limits below; `None`: the one that looks.
    pub(super) limits_of: Option<u32>,
    /// What may be locked in memory, in bytes; `None`: any amount.
    pub(super) memlock_bytes: Option<u64>,
    /// The hard limit of open files; `None`: none.
    pub(super) files_max: Option<u64>,
    /// Of the cgroup, in bytes; `None`: none.
    pub(super) memory_max: Option<u64>,
}

/// What of the configuration counts here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) io: IoChoice,
    pub(super) sandbox: SandboxMode,
    pub(super) shards: usize,
    /// Clients at a time that files and memory are enough for.
    pub(super) connections: usize,
    /// Those that files alone are enough for.
    pub(super) connections_by_files: usize,
    pub(super) connections_max: usize,
    /// Block buffers, in bytes: those that there would be, and at most.
    pub(super) buffers_bytes: (u64, u64),
}

/// Rings have vectored reads and writes from here on.
const RINGS_FROM: (u32, u32) = (5, 6);
/// From here on the memory of rings is charged to cgroups and not to what may be locked.
const RINGS_NOT_LOCKED_FROM: (u32, u32) = (5, 12);
/// Entries of a ring of 256, with its completions.
const RING_BYTES: u64 = 32 << 10;
/// With less, buffers and connections of the least size leave nothing for all else.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// For slabs, registries and the fewest clients that a front may have.
const FILES_MIN: u64 = 640;

pub(super) fn findings(kernel: &Kernel, wanted: &Wanted) -> Vec<Finding> {
    let user = kernel.runs_as_root.map(user);
    [version(kernel), ring(kernel, wanted), memlock(kernel, wanted), sandbox(kernel, wanted)]
        .into_iter()
        .chain(user)
        .collect()
}

pub(super) fn limits(kernel: &Kernel, wanted: &Wanted) -> Vec<Finding> {
    vec![whose(kernel), files(kernel, wanted), memory(kernel, wanted)]
}

fn whose(kernel: &Kernel) -> Finding {
    let seen = match kernel.limits_of {
        Some(process) => format!("of darter, process {process}"),
        None => "of this command: a service or container has its own".to_owned(),
    };
    Finding::ok("whose", seen)
}

fn version(kernel: &Kernel) -> Finding {
    let seen = format!("Linux {}", kernel.release);
    match number(&kernel.release) {
        Some(number) if number < RINGS_FROM => Finding::warning(
            "version",
            format!("{seen} is older than 5.6 and has no usable io_uring"),
            "a newer kernel makes reads and writes quicker; without it darter uses threads",
        ),
        _ => Finding::ok("version", seen),
    }
}

/// The first two numbers of a release.
fn number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn ring(kernel: &Kernel, wanted: &Wanted) -> Finding {
    const CHECK: &str = "io_uring";
    let Err(reason) = &kernel.ring else { return Finding::ok(CHECK, "can be used") };
    if wanted.io == IoChoice::Pool {
        return Finding::ok(CHECK, "cannot be used, and storage.io: pool does not want it");
    }
    let advice = match kernel.ring_disabled {
        Some(2) => {
            "the kernel refuses it to everybody: sysctl -w kernel.io_uring_disabled=0, or set storage.io: pool"
        }
        Some(1) => {
            "the kernel refuses it to this user: sysctl -w kernel.io_uring_disabled=0, or add the user to the group \
             of kernel.io_uring_group"
        }
        _ if kernel.is_filtered => {
            "a seccomp profile refuses it: allow io_uring_setup, io_uring_enter and io_uring_register there, or set \
             storage.io: pool"
        }
        _ => "use a kernel that has it, or set storage.io: pool",
    };
    match wanted.io {
        IoChoice::Ring => Finding::failed(CHECK, format!("{reason}, and storage.io: ring wants it"), advice),
        _ => Finding::warning(CHECK, format!("{reason}: threads read and write, more slowly"), advice),
    }
}

fn memlock(kernel: &Kernel, wanted: &Wanted) -> Finding {
    const CHECK: &str = "locked memory";
    let limit = kernel.memlock_bytes.map_or_else(|| "no limit".to_owned(), size);
    let is_charged = number(&kernel.release).is_some_and(|number| number < RINGS_NOT_LOCKED_FROM);
    let needed = RING_BYTES * wanted.shards as u64;
    match kernel.memlock_bytes {
        Some(limit_bytes) if is_charged && limit_bytes < needed && wanted.io != IoChoice::Pool => {
            Finding::warning(
                CHECK,
                format!(
                    "{limit} may be locked; the rings of {} shards need {} on this kernel",
                    wanted.shards,
                    size(needed)
                ),
                "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
            )
        }
        _ => Finding::ok(CHECK, format!("{limit}; enough")),
    }
}

fn sandbox(kernel: &Kernel, wanted: &Wanted) -> Finding {
    const CHECK: &str = "sandbox";
    const NEWER: &str =
        "use Linux 6.2 or newer with landlock among its LSMs (lsm=landlock,… on the kernel's command line)";
    match (&kernel.landlock, wanted.sandbox) {
        (_, SandboxMode::Off) => Finding::ok(CHECK, "sandbox.mode: off wants none"),
        (Ok(()), _) => Finding::ok(CHECK, "Landlock can hold files"),
        (Err(reason), SandboxMode::Auto) => Finding::warning(
            CHECK,
            format!("files cannot be held by Landlock: {reason}"),
            format!("{NEWER}; whoever breaks into darter may open all files of its user until then"),
        ),
        (Err(reason), SandboxMode::Required) => Finding::failed(
            CHECK,
            format!("files cannot be held by Landlock, and sandbox.mode: required wants it: {reason}"),
            format!("{NEWER}, or set sandbox.mode: auto"),
        ),
    }
}

fn user(is_root: bool) -> Finding {
    const CHECK: &str = "user";
    match is_root {
        false => Finding::ok(CHECK, "darter runs as a user of its own"),
        true => Finding::warning(
            CHECK,
            "darter runs as root",
            "give it a user of its own: sandbox.user, or User= in the unit; the data directory has to be that user's",
        ),
    }
}

fn files(kernel: &Kernel, wanted: &Wanted) -> Finding {
    const CHECK: &str = "open files";
    const ADVICE: &str = "raise the hard limit: ulimit -Hn, or LimitNOFILE=1048576 in the unit";
    let Some(files) = kernel.files_max else { return Finding::ok(CHECK, "no limit") };
    let seen = format!("{files} at most");
    if files < FILES_MIN {
        Finding::failed(CHECK, format!("{seen}, too few for a front"), ADVICE)
    } else if wanted.connections_by_files < wanted.connections_max {
        let clients = wanted.connections_by_files;
        Finding::warning(CHECK, format!("{seen}: enough for {clients} clients at a time"), ADVICE)
    } else {
        Finding::ok(CHECK, seen)
    }
}

fn memory(kernel: &Kernel, wanted: &Wanted) -> Finding {
    const CHECK: &str = "memory";
    const ADVICE: &str = "raise the limit of the cgroup or container to 512 MiB or more";
    let Some(limit) = kernel.memory_max else { return Finding::ok(CHECK, "the cgroup has no limit") };
    let seen = format!("the cgroup may have {}", size(limit));
    let (buffers, buffers_max) = wanted.buffers_bytes;
    if limit < MEMORY_BYTES_MIN {
        Finding::failed(CHECK, format!("{seen}, too little for buffers and connections"), ADVICE)
    } else if buffers < buffers_max {
        let (buffers, clients) = (size(buffers), wanted.connections);
        let worse = format!("{seen}: buffers get {buffers}, and {clients} clients are served at a time");
        Finding::warning(CHECK, worse, ADVICE)
    } else {
        Finding::ok(CHECK, seen)
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn good() -> (Kernel, Wanted) {
        let kernel = Kernel {
            release: "6.1.0-13-amd64".into(),
            ring: Ok(()),
            ring_disabled: Some(0),
            is_filtered: false,
            landlock: Ok(()),
            runs_as_root: None,
            limits_of: None,
            memlock_bytes: Some(8 << 20),
            files_max: Some(1 << 20),
            memory_max: None,
        };
        let wanted = Wanted {
            io: IoChoice::Auto,
            sandbox: SandboxMode::Auto,
            shards: 4,
            connections: 8192,
            connections_by_files: 8192,
            connections_max: 8192,
            buffers_bytes: (128 << 20, 128 << 20),
        };
        (kernel, wanted)
    }

    fn check(change: impl FnOnce(&mut Kernel, &mut Wanted), name: &str, level: Level, words: &str) {
        let (mut kernel, mut wanted) = good();
        change(&mut kernel, &mut wanted);
        let all = [findings(&kernel, &wanted), limits(&kernel, &wanted)].concat();
        let others = all.iter().filter(|finding| finding.check != name);
        assert!(others.clone().all(|finding| finding.level == Level::Ok), "{all:?}");
        let finding = all.iter().find(|finding| finding.check == name).expect("it was checked");
        assert_eq!(finding.level, level, "{finding:?}");
        assert_eq!(finding.advice.is_some(), level != Level::Ok);
        let said = format!("{} {}", finding.seen, finding.advice.as_deref().unwrap_or_default());
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn a_good_machine_is_well() {
        check(|_, _| {}, "version", Level::Ok, "Linux 6.1.0-13-amd64");
        check(|kernel, _| kernel.release = "odd".into(), "version", Level::Ok, "odd");
    }

    #[test]
    fn rings_are_refused_for_different_reasons() {
        let denied = || Err("io_uring is not available: EPERM".to_owned());
        let check = |change: fn(&mut Kernel, &mut Wanted), level, words| {
            let denied = |kernel: &mut Kernel, wanted: &mut Wanted| {
                kernel.ring = denied();
                change(kernel, wanted);
            };
            check(denied, "io_uring", level, words);
        };
        check(|_, _| {}, Level::Warning, "use a kernel that has it");
        check(|kernel, _| kernel.ring_disabled = Some(2), Level::Warning, "io_uring_disabled=0");
        check(|kernel, _| kernel.ring_disabled = Some(1), Level::Warning, "io_uring_group");
        check(|kernel, _| kernel.is_filtered = true, Level::Warning, "seccomp");
        check(|_, wanted| wanted.io = IoChoice::Ring, Level::Failed, "storage.io: ring wants it");
        check(|_, wanted| wanted.io = IoChoice::Pool, Level::Ok, "does not want it");
    }

    #[test]
    fn old_kernels_have_no_rings_or_lock_their_memory() {
        let old = |kernel: &mut Kernel, _: &mut Wanted| kernel.release = "4.19.0".into();
        check(old, "version", Level::Warning, "older than 5.6");
        let locks = |kernel: &mut Kernel, _: &mut Wanted| {
            kernel.release = "5.10.0-8".into();
            kernel.memlock_bytes = Some(64 << 10);
        };
        check(locks, "locked memory", Level::Warning, "128KiB");
        let new = |kernel: &mut Kernel, _: &mut Wanted| kernel.memlock_bytes = Some(64 << 10);
        check(new, "locked memory", Level::Ok, "64KiB");
        assert_eq!(number("5.10.0-8-amd64"), Some((5, 10)));
        assert_eq!(number("6.12"), Some((6, 12)));
    }

    #[test]
    fn what_is_to_hold_the_daemon_is_looked_at() {
        let check = |mode, level, words| {
            let none = |kernel: &mut Kernel, wanted: &mut Wanted| {
                (kernel.landlock, wanted.sandbox) = (Err("no Landlock".into()), mode);
            };
            check(none, "sandbox", level, words);
        };
        check(SandboxMode::Auto, Level::Warning, "no Landlock");
        check(SandboxMode::Required, Level::Failed, "set sandbox.mode: auto");
        check(SandboxMode::Off, Level::Ok, "wants none");
        let runs = |is_root| move |kernel: &mut Kernel, _: &mut Wanted| kernel.runs_as_root = Some(is_root);
        self::check(runs(true), "user", Level::Warning, "User=");
        self::check(runs(false), "user", Level::Ok, "a user of its own");
    }

    #[test]
    fn limits_cost_clients() {
        let few = |kernel: &mut Kernel, wanted: &mut Wanted| {
            kernel.files_max = Some(4096);
            wanted.connections = 1792;
            wanted.connections_by_files = 1792;
        };
        check(few, "open files", Level::Warning, "enough for 1792 clients");
        let limited = |kernel: &mut Kernel, wanted: &mut Wanted| {
            few(kernel, wanted);
            kernel.memory_max = Some(8 << 30);
        };
        check(limited, "open files", Level::Warning, "enough for 1792 clients");
        check(|_, _| {}, "whose", Level::Ok, "of this command");
        check(|kernel, _| kernel.limits_of = Some(42), "whose", Level::Ok, "process 42");
        check(|kernel, _| kernel.files_max = Some(256), "open files", Level::Failed, "too few");
        check(|kernel, _| kernel.files_max = None, "open files", Level::Ok, "no limit");
        let small = |kernel: &mut Kernel, wanted: &mut Wanted| {
            kernel.memory_max = Some(128 << 20);
            (wanted.connections, wanted.buffers_bytes.0) = (1024, 32 << 20);
        };
        check(small, "memory", Level::Warning, "1024 clients");
        check(|kernel, _| kernel.memory_max = Some(32 << 20), "memory", Level::Failed, "too little");
        check(|kernel, _| kernel.memory_max = Some(4 << 30), "memory", Level::Ok, "4GiB");
    }
}
