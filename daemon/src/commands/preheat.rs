//! `darter preheat`: contents are brought into the cluster before anybody wants them.
//!
//! The command finds out what belongs to an image, as `darter get` does, and shows the registry its credentials; the
//! daemon brings one content for each call, and tells how far it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use url::{Url, form_urlencoded};

use super::get::image::{self, Chosen};
use super::get::platform::Platform;
use super::get::progress::Progress;
use super::get::reference::ImageReference;
use super::get::session::{SILENCE, Session, Trying};
use super::get::{Named, pause};
use super::wire::{self, HttpError};
use super::{AdminArgs, CommandError, output, text};
use crate::admin::api;
use crate::admin::preheat::{Line, Whereto};
use crate::origin::innermost;

const WHAT: &str = "An image, such as alpine, ghcr.io/org/app:1.2 or app@sha256:…, or a URL, such as \
                    https://ghcr.io/v2/org/app/blobs/sha256:…";

/// The flags of `darter preheat`.
#[derive(Clone, Debug, Args)]
pub struct PreheatArgs {
    // Not a doc comment, where a URL would have to be a link.
    #[arg(value_name = "IMAGE|URL", help = WHAT)]
    what: String,
    /// Bring it to the seeds, from which all nodes take it, or to all nodes
    #[arg(long, value_name = "seeds|all", default_value = "seeds")]
    to: Whereto,
    /// Of an image for several platforms, take this one [default: linux, and this machine's architecture]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Let the daemon speak http, not https, to the image's registry
    #[arg(long)]
    plain_http: bool,
    /// The front of the daemon
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:65001", value_parser = crate::cli::socket_addr)]
    front: SocketAddr,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Contents under way at a time.
const CONTENTS_AT_ONCE: usize = 4;
/// Tries in a row that bring nothing more.
const TRIES_MAX: u32 = 5;
/// Bytes of the longest line that is read.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Has the daemon bring an image or what is at a URL, and shows how far it is.
///
/// # Errors
/// There is no such thing, it cannot be had, or the command was interrupted: what has come stays.
pub fn run(args: &PreheatArgs) -> Result<(), CommandError> {
    let named = Named::parse(&args.what, args.platform.is_some(), args.plain_http)?;
    let progress = Progress::new();
    super::run_to_end(async {
        let stop = |kind| {
            signal(kind).map_err(|error| CommandError::Failed(format!("cannot take signals: {error}")))
        };
        let (mut int, mut term) = (stop(SignalKind::interrupt())?, stop(SignalKind::terminate())?);
        let interrupted = || {
            let message = "interrupted; what has come is kept: the same command goes on from there";
            CommandError::Interrupted(message.into())
        };
        tokio::select! {
            _ = int.recv() => Err(interrupted()),
            _ = term.recv() => Err(interrupted()),
            () = progress.show() => unreachable!("it shows for as long as it is let"),
            preheated = preheat(args, named, &progress) => {
                progress.end();
                let preheated = preheated?;
                if args.admin.json { output::print_json(&preheated) } else { output::print(&preheated.line()) }
            }
        }
    })
}

/// What is there now.
#[derive(Debug, Serialize)]
struct Preheated {
    what: String,
    to: Whereto,
    /// Of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    /// Of an image's manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    contents: usize,
    length_bytes: u64,
}

impl Preheated {
    fn line(&self) -> String {
        let Self { what, to, platform, contents, length_bytes, .. } = self;
        let platform = platform.as_ref().map(|platform| format!("  {platform}")).unwrap_or_default();
        let to = match to {
            Whereto::Seeds => "the seeds",
            Whereto::All => "all nodes",
        };
        let what = text::plain(what, 300);
        format!("{what}{platform}  {contents} contents, {}, are at {to}\n", text::mib(*length_bytes))
    }
}

async fn preheat(args: &PreheatArgs, named: Named, progress: &Progress) -> Result<Preheated, CommandError> {
    let (what, to) = (args.what.clone(), args.to);
    match named {
        Named::Url { url, registry, .. } => {
            let session = Session::new(args.front, registry)?;
            let call = Call { admin: args.admin.admin, to, session: &session, progress };
            let length_bytes = call.bring(&url, None).await?;
            Ok(Preheated { what, to, platform: None, digest: None, contents: 1, length_bytes })
        }
        Named::Image(image) => {
            let session = Session::new(args.front, Some(image.registry.clone()))?;
            let chosen = image::choose(&session, &image, args.platform.as_ref()).await?;
            let platform = platform_of(&session, &image, &chosen, args.platform.as_ref()).await?;
            let call = Call { admin: args.admin.admin, to, session: &session, progress };
            // A layer that is in an image twice is brought once.
            let blobs: BTreeSet<_> = std::iter::once(&chosen.config)
                .chain(&chosen.layers)
                .map(|blob| (blob.id, blob.length_bytes))
                .collect();
            let contents = blobs.len();
            let urls = blobs
                .into_iter()
                .map(|(id, length)| Ok((image::blob_url(&image, id)?, length)))
                .collect::<Result<Vec<_>, CommandError>>()?;
            let all = futures_util::stream::iter(&urls).map(|(url, length)| call.bring(url, Some(*length)));
            let lengths: Vec<u64> = all.buffer_unordered(CONTENTS_AT_ONCE).try_collect().await?;
            Ok(Preheated {
                what,
                to,
                platform: platform.map(|platform| platform.to_string()),
                digest: Some(format!("sha256:{}", chosen.id)),
                contents,
                length_bytes: lengths.iter().sum(),
            })
        }
    }
}

/// What the image is for: by the index, or else by its configuration. An image for one platform only may be for another
/// one than was asked for.
async fn platform_of(
    session: &Session,
    image: &ImageReference,
    chosen: &Chosen,
    asked: Option<&Platform>,
) -> Result<Option<Platform>, CommandError> {
    if chosen.platform.is_some() {
        return Ok(chosen.platform.clone());
    }
    let is = image::platform_in_config(session, image, &chosen.config).await?;
    match (asked, &is) {
        (Some(asked), Some(is)) if !asked.takes(is) => {
            Err(CommandError::NotFound(format!("{image} is for {is} only, and not for {asked}")))
        }
        _ => Ok(is),
    }
}

/// What all calls of one command have in common.
struct Call<'a> {
    admin: SocketAddr,
    to: Whereto,
    session: &'a Session,
    progress: &'a Progress,
}

impl Call<'_> {
    /// Brings one content, and returns how long it is.
    async fn bring(&self, url: &Url, length_bytes: Option<u64>) -> Result<u64, CommandError> {
        let mut counted = Counting { progress: self.progress, expected: None, come: 0 };
        if let Some(length) = length_bytes {
            counted.expect(length);
        }
        let (mut tries, mut most) = (0, 0);
        loop {
            let tried = self.bring_once(url, &mut counted).await;
            match tried {
                Ok(come_bytes) => return Ok(come_bytes),
                Err(Trying::No(error)) => return Err(error),
                Err(Trying::Again(why, after)) => {
                    if counted.come > most {
                        (most, tries) = (counted.come, 0);
                    }
                    tries += 1;
                    if tries == TRIES_MAX {
                        return Err(CommandError::Failed(format!(
                            "{why}; what has come is kept: the same command goes on from there"
                        )));
                    }
                    // It begins anew, quickly with what is kept.
                    counted.begin_anew();
                    pause(tries, after).await;
                }
            }
        }
    }

    async fn bring_once(&self, url: &Url, counted: &mut Counting<'_>) -> Result<u64, Trying> {
        let mut answer = self.call(url, self.session.authorization()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(fresh) = self.session.authorize_anew(answer.headers()).await?
        {
            answer = self.call(url, Some(fresh)).await?;
        }
        if answer.status() != StatusCode::OK {
            return Err(self.refused(url, answer).await);
        }
        let mut body = answer.into_body();
        let mut held = BytesMut::new();
        loop {
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line = held.split_to(end + 1);
                match serde_json::from_slice(&line) {
                    Ok(Line::Coming { come_bytes, length_bytes }) => {
                        counted.expect(length_bytes.unwrap_or(0));
                        counted.reach(come_bytes);
                    }
                    Ok(Line::Done { come_bytes }) => {
                        counted.reach(come_bytes);
                        return Ok(come_bytes);
                    }
                    Ok(Line::Failed { message }) => {
                        let message = text::plain(&message, 400);
                        return Err(Trying::Again(format!("{url}: {message}"), None));
                    }
                    Err(error) => {
                        let message =
                            format!("the admin port at {} says what is no line: {error}", self.admin);
                        return Err(CommandError::Failed(message).into());
                    }
                }
            }
            let again = |why: String| Trying::Again(format!("the admin port at {}: {why}", self.admin), None);
            if held.len() > LINE_BYTES_MAX {
                return Err(again(format!("a line longer than {LINE_BYTES_MAX} bytes")));
            }
            match timeout(SILENCE, body.frame()).await {
                Err(_) => return Err(again(HttpError::Silent(SILENCE).to_string())),
                Ok(None) => return Err(again("the answer was cut".into())),
                Ok(Some(Err(error))) => return Err(again(innermost(&error))),
                Ok(Some(Ok(frame))) => held.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }

    async fn call(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<http::Response<Incoming>, Trying> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("url", url.as_str())
            .append_pair("to", &self.to.to_string())
            .finish();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/preheat?{query}", api::ROOT))
            .header(header::HOST, self.admin.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| CommandError::Usage(format!("{url} cannot be asked for: {error}")))?;
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization);
        }
        wire::send(self.admin, request, SILENCE).await.map_err(|error| match error {
            HttpError::Connect(reason) => Trying::No(super::admin_client::unreachable(self.admin, &reason)),
            error => Trying::Again(format!("the admin port at {}: {error}", self.admin), None),
        })
    }

    /// A refusal is the admin port's own, in its words, or one that it passes on.
    async fn refused(&self, url: &Url, answer: http::Response<Incoming>) -> Trying {
        if answer.headers().contains_key(api::PASSED_ON) {
            return match self.session.judged(url, answer).await {
                Err(trying) => trying,
                Ok(answer) => {
                    let message = format!("{url}: {} is no answer that was expected", answer.status());
                    CommandError::Failed(message).into()
                }
            };
        }
        let read = wire::whole(answer, LINE_BYTES_MAX, SILENCE).await;
        match read.map(|(_, _, body)| serde_json::from_slice::<api::Refused>(&body)) {
            Ok(Ok(refused)) if refused.error.code == api::Code::Busy => {
                Trying::Again(text::plain(&refused.error.message, 400), None)
            }
            Ok(Ok(refused)) => super::admin_client::refusal(&refused.error).into(),
            Ok(Err(error)) => CommandError::Failed(format!("{}: {error}", self.admin)).into(),
            Err(error) => Trying::Again(format!("the admin port at {}: {error}", self.admin), None),
        }
    }
}

/// One content's part in the progress.
struct Counting<'a> {
    progress: &'a Progress,
    expected: Option<u64>,
    come: u64,
}

impl Counting<'_> {
    /// The first word counts.
    fn expect(&mut self, length_bytes: u64) {
        if self.expected.is_none() && length_bytes > 0 {
            self.expected = Some(length_bytes);
            self.progress.expect(length_bytes);
        }
    }

    fn reach(&mut self, come_bytes: u64) {
        self.progress.came(come_bytes.saturating_sub(self.come));
        self.come = self.come.max(come_bytes);
    }

    fn begin_anew(&mut self) {
        self.progress.lost(self.come);
        self.come = 0;
    }
}
