//! `darter cluster init`: the secrets that make nodes a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use darter_transport::identity::{ADDED_ISSUES_AFTER, ClusterSecrets, files};

use super::{CommandError, output};

/// The flags of `darter cluster init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// Write the secrets of seeds into this file, and those of peers into FILE.peer; neither is ever overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Add new secrets to those in FILE and write FILE.peer anew; nodes use the new ones an hour later
    #[arg(long)]
    add: bool,
}

/// Writes new secrets, or adds new ones to those that there are, and says what to do with them.
///
/// # Errors
/// A file is there already, or, with `--add`, is none of ours; it cannot be written.
pub fn init(args: &InitArgs) -> Result<(), CommandError> {
    let seeds = &args.out;
    let peers = files::for_peers(seeds);
    let now = SystemTime::now();
    let next = if args.add {
        let secrets = files::add_secrets(seeds, now).map_err(failed)?;
        files::replace_secrets(&peers, &secrets.for_peers()).map_err(|error| {
            let message = format!("{error}; {} has the new secrets already", seeds.display());
            CommandError::Failed(message)
        })?;
        format!(
            "Bring both files to all nodes within {} minutes: then they begin to use the new secrets, and nodes without \
             them refuse those. The old ones are believed until the next --add.",
            ADDED_ISSUES_AFTER.as_secs() / 60
        )
    } else {
        create(seeds, &peers, now)?;
        "Whoever has one of them is in the cluster: copy them as you would copy passwords.".into()
    };
    let (seeds, peers) = (seeds.display(), peers.display());
    output::print(&format!(
        "{seeds}: for seeds, the nodes that may go to the registry for others\n\
         {peers}: for all other nodes; no seed can be made of it\n{next}\n"
    ))
}

/// Both files, or none.
fn create(seeds: &Path, peers: &Path, now: SystemTime) -> Result<(), CommandError> {
    let secrets = ClusterSecrets::generate(now).map_err(|error| failed(error.into()))?;
    files::write_secrets(seeds, &secrets).map_err(failed)?;
    files::write_secrets(peers, &secrets.for_peers()).map_err(|error| {
        // Just made, and in nobody's hands.
        let _ = fs::remove_file(seeds);
        failed(error)
    })
}

fn failed(error: files::FileError) -> CommandError {
    CommandError::Failed(match &error {
        files::FileError::Exists(path) => {
            format!("{error}; to rotate the secrets say --add, to begin anew remove {}", path.display())
        }
        _ => error.to_string(),
    })
}
