//! Configuration: one YAML file and the flags that override it, checked once, then typed.
//!
//! ```text
//! bytes ─ raw::parse ─▶ RawConfig ┐
//!                     flags       ├─ layers ─ check::resolve ─▶ Settings, with a source for each value
//!                     defaults    ┘
//! ```
//!
//! Until the check every value is text with the place that it was written at, whichever layer it comes from; so
//! a bad value is reported alike for a flag and for a line of the file. After the check every value has its type
//! and unit, and nothing is looked at twice.
//!
//! The keys are those of Dragonfly's dfdaemon where it has the concept. They are declared in one table,
//! `keys.rs`, which is also what unknown keys are compared with and what `config show` prints;
//! docs/configuration.md explains them to people.
//!
//! Not here: what depends on the machine (free space, cores, io_uring). `None` or `Auto` says that whoever uses
//! the setting decides.

mod age;
mod changes;
mod check;
mod cluster;
mod collector;
pub mod commands;
mod error;
mod hijack;
mod keys;
mod layers;
mod listed;
mod named_files;
mod raw;
mod registry;
mod rules;
mod settings;
pub mod size;
#[cfg(test)]
mod tests;
mod token;
mod warnings;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use changes::{Change, Changes};
pub use check::{Effective, Resolved, resolve};
pub use cluster::{Advertise, HostName, IdentitySource, JoinTarget};
pub use error::{ConfigError, Problem};
pub use hijack::HijackSettings;
pub use layers::{Override, Source, Surroundings};
pub use listed::{ListedRegistry, TlsSetting};
pub use raw::{CONFIG_BYTES_MAX, RawConfig, parse};
pub use registry::{Registry, RegistryError, RegistryHost, Scheme};
pub use rules::{Rule, Rules};
pub use settings::{
    ClusterLimits, ClusterSettings, IoChoice, LogFormat, LogSettings, SandboxMode, SandboxSettings, Settings,
    TracingSettings,
};
pub use token::TokenSetting;
pub use warnings::Warning;

/// Where a daemon's configuration comes from, so that it can be read again.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The YAML file, if one was named.
    pub file: Option<PathBuf>,
    /// What the flags say.
    pub overrides: Vec<Override>,
}

impl Inputs {
    /// Reads and checks it; see [`load`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self) -> Result<Resolved, ConfigError> {
        load(self.file.as_deref(), &self.overrides)
    }

    /// The same once more, while a daemon runs by it.
    ///
    /// # Errors
    /// As [`load`]; or the file is a pipe or a device: what was read from it is gone.
    pub fn load_again(&self) -> Result<Resolved, ConfigError> {
        if let Some(file) = &self.file {
            let unreadable = |error| ConfigError::Unreadable { file: file.clone(), error };
            if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
                let error = io::Error::other("it is no regular file, so it cannot be read a second time");
                return Err(unreadable(error));
            }
        }
        self.load()
    }
}

/// Reads the file, if there is one, lays the flags over it, checks the whole, and reads the certificates and secrets
/// that it names.
///
/// # Errors
/// The file cannot be read, or some key or value is wrong, or a file of certificates: then every wrong one is named.
pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Resolved, ConfigError> {
    let (resolved, problems) = load_with_problems(file, overrides)?;
    if problems.is_empty() { Ok(resolved) } else { Err(ConfigError::Invalid(problems)) }
}

/// The same for whoever wants to know all that is wrong: what the settings are, and what is wrong with the files of
/// certificates and secrets that they name.
///
/// # Errors
/// There are no settings: the file cannot be read, or some key or value is wrong.
pub fn load_with_problems(
    file: Option<&Path>,
    overrides: &[Override],
) -> Result<(Resolved, Vec<Problem>), ConfigError> {
    let raw = match file {
        Some(path) => parse(&path.display().to_string(), &read_bounded(path)?)?,
        None => RawConfig::default(),
    };
    let mut resolved = resolve(&raw, overrides, &Surroundings::of_this_process())?;
    let problems = [
        token::read_file(&mut resolved),
        listed::read_files(&mut resolved),
        hijack::read_files(&mut resolved),
        cluster::read_files(&mut resolved),
    ]
    .concat();
    Ok((resolved, problems))
}

/// One byte more than is allowed, so that `parse` can tell a file that is too long; a device or a pipe without
/// an end cannot fill the memory.
fn read_bounded(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::Unreadable { file: path.to_owned(), error })?;
    Ok(bytes)
}
