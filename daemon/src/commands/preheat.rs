//! `darter preheat`: contents are brought into the cluster before anybody wants them.
//!
//! The command finds out what belongs to an image, as `darter get` does, and shows the registry its credentials; the
//! daemon brings one content for each call, and tells how far it is. To all nodes it comes after it is at the seeds; when
//! some of them do not get it, they are named, and the command fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
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
use super::{AdminArgs, CommandError, output, secret_header, text};
use crate::admin::api;
use crate::admin::preheat::{Line, Whereto};
use crate::admin::reach::{NotReached, SpreadInfo, SpreadingInfo};
use crate::admin::token;
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
/// Of a node's name, as `darter peers` shows it.
const NODE_DIGITS: usize = 12;
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
                match args.admin.json {
                    true => output::print_json(&preheated)?,
                    false => output::print(&preheated.line())?,
                }
                preheated.complaint()
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
    /// If it was for all of them.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    reached: Option<Reached>,
}

/// At which nodes all contents are.
#[derive(Debug, Serialize)]
struct Reached {
    nodes: u64,
    nodes_done: u64,
    /// Those at which they are not, as far as the daemon names them.
    not_reached: Vec<NotReached>,
}

impl Preheated {
    fn line(&self) -> String {
        let Self { what, platform, contents, length_bytes, reached, .. } = self;
        let platform = platform.as_ref().map(|platform| format!("  {platform}")).unwrap_or_default();
        let to = match reached {
            None => "the seeds".to_owned(),
            Some(Reached { nodes, not_reached, .. }) if not_reached.is_empty() => {
                format!("all {nodes} nodes")
            }
            Some(Reached { nodes, nodes_done, .. }) => format!("{nodes_done} of {nodes} nodes"),
        };
        let what = text::plain(what, 300);
        format!("{what}{platform}  {contents} contents, {}, are at {to}\n", text::mib(*length_bytes))
    }

    /// What to do where it is not at all nodes.
    fn complaint(&self) -> Result<(), CommandError> {
        let Some(Reached { not_reached, .. }) = &self.reached else { return Ok(()) };
        if not_reached.is_empty() {
            return Ok(());
        }
        let nodes = not_reached.iter().map(|NotReached { node, address, message }| {
            let (node, message) = (text::plain(node, NODE_DIGITS), text::plain(message, 400));
            format!("\n  {node} at {address}: {message}")
        });
        let nodes: String = nodes.collect();
        Err(CommandError::Failed(format!(
            "not all nodes have it; what has come stays, and these lack something:{nodes}"
        )))
    }
}

/// What the calls of one command have found out of the nodes.
#[derive(Debug, Default)]
struct Nodes {
    /// Of each content that comes to all nodes: how many have it, of how many.
    contents: BTreeMap<usize, (u64, u64)>,
    not_reached: BTreeMap<String, NotReached>,
}

impl Nodes {
    /// So many have all contents, at most; and how many there are.
    fn done_of(&self, contents: usize) -> (u64, u64) {
        let all = self.contents.values().map(|(_, all)| *all).max().unwrap_or(0);
        let done = self.contents.values().map(|(done, _)| *done).min().unwrap_or(0);
        (if self.contents.len() < contents { 0 } else { done }, all)
    }

    fn ended(&mut self, content: usize, spread: SpreadInfo) {
        self.contents.insert(content, (spread.nodes_done, spread.nodes));
        for failed in spread.failed {
            self.not_reached.entry(failed.node.clone()).or_insert(failed);
        }
    }
}

async fn preheat(args: &PreheatArgs, named: Named, progress: &Progress) -> Result<Preheated, CommandError> {
    let (what, to) = (args.what.clone(), args.to);
    match named {
        Named::Url { url, registry, .. } => {
            let session = Session::new(args.front, registry)?;
            let call = Call::of(args, &session, progress, 1)?;
            let length_bytes = call.bring((0, &url), None).await?;
            let reached = call.reached();
            Ok(Preheated { what, to, platform: None, digest: None, contents: 1, length_bytes, reached })
        }
        Named::Image(image) => {
            let session = Session::new(args.front, Some(image.registry.clone()))?;
            let chosen = image::choose(&session, &image, args.platform.as_ref()).await?;
            let platform = platform_of(&session, &image, &chosen, args.platform.as_ref()).await?;
            // A layer that is in an image twice is brought once.
            let blobs: BTreeSet<_> = std::iter::once(&chosen.config)
                .chain(&chosen.layers)
                .map(|blob| (blob.id, blob.length_bytes))
                .collect();
            let contents = blobs.len();
            let call = Call::of(args, &session, progress, contents)?;
            let urls = blobs
                .into_iter()
                .map(|(id, length)| Ok((image::blob_url(&image, id)?, length)))
                .collect::<Result<Vec<_>, CommandError>>()?;
            let all = futures_util::stream::iter(urls.iter().enumerate())
                .map(|(number, (url, length))| call.bring((number, url), Some(*length)));
            let lengths: Vec<u64> = all.buffer_unordered(CONTENTS_AT_ONCE).try_collect().await?;
            Ok(Preheated {
                what,
                to,
                platform: platform.map(|platform| platform.to_string()),
                digest: Some(format!("sha256:{}", chosen.id)),
                contents,
                length_bytes: lengths.iter().sum(),
                reached: call.reached(),
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
    /// For the admin port, if a file of one was named.
    token: Option<HeaderValue>,
    to: Whereto,
    session: &'a Session,
    progress: &'a Progress,
    /// How many calls there will be.
    contents: usize,
    nodes: RefCell<Nodes>,
}

impl<'a> Call<'a> {
    fn of(
        args: &PreheatArgs,
        session: &'a Session,
        progress: &'a Progress,
        contents: usize,
    ) -> Result<Self, CommandError> {
        let token = args.admin.token()?.as_deref().map(secret_header).transpose()?;
        let (admin, nodes) = (args.admin.admin, RefCell::default());
        Ok(Self { admin, token, to: args.to, session, progress, contents, nodes })
    }

    /// At which nodes all is, if it was for all of them.
    fn reached(&self) -> Option<Reached> {
        if self.to == Whereto::Seeds {
            return None;
        }
        let nodes = self.nodes.take();
        let (done, all) = nodes.done_of(self.contents);
        let not_reached: Vec<_> = nodes.not_reached.into_values().collect();
        Some(Reached { nodes: all, nodes_done: done, not_reached })
    }

    /// Brings one content, and returns how long it is.
    async fn bring(
        &self,
        (number, url): (usize, &Url),
        length_bytes: Option<u64>,
    ) -> Result<u64, CommandError> {
        let mut counted = Counting { call: self, number, length: None, expected: 0, come: 0 };
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

    async fn bring_once(&self, url: &Url, counted: &mut Counting<'_, '_>) -> Result<u64, Trying> {
        let mut answer = self.call(url, self.session.authorization()).await?;
        // The admin port's own 401 is about another token.
        if answer.status() == StatusCode::UNAUTHORIZED
            && answer.headers().contains_key(api::PASSED_ON)
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
                    Ok(Line::Spreading(far)) => counted.spread(&far),
                    Ok(Line::Done { come_bytes, spread }) => {
                        counted.done(come_bytes, spread);
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
        if let Some(token) = &self.token {
            request.headers_mut().insert(token::HEADER, token.clone());
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
struct Counting<'a, 'b> {
    call: &'a Call<'b>,
    number: usize,
    /// Of one node.
    length: Option<u64>,
    /// Of all nodes.
    expected: u64,
    come: u64,
}

impl Counting<'_, '_> {
    /// The first word counts, until it is told how many nodes there are.
    fn expect(&mut self, length_bytes: u64) {
        if self.length.is_none() && length_bytes > 0 {
            self.length = Some(length_bytes);
            self.expect_all(length_bytes);
        }
    }

    fn expect_all(&mut self, bytes: u64) {
        self.call.progress.expect(bytes.saturating_sub(self.expected));
        self.expected = self.expected.max(bytes);
    }

    fn reach(&mut self, come_bytes: u64) {
        self.call.progress.came(come_bytes.saturating_sub(self.come));
        self.come = self.come.max(come_bytes);
    }

    /// It is here, and comes to other nodes: this one's bytes are among theirs.
    fn spread(&mut self, far: &SpreadingInfo) {
        let length = self.length.unwrap_or(self.come);
        self.expect_all(length.saturating_mul(far.nodes - far.nodes_failed.min(far.nodes)));
        self.reach(far.come_bytes);
        self.note(far.nodes_done, far.nodes);
    }

    fn done(&mut self, come_bytes: u64, spread: Option<SpreadInfo>) {
        self.reach(come_bytes);
        match (self.call.to, spread) {
            (Whereto::Seeds, _) => return,
            (Whereto::All, Some(spread)) => self.call.nodes.borrow_mut().ended(self.number, spread),
            // Without a cluster this node is all nodes.
            (Whereto::All, None) => _ = self.call.nodes.borrow_mut().contents.insert(self.number, (1, 1)),
        }
        self.show();
    }

    fn note(&self, done: u64, all: u64) {
        self.call.nodes.borrow_mut().contents.insert(self.number, (done, all));
        self.show();
    }

    fn show(&self) {
        let (done, all) = self.call.nodes.borrow().done_of(self.call.contents);
        self.call.progress.nodes(done, all);
    }

    fn begin_anew(&mut self) {
        self.call.progress.lost(self.come);
        self.come = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(node: &str) -> NotReached {
        NotReached { node: node.into(), address: ([10, 0, 0, 1], 1).into(), message: "it has no room".into() }
    }

    fn preheated(nodes: Nodes, contents: usize) -> Preheated {
        let (nodes_done, all) = nodes.done_of(contents);
        let not_reached = nodes.not_reached.into_values().collect();
        let reached = Some(Reached { nodes: all, nodes_done, not_reached });
        let (what, to) = ("app:1".to_owned(), Whereto::All);
        Preheated { what, to, platform: None, digest: None, contents, length_bytes: 1 << 20, reached }
    }

    #[test]
    fn a_node_is_done_when_it_has_all_contents() {
        let mut nodes = Nodes::default();
        nodes.contents.insert(0, (3, 4));
        assert_eq!(nodes.done_of(2), (0, 4), "the other content has not come anywhere yet");
        nodes.contents.insert(1, (2, 4));
        assert_eq!(nodes.done_of(2), (2, 4));
    }

    #[test]
    fn who_lacks_something_is_named_once() {
        let mut nodes = Nodes::default();
        nodes.ended(0, SpreadInfo { nodes: 3, nodes_done: 2, failed: vec![failed("aa")] });
        nodes.ended(1, SpreadInfo { nodes: 3, nodes_done: 2, failed: vec![failed("aa")] });
        let preheated = preheated(nodes, 2);
        assert_eq!(preheated.line(), "app:1  2 contents, 1.0 MiB, are at 2 of 3 nodes\n");
        let complaint = preheated.complaint().unwrap_err().to_string();
        assert_eq!(complaint.matches("aa at 10.0.0.1:1: it has no room").count(), 1, "{complaint}");
    }

    #[test]
    fn where_all_have_it_nothing_is_wrong() {
        let mut nodes = Nodes::default();
        nodes.ended(0, SpreadInfo { nodes: 3, nodes_done: 3, failed: Vec::new() });
        let preheated = preheated(nodes, 1);
        assert_eq!(preheated.line(), "app:1  1 contents, 1.0 MiB, are at all 3 nodes\n");
        assert!(preheated.complaint().is_ok());
    }
}
