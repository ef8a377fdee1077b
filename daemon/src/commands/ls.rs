//! `darter ls`: what the store holds.

use clap::Args;
use serde::Serialize;

use super::admin_client::AdminClient;
use super::text::{self, Table};
use super::{AdminArgs, CommandError, output};
use crate::admin::api::{ContentInfo, VerificationInfo};

/// The flags of `darter ls`.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
}

/// Prints all contents in the order of their ids.
///
/// # Errors
/// The daemon does not answer.
pub fn run(args: &LsArgs) -> Result<(), CommandError> {
    #[derive(Serialize)]
    struct Listed {
        contents: Vec<ContentInfo>,
    }
    let contents = super::run_to_end(AdminClient::new(&args.admin).contents())?;
    if args.admin.json {
        return output::print_json(&Listed { contents });
    }
    let digits = text::short_digits(contents.iter().map(|content| digits_of(&content.id)));
    let mut table = Table::new(["ID", "SIZE", "HELD", "DIGEST", "PINNED", "USED", "REGISTRY"]);
    for content in &contents {
        let id = if args.no_trunc { content.id.clone() } else { short(&content.id, digits) };
        table.row([
            id,
            text::mib(content.length_bytes),
            text::percent(content.held_bytes, content.length_bytes),
            verification(content.verification).into(),
            if content.pinned { "pinned" } else { "" }.into(),
            text::ago(content.used_at),
            text::plain(&content.registry, 120),
        ]);
    }
    output::print(&table.render())
}

/// The digits of an id, without what they are the hash of.
fn digits_of(id: &str) -> &str {
    id.split_once(':').map_or(id, |(_, digits)| digits)
}

/// An id as people write it. What no digest names says so.
pub(super) fn short(id: &str, digits: usize) -> String {
    let shown = digits_of(id).get(..digits).unwrap_or(digits_of(id));
    if id.starts_with("url:") { format!("url:{shown}") } else { shown.to_owned() }
}

pub(super) fn verification(verification: VerificationInfo) -> &'static str {
    match verification {
        VerificationInfo::Passed => "right",
        VerificationInfo::Pending => "pending",
        VerificationInfo::Wrong => "wrong",
        VerificationInfo::Unprovable => "none",
    }
}
