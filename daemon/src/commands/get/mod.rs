//! `darter get`: a blob, any other URL, an object of a storage service, all of a directory or a whole image, through a
//! running daemon's front and into files.
//!
//! What a digest names is checked against it before it gets its name. Until then it is `PATH.part`, from which a
//! later run goes on. One thread runs it all; a thread beside it writes and hashes.

mod credentials;
mod download;
pub(super) mod image;
mod layout;
pub mod manifest;
mod named;
mod part;
pub mod platform;
pub(super) mod progress;
pub mod reference;
pub(super) mod session;
mod tree;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

pub(super) use self::download::pause;
use self::download::{Done, Download, download};
pub(super) use self::named::Named;
use self::platform::Platform;
use self::progress::Progress;
use self::session::Session;
use self::tree::GotTree;
use super::{CommandError, output, text};
use crate::objects::{Address, Listed, Place, SelectArgs, StorageArgs, Store};

const WHAT: &str = "A URL, such as https://ghcr.io/v2/org/app/blobs/sha256:…, an object, such as s3://BUCKET/NAME (gs, \
                    abs, oss, obs, cos), hf://OWNER/NAME/FILE or hdfs://HOST/FILE, or an image, such as alpine, ghcr.io/org/app:1.2 or \
                    app@sha256:…";

/// The flags of `darter get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    // Not a doc comment, where a URL would have to be a link.
    #[arg(value_name = "URL|OBJECT|IMAGE", help = WHAT)]
    what: String,
    /// Write a URL or an object to this file, an image as an OCI layout or with -r all objects into this directory [default: named after what is fetched]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The front of the daemon
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:65001", value_parser = crate::cli::socket_addr)]
    front: SocketAddr,
    /// Of an image for several platforms, take this one [default: linux, and this machine's architecture]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Let the daemon speak http, not https, to the image's registry
    #[arg(long)]
    plain_http: bool,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    storage: StorageArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Fetches what is named, and prints where it is.
///
/// # Errors
/// It cannot be had or written, its digest is wrong, or it was interrupted. What has come stays, and the message says
/// how to go on.
pub fn run(args: &GetArgs) -> Result<(), CommandError> {
    let what = Named::parse(&args.what, args.platform.is_some(), args.plain_http, args.select.recursive)?;
    let path = args.output.clone().unwrap_or_else(|| what.default_path());
    let progress = Progress::new();
    super::run_to_end(async {
        let stop = |kind| {
            signal(kind).map_err(|error| CommandError::Failed(format!("cannot take signals: {error}")))
        };
        let (mut int, mut term) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
        let interrupted = || CommandError::Interrupted(what.interrupted(&path));
        tokio::select! {
            _ = int.recv() => Err(interrupted()),
            _ = term.recv() => Err(interrupted()),
            () = progress.show() => unreachable!("it shows for as long as it is let"),
            got = what.get(args, &path, &progress) => got,
        }
    })
}

/// What has come from a URL.
#[derive(Serialize)]
struct Fetched<'a> {
    path: &'a Path,
    digest: String,
    length_bytes: u64,
    /// That were there from an earlier run.
    resumed_from_bytes: u64,
    /// Nothing had to be asked for.
    already_there: bool,
}

impl Named {
    /// In the working directory.
    fn default_path(&self) -> PathBuf {
        match self {
            Self::Url { url, .. } => {
                let last =
                    url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
                file_name(last)
            }
            Self::Objects(address) => file_name(&address.last_part()),
            Self::Image(image) => PathBuf::from(image.directory_name()),
        }
    }

    fn interrupted(&self, path: &Path) -> String {
        let kept = match self {
            Self::Url { .. } => part::part_path(path).display().to_string(),
            Self::Image(_) | Self::Objects(_) => format!("{}", path.display()),
        };
        format!("interrupted; what has come is kept in {kept}: the same command goes on from there")
    }

    async fn get(&self, args: &GetArgs, path: &Path, progress: &Progress) -> Result<(), CommandError> {
        match self {
            Self::Url { url, registry, id } => {
                args.storage.check_no_object()?;
                let session = Session::new(args.front, registry.clone())?;
                let place = Place::of_url(url.clone()).authorized(args.storage.authorization()?.as_ref());
                let wanted = Download { place, id: *id, length_bytes: None, path: path.to_owned() };
                let done = download(&session, &wanted, progress).await?;
                progress.end();
                print_fetched(&done, path, args.json)
            }
            Self::Objects(address) => {
                let store = Store::open(address, &args.storage)?;
                let session = Session::new(args.front, None)?.advising(store.advice());
                if args.select.recursive {
                    let filters = args.select.filters()?;
                    let tree = tree::get(&session, &store, &filters, path, progress).await?;
                    progress.end();
                    return print_tree(&tree, (address, path), args.json);
                }
                let object = Listed::of_key(address.key());
                let done = tree::object(&session, &store, &object, (path.to_owned(), progress)).await?;
                progress.end();
                print_fetched(&done, path, args.json)
            }
            Self::Image(image) => {
                args.storage.check_no_object()?;
                let session = Session::new(args.front, Some(image.registry.clone()))?;
                let got = image::get(&session, image, args.platform.as_ref(), path, progress).await?;
                progress.end();
                if args.json {
                    return output::print_json(&got);
                }
                output::print(&format!(
                    "{}  {}  {}  {}\n",
                    path.display(),
                    text::mib(got.length_bytes),
                    got.platform,
                    got.digest
                ))
            }
        }
    }
}

/// A name for what is called so elsewhere.
fn file_name(last: &str) -> PathBuf {
    // `..` begins with a dot.
    let name = last.replace([':', '%'], "-");
    PathBuf::from(if name.is_empty() || name.starts_with('.') { "download".into() } else { name })
}

fn print_fetched(done: &Done, path: &Path, json: bool) -> Result<(), CommandError> {
    let fetched = Fetched {
        path,
        digest: format!("sha256:{}", done.id),
        length_bytes: done.length_bytes,
        resumed_from_bytes: done.resumed_from_bytes,
        already_there: done.already_there,
    };
    if json {
        return output::print_json(&fetched);
    }
    let (size, digest) = (text::mib(fetched.length_bytes), &fetched.digest);
    output::print(&format!("{}  {size}  {digest}\n", path.display()))
}

/// What of a directory has come.
#[derive(Serialize)]
struct FetchedTree<'a> {
    what: String,
    path: &'a Path,
    #[serde(flatten)]
    tree: &'a GotTree,
}

fn print_tree(tree: &GotTree, (address, path): (&Address, &Path), json: bool) -> Result<(), CommandError> {
    let what = address.to_string();
    let nothing = tree
        .is_empty()
        .then(|| CommandError::NotFound(format!("{what}: nothing that is wanted is below it")));
    if let Some(nothing) = nothing {
        return Err(nothing);
    }
    match json {
        true => output::print_json(&FetchedTree { what, path, tree })?,
        false => {
            let size = text::mib(tree.length_bytes);
            output::print(&format!("{}  {} objects  {size}\n", path.display(), tree.objects))?;
        }
    }
    tree.failures.complaint(&format!("all else is in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e85afb9ae5eecd08f395b9777442e2642fb94dc49bd2d92f7c0a2763cb419f40";

    fn parsed(what: &str) -> Result<Named, CommandError> {
        Named::parse(what, false, false, false)
    }

    fn check(what: &str, registry: Option<&str>, named_by_digest: bool, path: &str) {
        let what = what.replace("DIGEST", DIGEST);
        let parsed = parsed(&what).unwrap();
        assert_eq!(
            parsed.default_path(),
            PathBuf::from(path.replace("DIGEST", &DIGEST.replace(':', "-"))),
            "{what}"
        );
        let Named::Url { registry: seen, id, .. } = parsed else { panic!("{what} is a URL") };
        assert_eq!(seen.map(|registry| registry.to_string()).as_deref(), registry, "{what}");
        assert_eq!(id.is_some(), named_by_digest, "{what}");
    }

    #[test]
    fn urls() {
        check("https://ghcr.io/v2/a/b/blobs/DIGEST", Some("https://ghcr.io"), true, "DIGEST");
        check("http://127.0.0.1:5000/v2/a/blobs/DIGEST?x=1", Some("http://127.0.0.1:5000"), true, "DIGEST");
        check("https://files.example/a/b.tar.gz?sig=1#x", None, false, "b.tar.gz");
        check("https://files.example/", None, false, "download");
        check("https://files.example/.profile", None, false, "download");
        check("https://files.example/a/DIGEST", None, true, "DIGEST");
    }

    #[test]
    fn what_cannot_be_fetched_is_a_wrong_command_line() {
        for (what, has_platform, plain_http) in [("https://a/b", true, false), ("https://a/b", false, true)] {
            assert!(Named::parse(what, has_platform, plain_http, false).is_err(), "flags of images");
        }
        for what in ["alpine", "ftp://a/b"] {
            assert!(Named::parse(what, false, false, true).is_err(), "-r is for directories");
        }
        assert!(Named::parse("s3://b/k", true, false, false).is_err(), "a flag of images");
        for what in ["ftp://a/b", "https://", "https://me:secret@a/b", "Not An Image"] {
            let refused = parsed(what).map(|_| ()).unwrap_err();
            assert_eq!(refused.exit_status(), 2, "{what}: {refused}");
        }
    }
}
