//! Landlock: which files may be opened and how, which TCP ports bound; to whom signals are sent, and which abstract
//! sockets are connected to.
//!
//! The kernel holds a thread and all that it makes. Operations of a ring are checked like system calls. A rule belongs
//! to the file or directory that is there now, not to its name.

use std::fmt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use super::Rules;

/// Why files are not held.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The kernel has no Landlock, or not enough of it.
    #[error("{0}")]
    Refused(#[from] RulesetError),
    /// It is there, and nothing came of it.
    #[error("the kernel has no Landlock, or it is not switched on")]
    None,
}

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The version of Landlock that holds it.
    version: i32,
}

/// Without it files elsewhere could be cut short (Linux 6.2).
const LEAST: ABI = ABI::V3;

fn read() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// Neither devices, sockets nor links are made, and nothing is executed.
fn written() -> BitFlags<AccessFs> {
    read()
        | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer})
}

/// Holds this thread and all that it makes from now on.
///
/// # Errors
/// Nothing is held; or, where it `is_required`, not all that counts.
pub(super) fn hold(rules: &Rules, is_required: bool) -> Result<Held, FilesError> {
    let level = if is_required { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let mut ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(LEAST))?
        // From here on as far as the kernel can: 6.7, 6.10 and 6.12.
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::IoctlDev)?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?;
    if rules.bound.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    let mut ruleset = ruleset
        .create()?
        .add_rules(path_beneath_rules(&rules.read, read()))?
        .add_rules(path_beneath_rules(&rules.written, written()))?;
    for port in rules.bound.iter().flatten() {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    let status = ruleset.restrict_self()?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err(FilesError::None),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(Held { version: effective_abi as i32 }),
        _ => Err(FilesError::None),
    }
}

/// Whether this kernel can hold files as [`SandboxMode::Required`](crate::config::SandboxMode::Required) wants it.
/// Nothing is held by asking.
///
/// # Errors
/// It cannot.
pub fn probe() -> Result<(), FilesError> {
    let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    asked.handle_access(AccessFs::from_all(LEAST))?.create()?;
    Ok(())
}

/// Whether this kernel can hold signals too.
///
/// # Errors
/// It cannot.
pub fn probe_signals() -> Result<(), FilesError> {
    let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    asked.scope(Scope::Signal)?.create()?;
    Ok(())
}

impl fmt::Display for Held {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version } = self;
        let partly =
            if *version < LEAST as i32 { ", which does not keep files from being cut short" } else { "" };
        write!(out, "Landlock {version}{partly}")
    }
}
