//! `darter pin`: a content stays, whatever else wants its room.

use clap::Args;
use http::Method;

use super::admin_client::{AdminClient, content_path};
use super::{AdminArgs, CommandError, output, text};
use crate::admin::api::ContentInfo;
use crate::admin::reference::ContentRef;

/// The flags of `darter pin`.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// The content: its digest, or the first digits of it
    #[arg(value_name = "ID")]
    id: ContentRef,
    /// Let it be evicted again
    #[arg(long)]
    undo: bool,
    /// The copy that came from this registry, where one ID is held under several
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Pins a content, or undoes that. What of it is not yet held is not fetched by this.
///
/// # Errors
/// The daemon does not answer, or there is no such content.
pub fn run(args: &PinArgs) -> Result<(), CommandError> {
    let verb = if args.undo { "/unpin" } else { "/pin" };
    let path = content_path(&args.id, verb, args.registry.as_deref());
    let client = AdminClient::new(&args.admin);
    let content: ContentInfo = super::run_to_end(client.call(Method::POST, &path))?;
    if args.admin.json {
        return output::print_json(&content);
    }
    let state = if content.pinned { "pinned" } else { "no longer pinned" };
    let held = text::percent(content.held_bytes, content.length_bytes);
    output::print(&format!("{}  {state}, {held} held\n", content.id))
}
