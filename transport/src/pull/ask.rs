//! One stream to an owner or a parent: what is read from it.

use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use darter_engine::buffer::BlockBuffer;

use super::plot::{Cancelled, Ended, PlotPull, Request};
use crate::block_set::BlockSet;
use crate::download::Source;
use crate::exchange::Exchange;
use crate::node::Node;
use crate::wire::{Blocks, FindParents, Message, Watch};

/// How long a block from the owner waits for its digest, which may come on another stream.
const ATTESTED_WITHIN: Duration = Duration::from_secs(1);
/// How long the owner may take to name parents.
const FOUND_WITHIN: Duration = Duration::from_secs(3);

impl PlotPull {
    /// Makes a request and reads its answer to the end.
    pub(super) async fn ask(self: Rc<Self>, node: Node, message: Message, mut request: Request) {
        let _under_way = self.context.shared.counters().request_begins();
        let exchange = tokio::select! {
            exchange = self.open(&node, message) => exchange,
            _ = &mut request.cancelled => return self.end(&request, Ended::Cancelled),
        };
        let ended = match exchange {
            Some(exchange) => self.read(exchange, &mut request).await,
            None => Ended::Lost,
        };
        self.end(&request, ended);
    }

    async fn open(&self, node: &Node, message: Message) -> Option<Exchange> {
        let session = self.context.mesh.session(node).await;
        let session = session.inspect_err(|error| tracing::debug!(node = %node.id, %error, "no session"));
        let exchange = session.ok()?.ask(message).await;
        exchange.inspect_err(|error| tracing::debug!(node = %node.id, %error, "no stream")).ok()
    }

    async fn read(&self, mut exchange: Exchange, request: &mut Request) -> Ended {
        let mut reading = Reading { announced: BlockSet::EMPTY, named: false };
        loop {
            let message = tokio::select! {
                message = exchange.next() => message,
                _ = &mut request.cancelled => return Ended::Cancelled,
            };
            let flow = match message {
                Ok(Some(Message::Blocks(blocks))) => {
                    self.read_blocks(&mut exchange, &blocks, request, &mut reading).await
                }
                Ok(Some(Message::Attested(attested))) => {
                    self.attest(attested.first.into(), &attested.digests);
                    ControlFlow::Continue(())
                }
                Ok(Some(Message::Holders(holders))) if request.source == Source::Owner => {
                    reading.named |= !holders.holders.is_empty();
                    self.named(&holders.holders);
                    ControlFlow::Continue(())
                }
                Ok(Some(Message::Refused(refused))) => ControlFlow::Break(Ended::Refused(refused)),
                Ok(Some(Message::End(_)) | None) => ControlFlow::Break(reading.sent()),
                // Has no place here: the node is of no use for this.
                Ok(Some(_)) => ControlFlow::Break(Ended::Lost),
                Err(error) => {
                    tracing::debug!(node = %exchange.from().id, %error, "a request broke off");
                    ControlFlow::Break(Ended::Lost)
                }
            };
            if let ControlFlow::Break(ended) = flow {
                exchange.finish();
                return ended;
            }
        }
    }

    async fn read_blocks(
        &self,
        exchange: &mut Exchange,
        blocks: &Blocks,
        request: &mut Request,
        reading: &mut Reading,
    ) -> ControlFlow<Ended> {
        let lost = ControlFlow::Break(Ended::Lost);
        let Some(places) = blocks.places() else { return lost };
        let announced: BlockSet = places.clone().collect();
        // More than was asked for, or the same again: it could go on for ever.
        if !announced.minus(&request.places).is_empty() || !announced.and(&reading.announced).is_empty() {
            return lost;
        }
        reading.announced.add(&announced);
        if request.any {
            self.state.borrow_mut().download.announced(&announced);
        }
        for place in places {
            let Some(block) = self.block(place) else { return lost };
            let source = &request.source;
            let reading_one = async {
                let bytes = self.layout.block_bytes(block);
                let buffer = self.buffer(source, bytes).await;
                let bytes = exchange.read_block(buffer, bytes).await;
                let bytes = bytes.inspect_err(|error| tracing::debug!(%error, "a block broke off"));
                self.wait_for_digest(source, place).await;
                bytes.ok()
            };
            let bytes: Option<Bytes> = tokio::select! {
                bytes = reading_one => bytes,
                _ = &mut request.cancelled => return ControlFlow::Break(Ended::Cancelled),
            };
            let Some(bytes) = bytes else { return lost };
            // Not to be dropped half way: what has come is noted as held.
            if !self.arrived(source, place, bytes).await {
                return ControlFlow::Break(Ended::Cancelled);
            }
        }
        ControlFlow::Continue(())
    }

    /// Room for a block of so many bytes: what this node's limits allow, and a buffer. While there is none, the source is not
    /// to blame.
    async fn buffer(&self, source: &Source, bytes: u32) -> BlockBuffer {
        let mut room = pin!(async {
            self.context.shared.books().limits().download(bytes.into()).await;
            self.context.store.pool().take().await
        });
        tokio::select! {
            biased;
            buffer = &mut room => return buffer,
            () = std::future::ready(()) => {}
        }
        let _still = StandsStill::new(self, source);
        room.await
    }

    async fn wait_for_digest(&self, source: &Source, place: u32) {
        if *source != Source::Owner {
            return;
        }
        let known = async {
            loop {
                let attested = self.attested.notified();
                if self.digest(place).is_some() {
                    return;
                }
                attested.await;
            }
        };
        // Without it the block is as good as wrong.
        let _ = tokio::time::timeout(ATTESTED_WITHIN, known).await;
    }

    /// Asks for parents, and watches those that are named.
    pub(super) async fn find_at(self: Rc<Self>, node: Node, find: FindParents, cancelled: Cancelled) {
        let finding = async {
            let mut exchange = self.open(&node, find.into()).await?;
            let answer = exchange.next().await.ok()??;
            exchange.finish();
            if let Message::Holders(holders) = answer {
                self.named(&holders.holders);
                self.watch_parents();
            }
            Some(())
        };
        // That an owner does not answer is seen when it is asked for blocks.
        tokio::select! {
            _ = tokio::time::timeout(FOUND_WITHIN, finding) => {}
            _ = cancelled => {}
        }
    }

    /// Watches a parent or the owner until the watch is dropped.
    pub(super) async fn watch_at(self: Rc<Self>, node: Node, is_owner: bool, cancelled: Cancelled) {
        let watching = async {
            let Some(mut exchange) = self.open(&node, Watch { plot: self.plot }.into()).await else {
                return true;
            };
            loop {
                match exchange.next().await {
                    Ok(Some(Message::Attested(attested))) => {
                        self.attest(attested.first.into(), &attested.digests);
                    }
                    Ok(Some(Message::Have(have))) if !is_owner => self.have(&node.id, &have),
                    Ok(Some(Message::Have(_))) => {}
                    // It does not tell: that is no reason not to ask it.
                    Ok(_) => return false,
                    Err(_) => return true,
                }
            }
        };
        let lost = tokio::select! {
            lost = watching => lost,
            _ = cancelled => false,
        };
        // An owner that is lost is seen when it is asked for blocks.
        if lost && !is_owner {
            self.gone(&node.id);
        }
    }
}

/// What one stream has brought.
struct Reading {
    announced: BlockSet,
    named: bool,
}

impl Reading {
    fn sent(&self) -> Ended {
        Ended::Sent { announced: self.announced, named: self.named }
    }
}

/// As long as it lives, this node takes nothing from the source.
struct StandsStill<'a> {
    pull: &'a PlotPull,
    source: &'a Source,
}

impl<'a> StandsStill<'a> {
    fn new(pull: &'a PlotPull, source: &'a Source) -> Self {
        pull.state.borrow_mut().download.stands_still(source);
        Self { pull, source }
    }
}

impl Drop for StandsStill<'_> {
    fn drop(&mut self) {
        self.pull.goes_on(self.source);
    }
}
