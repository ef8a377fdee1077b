//! Whether somebody keeps this machine's clock: what the kernel itself knows of it.
#![allow(unsafe_code, reason = "adjtimex(2), for which no crate has a safe call that only reads")]

use std::io;

/// What the kernel says of its clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelClock {
    /// Somebody sets it by other clocks, and has done so lately.
    pub is_synchronised: bool,
    /// By how much it may be wrong at most, in microseconds, as whoever sets it has estimated.
    pub error_us_max: u64,
}

/// Asks the kernel; nothing is set.
///
/// # Errors
/// A sandbox does not allow the question.
pub fn kernel_clock() -> io::Result<KernelClock> {
    // SAFETY: `timex` is a plain record of integers, for which zeros are a value; `modes` 0 asks and sets nothing.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is that of a whole `timex` that lives through the call, and the kernel keeps no copy of it.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronised = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    Ok(KernelClock { is_synchronised, error_us_max: u64::try_from(timex.maxerror).unwrap_or(u64::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_or_a_sandbox_refuses() {
        match kernel_clock() {
            // By the kernel's own rule an error of 16 s makes a clock that nobody keeps.
            Ok(clock) if clock.is_synchronised => assert!(clock.error_us_max < 16_000_000, "{clock:?}"),
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
