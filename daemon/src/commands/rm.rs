//! `darter rm`: contents out of the store.

use clap::Args;
use http::Method;
use serde::Serialize;

use super::admin_client::{AdminClient, content_path};
use super::{AdminArgs, CommandError, output, text};
use crate::admin::api::Removed;
use crate::admin::reference::ContentRef;

/// The flags of `darter rm`.
#[derive(Clone, Debug, Args)]
pub struct RmArgs {
    /// The contents: digests, or their first digits
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContentRef>,
    /// The copies that came from this registry, where one ID is held under several
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Removes each of the contents, pinned or not, and prints what that has freed. Who reads one reads on: what is gone
/// is fetched again.
///
/// # Errors
/// The daemon does not answer, or there is no such content; the others are removed nevertheless.
pub fn run(args: &RmArgs) -> Result<(), CommandError> {
    #[derive(Serialize)]
    struct AllRemoved {
        removed: Vec<Removed>,
    }
    let client = AdminClient::new(&args.admin);
    let mut removed = Vec::with_capacity(args.ids.len());
    let mut failed = None;
    for id in &args.ids {
        let path = content_path(id, "", args.registry.as_deref());
        match super::run_to_end(client.call::<Removed>(Method::DELETE, &path)) {
            Ok(one) => {
                if !args.admin.json {
                    output::print(&format!("{}  {} freed\n", one.id, text::mib(one.removed_bytes)))?;
                }
                removed.push(one);
            }
            Err(error @ CommandError::Unreachable(_)) => return Err(error),
            Err(error) => {
                // The last one is told by the caller, with the exit status.
                if let Some(before) = failed.replace(error) {
                    output::say(&format!("darter: {before}"));
                }
            }
        }
    }
    if args.admin.json {
        output::print_json(&AllRemoved { removed })?;
    }
    failed.map_or(Ok(()), Err)
}
