//! The clock: whether somebody keeps it, and how far it is from those of registries. Pure.

use darter_engine::probe::kernel_clock::KernelClock;

use super::finding::Finding;

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) kernel: Result<KernelClock, String>,
    /// By registry, how many seconds this clock is ahead of the `Date` of its answer.
    pub(super) ahead_s: Vec<(String, i64)>,
}

/// `Date` has whole seconds, and answers take their time.
const AHEAD_S_OK: u64 = 30;
/// Certificates of nodes are dated back by an hour, tokens of registries live for some minutes.
const AHEAD_S_MAX: u64 = 30 * 60;
const SET_IT: &str = "run chrony or systemd-timesyncd (timedatectl set-ntp true)";

pub(super) fn findings(clock: &Clock) -> Vec<Finding> {
    [Some(kept(clock)), right(clock)].into_iter().flatten().collect()
}

fn kept(clock: &Clock) -> Finding {
    const CHECK: &str = "synchronised";
    match &clock.kernel {
        Ok(KernelClock { is_synchronised: true, error_us_max }) => {
            Finding::ok(CHECK, format!("to within {} ms", error_us_max.div_ceil(1000)))
        }
        Ok(_) => Finding::warning(
            CHECK,
            "nobody sets this machine's clock, as far as the kernel knows",
            format!("{SET_IT}; in a virtual machine the host may do it"),
        ),
        Err(reason) => Finding::ok(CHECK, format!("the kernel does not tell ({reason})")),
    }
}

/// One wrong registry is that registry's trouble: the nearest counts.
fn right(clock: &Clock) -> Option<Finding> {
    const CHECK: &str = "right";
    let (registry, ahead_s) = clock.ahead_s.iter().min_by_key(|(_, ahead_s)| ahead_s.unsigned_abs())?;
    let off = ahead_s.unsigned_abs();
    let side = if *ahead_s > 0 { "ahead of" } else { "behind" };
    let seen = format!("{off} s {side} the clock of {registry}");
    Some(if off <= AHEAD_S_OK {
        Finding::ok(CHECK, format!("within {AHEAD_S_OK} s of the clock of {registry}"))
    } else if off <= AHEAD_S_MAX {
        Finding::warning(CHECK, seen, SET_IT)
    } else {
        Finding::failed(
            CHECK,
            format!("{seen}: certificates and tokens are taken for expired, or not yet valid"),
            SET_IT,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn check(is_synchronised: bool, ahead_s: &[i64], expected: &[Level]) {
        let kernel = Ok(KernelClock { is_synchronised, error_us_max: 1500 });
        let ahead_s = ahead_s.iter().map(|ahead_s| ("https://r".to_owned(), *ahead_s)).collect();
        let levels: Vec<_> =
            findings(&Clock { kernel, ahead_s }).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, expected);
    }

    #[test]
    fn clocks() {
        check(true, &[], &[Level::Ok]);
        check(false, &[30], &[Level::Warning, Level::Ok]);
        check(true, &[-31], &[Level::Ok, Level::Warning]);
        check(true, &[1801], &[Level::Ok, Level::Failed]);
        check(true, &[1801, 2], &[Level::Ok, Level::Ok]);
        check(true, &[i64::MIN], &[Level::Ok, Level::Failed]);
        let denied = Clock { kernel: Err("EPERM".into()), ahead_s: Vec::new() };
        assert_eq!(findings(&denied)[0].level, Level::Ok);
    }
}
