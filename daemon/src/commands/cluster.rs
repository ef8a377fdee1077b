//! `darter cluster init`: the secrets that make nodes a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use darter_transport::identity::{ADDED_ISSUES_AFTER, ClusterSecrets, files};

use super::{CommandError, kubernetes, output, run_to_end};

/// The flags of `darter cluster init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// Write the secrets of seeds into this file, and those of peers into FILE.peer; neither is ever overwritten
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes")]
    out: Option<PathBuf>,
    /// Add new secrets to those in FILE and write FILE.peer anew; nodes use the new ones an hour later
    #[arg(long)]
    add: bool,
    /// In a pod, and instead of files: make the Kubernetes Secrets NAME-seed and NAME-peer in its namespace; those that
    /// are there stay as they are
    #[arg(long, value_name = "NAME", conflicts_with_all = ["out", "add"])]
    kubernetes: Option<String>,
    /// With --kubernetes: the directory of the pod's service account
    #[arg(long, value_name = "DIR", default_value = kubernetes::SERVICE_ACCOUNT)]
    service_account: PathBuf,
}

/// Writes new secrets, or adds new ones to those that there are, and says what to do with them.
///
/// # Errors
/// A file is there already, or, with `--add`, is none of ours; it cannot be written. The API server does not do what is
/// asked of it.
pub fn init(args: &InitArgs) -> Result<(), CommandError> {
    match (&args.kubernetes, &args.out) {
        (Some(name), _) => {
            let secrets = kubernetes::Secrets::of_pod(&args.service_account)?;
            run_to_end(init_in_kubernetes(&secrets, kubernetes::name(name)?))
        }
        (None, Some(seeds)) => init_files(seeds, args.add),
        (None, None) => Err(CommandError::Usage("say where: --out FILE".to_owned())),
    }
}

/// Both Secrets, or the one that is not there yet. Each step may be taken again, and by two at a time.
async fn init_in_kubernetes(secrets: &kubernetes::Secrets, name: &str) -> Result<(), CommandError> {
    let (seeds, peers) = (format!("{name}-seed"), format!("{name}-peer"));
    let there = |made: bool| if made { "made" } else { "is there already, and stays" };
    let mut made_seeds = false;
    let mut text = secrets.read(&seeds).await?;
    if text.is_none() {
        let new =
            ClusterSecrets::generate(SystemTime::now()).map_err(|error| failed(error.into()))?.to_text();
        made_seeds = secrets.create(&seeds, &new).await?;
        text = if made_seeds { Some(new) } else { secrets.read(&seeds).await? };
    }
    let unusable = |why: String| {
        CommandError::Failed(format!(
            "the Secret {seeds} cannot be used: {why}; name another one, or remove it"
        ))
    };
    let text = text.ok_or_else(|| unusable("it was there, and is gone".to_owned()))?;
    let cluster = ClusterSecrets::parse(&text).map_err(|error| unusable(error.to_string()))?;
    if !cluster.make_seeds() {
        return Err(unusable("it has the file for peers".to_owned()));
    }
    let made_peers = match secrets.read(&peers).await? {
        Some(_) => false,
        None => secrets.create(&peers, &cluster.for_peers().to_text()).await?,
    };
    output::print(&format!("{seeds}: {}\n{peers}: {}\n", there(made_seeds), there(made_peers)))
}

fn init_files(seeds: &Path, add: bool) -> Result<(), CommandError> {
    let peers = files::for_peers(seeds);
    let now = SystemTime::now();
    let next = if add {
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
