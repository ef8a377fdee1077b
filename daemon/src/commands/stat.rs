//! `darter stat`: the store as a whole, or one content.

use clap::Args;
use http::Method;

use super::admin_client::{AdminClient, content_path};
use super::{AdminArgs, CommandError, ls, output, text};
use crate::admin::api::{ContentInfo, ScrubInfo, StoreInfo};
use crate::admin::reference::ContentRef;

/// The flags of `darter stat`.
#[derive(Clone, Debug, Args)]
pub struct StatArgs {
    /// The content: its digest, or the first digits of it; without one, the whole store
    #[arg(value_name = "ID")]
    id: Option<ContentRef>,
    /// The copy that came from this registry, where one ID is held under several
    #[arg(long, value_name = "URL", requires = "id")]
    registry: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Prints what the store, or one content, says of itself.
///
/// # Errors
/// The daemon does not answer, or there is no such content.
pub fn run(args: &StatArgs) -> Result<(), CommandError> {
    let client = AdminClient::new(&args.admin);
    let Some(id) = &args.id else {
        let store: StoreInfo = super::run_to_end(client.call(Method::GET, "store"))?;
        return if args.admin.json { output::print_json(&store) } else { output::print(&of_store(&store)) };
    };
    let path = content_path(id, "", args.registry.as_deref());
    let content: ContentInfo = super::run_to_end(client.call(Method::GET, &path))?;
    if args.admin.json { output::print_json(&content) } else { output::print(&of_content(&content)) }
}

fn of_store(store: &StoreInfo) -> String {
    let used = format!(
        "{} of {} ({})",
        text::mib(store.used_bytes),
        text::mib(store.capacity_bytes),
        text::percent(store.used_bytes, store.capacity_bytes)
    );
    text::pairs(&[
        ("version", text::plain(&store.version, 40)),
        ("io", text::plain(&store.io, 40)),
        ("used", used),
        ("contents", store.contents.to_string()),
        ("leases", store.leases.to_string()),
        ("buffers", text::mib(store.buffer_bytes)),
        ("written", text::mib(store.written_bytes)),
        ("evicted pieces", store.evicted_pieces.to_string()),
        ("reads from memory", store.hot_reads.to_string()),
        ("reads from disk", store.cold_reads.to_string()),
        ("blocks checked", store.blocks_checked.to_string()),
        ("bad blocks found", store.checks_failed.to_string()),
        ("no room found", store.refused_reservations.to_string()),
        ("blocks scrubbed", store.scrubbed_blocks.to_string()),
        ("bad on the disk", store.scrubbed_bad_blocks.to_string()),
        ("wrong digests", store.scrubbed_wrong_digests.to_string()),
        ("scrub", of_scrub(&store.scrub)),
    ])
}

fn of_scrub(scrub: &ScrubInfo) -> String {
    let now = match &scrub.round {
        _ if !scrub.on => "off".to_owned(),
        None => "resting".to_owned(),
        Some(round) => {
            let why = if round.after_unclean_stop { " after an unclean stop" } else { "" };
            format!(
                "a round{why}, begun {}, {} blocks checked, {} bad",
                text::ago(round.begun_at),
                round.checked_blocks,
                round.bad_blocks
            )
        }
    };
    let before = match &scrub.last {
        None => "no whole round yet".to_owned(),
        Some(last) => format!(
            "last round ended {}, {} blocks checked, {} bad",
            text::ago(last.ended_at),
            last.checked_blocks,
            last.bad_blocks
        ),
    };
    format!("{now}; {before}")
}

fn of_content(content: &ContentInfo) -> String {
    let held = format!(
        "{} ({})",
        text::mib(content.held_bytes),
        text::percent(content.held_bytes, content.length_bytes)
    );
    let digest = match content.hashed_bytes {
        Some(hashed) => format!("pending, {} hashed", text::percent(hashed, content.length_bytes)),
        None => ls::verification(content.verification).into(),
    };
    let served = if content.shared { "under every registry" } else { "under its registry only" };
    text::pairs(&[
        ("id", content.id.clone()),
        ("size", format!("{} ({} bytes)", text::mib(content.length_bytes), content.length_bytes)),
        ("held", held),
        ("pieces", content.pieces.to_string()),
        ("held pieces", content.held_pieces.to_string()),
        ("durable pieces", content.durable_pieces.to_string()),
        ("digest", digest),
        ("registry", text::plain(&content.registry, 200)),
        ("served", served.into()),
        ("media type", text::plain(&content.media_type, 200)),
        ("pinned", if content.pinned { "yes" } else { "no" }.into()),
        ("created", text::ago(content.created_at)),
        ("used", text::ago(content.used_at)),
    ])
}
