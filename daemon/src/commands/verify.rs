//! `darter verify`: whether what is held is what was written, and the content that its name says.

use clap::Args;
use http::Method;
use serde::Serialize;

use super::admin_client::{AdminClient, content_path};
use super::{AdminArgs, CommandError, output};
use crate::admin::api::{DigestInfo, VerifiedInfo};
use crate::admin::reference::ContentRef;

/// The flags of `darter verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The content: its digest, or the first digits of it; without one, all contents
    #[arg(value_name = "ID")]
    id: Option<ContentRef>,
    /// The copy that came from this registry, where one ID is held under several
    #[arg(long, value_name = "URL", requires = "id")]
    registry: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Lets the daemon read one content, or all, through, and prints what it found. What is bad is dropped there, and
/// fetched again when it is wanted.
///
/// # Errors
/// The daemon does not answer, there is no such content, or something was bad.
pub fn run(args: &VerifyArgs) -> Result<(), CommandError> {
    let found = super::run_to_end(verify(args))?;
    let (mut bad_blocks, mut wrong) = (0, 0);
    for one in &found {
        bad_blocks += u64::from(one.bad_blocks);
        wrong += u64::from(one.digest == DigestInfo::Wrong);
    }
    match bad_blocks + wrong {
        0 => Ok(()),
        _ => Err(CommandError::WrongBytes(format!(
            "{bad_blocks} bad blocks and {wrong} wrong digests; their pieces are dropped and fetched again when \
             they are wanted. Look at the disk's health: the kernel's log, smartctl"
        ))),
    }
}

async fn verify(args: &VerifyArgs) -> Result<Vec<VerifiedInfo>, CommandError> {
    #[derive(Serialize)]
    struct AllVerified<'a> {
        verified: &'a [VerifiedInfo],
    }
    let client = AdminClient::new(&args.admin);
    if let Some(id) = &args.id {
        let path = content_path(id, "/verify", args.registry.as_deref());
        let one: VerifiedInfo = client.call(Method::POST, &path).await?;
        if args.admin.json {
            output::print_json(&one)?;
        } else {
            output::print(&line(&one))?;
        }
        return Ok(vec![one]);
    }
    let mut found = Vec::new();
    for content in client.contents().await? {
        // The daemon's own words: a content whose id cannot be read is not one that it could be asked for.
        let Ok(id) = content.id.parse() else { continue };
        let path = content_path(&id, "/verify", Some(&content.registry));
        match client.call::<VerifiedInfo>(Method::POST, &path).await {
            Ok(one) => {
                if !args.admin.json {
                    output::print(&line(&one))?;
                }
                found.push(one);
            }
            // Evicted or removed since the list was made.
            Err(CommandError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if args.admin.json {
        output::print_json(&AllVerified { verified: &found })?;
    }
    Ok(found)
}

fn line(found: &VerifiedInfo) -> String {
    let digest = match found.digest {
        DigestInfo::Right => "digest right",
        DigestInfo::Wrong => "digest WRONG, removed",
        DigestInfo::Unknown => "not whole",
    };
    let bad = match found.bad_blocks {
        0 => String::new(),
        bad => format!(", {bad} BAD and dropped"),
    };
    format!("{}  {} blocks checked{bad}, {digest}\n", found.id, found.checked_blocks)
}
