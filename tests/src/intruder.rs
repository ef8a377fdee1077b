//! A node of a test's own: it speaks the peer protocol with whatever certificate, and says what it likes.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_transport::identity::{Identities, Identity};
use darter_transport::lane::{
    ConnectError, Connection, Endpoint, LaneError, Lanes, RecvHalf, SendHalf, bind,
};
use darter_transport::node::Role;
use darter_transport::wire::{Decoded, FrameReader, Hello, Message, OURS, Text};
use tokio::time::timeout;

/// A daemon that lives answers within this time, whatever is done to it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sockets of an intruder. Needs a tokio runtime.
#[derive(Debug)]
pub struct Intruder {
    endpoint: Endpoint,
}

impl Intruder {
    /// On a port of its own of loopback.
    ///
    /// # Panics
    /// When there is none.
    pub fn new(identity: Identity, lanes: Lanes) -> Intruder {
        let sockets = bind((Ipv4Addr::LOCALHOST, 0).into(), NonZeroU8::MIN).expect("loopback has ports");
        let sockets = sockets.into_iter().next().expect("one shard has sockets");
        let endpoint = Endpoint::start(sockets, Arc::new(Identities::new(identity)), lanes);
        Intruder { endpoint: endpoint.expect("sockets can be used") }
    }

    /// Only the handshake.
    ///
    /// # Errors
    /// The node does not take its certificate, or cannot be reached.
    pub async fn connect(&self, node: SocketAddr) -> Result<Connection, ConnectError> {
        self.endpoint.connect(node).await
    }

    /// As an honest node would say of itself, on its control stream.
    pub fn hello(&self, role: Role) -> Message {
        let (version_oldest, version_newest) = (OURS.oldest, OURS.newest);
        let (address, software) = (self.endpoint.local_addr(), Text::cut("an intruder"));
        let (zone, capacity_slots, shards, apart) = (Text::cut(""), 1 << 20, 1, false);
        Hello { version_oldest, version_newest, role, address, zone, capacity_slots, shards, software, apart }
            .into()
    }

    /// A node on a machine that is busy may answer no handshake in time.
    async fn let_in(&self, node: SocketAddr) -> Connection {
        loop {
            match self.connect(node).await {
                Ok(connection) => return connection,
                Err(error) => assert!(!error.is_refusal(), "{error}"),
            }
        }
    }

    /// A session: both sides have said `Hello`.
    ///
    /// # Panics
    /// When the node does not let it in.
    pub async fn enter(&self, node: SocketAddr) -> Entered {
        let connection = timeout(PATIENCE, self.let_in(node)).await.expect("the node answers");
        let (send, recv) = connection.open().await.expect("the node takes streams");
        let mut control = Stream { send, recv, frames: FrameReader::default() };
        control.say(&self.hello(Role::Peer)).await.expect("the node hears");
        let hello = control.next().await;
        assert!(matches!(hello, Ok(Some(Message::Hello(_)))), "{hello:?}");
        Entered { connection, control }
    }
}

/// A session with a node.
#[derive(Debug)]
pub struct Entered {
    /// What it is on.
    pub connection: Connection,
    /// Its first stream.
    pub control: Stream,
}

impl Entered {
    /// Opens a stream and writes these bytes to it, whatever they are.
    ///
    /// # Errors
    /// The node has closed the connection.
    pub async fn send(&self, bytes: Bytes) -> Result<Stream, LaneError> {
        let (mut send, recv) = self.connection.open().await?;
        send.write(bytes).await?;
        Ok(Stream { send, recv, frames: FrameReader::default() })
    }

    /// Asks, and hears the first answer.
    ///
    /// # Errors
    /// The node has closed the connection or the stream.
    pub async fn ask(&self, request: impl Into<Message>) -> Result<Option<Message>, LaneError> {
        self.send(request.into().encode()).await?.next().await
    }

    /// The code with which the node closes the connection.
    ///
    /// # Panics
    /// When it does not.
    pub async fn is_closed_with(&self) -> u32 {
        match timeout(PATIENCE, self.connection.closed()).await {
            Ok(LaneError::Closed { code, .. }) => code,
            other => panic!("the node does not close the connection: {other:?}"),
        }
    }
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// To the node.
    pub send: SendHalf,
    recv: RecvHalf,
    frames: FrameReader,
}

impl Stream {
    /// Sends a message.
    ///
    /// # Errors
    /// The stream or the connection is at its end.
    pub async fn say(&mut self, message: &Message) -> Result<(), LaneError> {
        self.send.write(message.encode()).await
    }

    /// What the node says next; `None` at the end. The bytes of blocks are for the caller to leave.
    ///
    /// # Errors
    /// The stream or the connection is at its end.
    ///
    /// # Panics
    /// When the node says what is no message, or nothing for a minute.
    pub async fn next(&mut self) -> Result<Option<Message>, LaneError> {
        loop {
            let read = timeout(PATIENCE, self.recv.read(self.frames.missing_bytes())).await;
            let Some(part) = read.expect("the node answers")? else { return Ok(None) };
            let Some((head, payload)) = self.frames.take(part).expect("a frame") else { continue };
            return match Message::decode(head, payload).expect("a message") {
                Decoded::Message(message) => Ok(Some(message)),
                other => panic!("the node says {other:?}"),
            };
        }
    }
}
