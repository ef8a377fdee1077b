//! `Hello` on a new connection, from either side.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::unreachable::Unreachable;
use super::{HELLO_TIMEOUT, Introduction};
use crate::exchange::{ExchangeError, code_of};
use crate::lane::{Connection, LaneError, RecvHalf, SendHalf};
use crate::message_stream::{MessageReceiver, MessageSender};
use crate::node::{Node, Role};
use crate::session::Session;
use crate::wire::{Code, Decoded, Hello, Message, OURS, Refused, Versions};

/// How long the side that was connected to waits for the other one to read why it is refused.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Which of the two sides this one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// It has connected, for the membership only or not.
    Dialler { apart: bool },
    /// It was connected to.
    Acceptor,
}

/// A session and its control stream.
pub(super) struct Greeted {
    pub(super) session: Rc<Session>,
    pub(super) control: (MessageSender, MessageReceiver),
}

/// Both sides say `Hello` on the first stream. A connection on which that fails is closed.
pub(super) async fn greet(
    connection: Connection,
    introduction: &Introduction,
    own: Role,
    side: Side,
) -> Result<Greeted, Unreachable> {
    let greeting = Greeting { connection, introduction, own, side };
    let greeted = timeout(HELLO_TIMEOUT, greeting.exchange()).await;
    match greeted.unwrap_or_else(|_| Err(greeting.broken(Code::Other(0), "it does not say Hello in time"))) {
        Ok(greeted) => Ok(greeted),
        Err(unreachable) => {
            let code = unreachable.code();
            greeting.connection.close(code.number().into(), &unreachable.to_string());
            Err(unreachable)
        }
    }
}

struct Greeting<'a> {
    connection: Connection,
    introduction: &'a Introduction,
    own: Role,
    side: Side,
}

impl Greeting<'_> {
    async fn exchange(&self) -> Result<Greeted, Unreachable> {
        let apart = matches!(self.side, Side::Dialler { apart: true });
        let ours = Message::from(self.introduction.hello(self.own, apart)).encode();
        let (mut send, mut recv) = self.control().await?;
        if self.side != Side::Acceptor {
            send.write(ours.clone()).await.map_err(|error| self.failed(&error))?;
        }
        let (head, payload) = match recv.frame().await.map_err(|error| self.failed(&error))? {
            Some(frame) if frame.0.kind == Message::HELLO => frame,
            Some((head, _)) => {
                return Err(self.broken(Code::Malformed, &format!("it begins with kind {:#06x}", head.kind)));
            }
            None => return Err(self.broken(Code::Malformed, "its control stream is empty")),
        };
        // Before anything else is read, which may mean something else in another version.
        let theirs = Versions::of_hello(&payload);
        let theirs = theirs.ok_or_else(|| self.broken(Code::Malformed, "its Hello is too short"))?;
        if let Err(none) = OURS.agree(self.connection.member().id, theirs) {
            self.refuse_version(&mut send, ours, &none.to_string()).await;
            return Err(none.into());
        }
        let hello = match Message::decode(head, payload) {
            Ok(Decoded::Message(Message::Hello(hello))) => hello,
            Ok(_) => return Err(self.broken(Code::Malformed, "its Hello is none")),
            Err(error) => return Err(self.broken(Code::Malformed, &error.to_string())),
        };
        let session = self.session(hello, apart)?;
        if self.side == Side::Acceptor {
            // Not before: quinn holds back the word that a connection is closed while data waits for the path.
            send.write(ours).await.map_err(|error| self.failed(&error))?;
        }
        Ok(Greeted { session, control: (send, recv) })
    }

    async fn control(&self) -> Result<(MessageSender, MessageReceiver), Unreachable> {
        let opened: Result<(SendHalf, RecvHalf), LaneError> = match self.side {
            Side::Dialler { .. } => self.connection.open().await,
            Side::Acceptor => self.connection.accept().await,
        };
        let (send, recv) = opened.map_err(|error| self.failed(&error.into()))?;
        Ok((MessageSender::new(send), MessageReceiver::new(recv, self.connection.member().role)))
    }

    /// What both sides find out by themselves, if they are told the versions and left the time.
    async fn refuse_version(&self, send: &mut MessageSender, ours: Bytes, detail: &str) {
        if self.side != Side::Acceptor {
            return;
        }
        let refused = Message::from(Refused::of(Code::Version, detail)).encode();
        if send.write([ours, refused].concat().into()).await.is_ok() {
            send.finish();
            let _ = timeout(LAST_WORD, self.connection.closed()).await;
        }
    }

    /// What a `Hello` says has to fit what is known of its sender.
    fn session(&self, mut hello: Hello, apart: bool) -> Result<Rc<Session>, Unreachable> {
        let member = self.connection.member();
        if hello.role != member.role {
            return Err(self.broken(Code::Forbidden, "it says that it has another role than its certificate"));
        }
        hello.apart |= apart;
        if hello.apart && (member.role != Role::Seed || self.own != Role::Seed) {
            return Err(self.broken(Code::Forbidden, "only seeds are members"));
        }
        let mut address = hello.address;
        if address.ip().is_unspecified() {
            address = SocketAddr::new(self.connection.remote().ip(), address.port());
        }
        let node = Node { id: member.id, address, zone: hello.zone.clone() };
        Ok(Session::new(self.connection.clone(), node, hello))
    }

    fn failed(&self, error: &ExchangeError) -> Unreachable {
        match error {
            ExchangeError::Lane(LaneError::Closed { code, reason }) => self.broken(code_of(*code), reason),
            other => self.broken(other.code(), &other.to_string()),
        }
    }

    fn broken(&self, code: Code, reason: &str) -> Unreachable {
        Unreachable::Hello { address: self.connection.remote(), code, reason: reason.to_owned() }
    }
}

impl Introduction {
    fn hello(&self, role: Role, apart: bool) -> Hello {
        Hello {
            version_oldest: OURS.oldest,
            version_newest: OURS.newest,
            role,
            address: self.address,
            zone: self.zone.clone(),
            capacity_slots: self.capacity_slots,
            shards: self.shards,
            software: self.software.clone(),
            apart,
        }
    }
}
