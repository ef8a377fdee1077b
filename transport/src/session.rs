//! One connection after `Hello` on both sides.

use crate::exchange::{Exchange, ExchangeError};
use crate::identity::Member;
use crate::lane::{Connection, LaneKind};
use crate::node::{Node, Role};
use crate::wire::{Code, Hello, Message};

/// A connection to a node with which this one has a version in common. Shared as `Rc<Session>`.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    node: Node,
    hello: Hello,
}

impl Session {
    /// Who is at the other end, where it listens, and its zone.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What it may do.
    #[must_use]
    pub fn role(&self) -> Role {
        self.member().role
    }

    /// Its name and role, as the certificate tells.
    #[must_use]
    pub fn member(&self) -> Member {
        self.connection.member()
    }

    /// What it said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// On which lane.
    #[must_use]
    pub fn lane(&self) -> LaneKind {
        self.connection.kind()
    }

    /// Whether it is for the membership only.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        todo!()
    }

    /// Whether the other node has said that it goes: nothing new is to be asked of it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        todo!()
    }

    /// Opens a stream and sends the request; waits while as many are open as may be.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn ask(&self, request: impl Into<Message>) -> Result<Exchange, ExchangeError> {
        let _ = request.into();
        todo!()
    }

    /// Sends on the control stream what is no answer. `false`: too much waits there already, or the session is over;
    /// the message is dropped.
    pub fn tell(&self, message: impl Into<Message>) -> bool {
        let _ = message.into();
        todo!()
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        todo!()
    }

    /// Waits for its end.
    pub async fn over(&self) {
        todo!()
    }

    /// Ends it. With a code after which a node is left alone, the mesh connects to it no more for a minute.
    pub fn close(&self, code: Code, reason: &str) {
        self.connection.close(code.number().into(), reason);
    }
}
