//! A session at work: hears the control stream, speaks on it, takes up what the other side asks.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::task::{consume_budget, spawn_local};
use tokio::time::{sleep, timeout};

use super::greeting::Control;
use super::silence::{LOOK_EVERY, Silence};
use super::{REQUEST_TIMEOUT, SESSION_IDLE, Service};
use crate::exchange::{Exchange, ExchangeError};
use crate::message_stream::{MessageReceiver, MessageSender};
use crate::session::{Line, Place, Session};
use crate::wire::{Code, Leaving, Message, Refused};

/// What the tasks of a session need. They do not keep the session.
#[derive(Clone)]
pub(super) struct Attendant {
    pub(super) session: Weak<Session>,
    pub(super) line: Rc<Line>,
    pub(super) service: Rc<dyn Service>,
    /// This node goes.
    pub(super) leaving: Rc<Cell<bool>>,
    /// Only `Gossip` is asked.
    pub(super) apart: bool,
    /// This side closes it when it has been of no use for [`SESSION_IDLE`].
    pub(super) may_rest: bool,
}

/// How a session ended.
pub(super) struct Ending {
    /// What either side said.
    pub(super) code: Code,
    /// For people.
    pub(super) reason: String,
    /// Nobody is there, as far as can be seen from here.
    pub(super) is_silent: bool,
}

impl Attendant {
    /// Until the session is over. The control stream is dropped after the connection is closed: see `Connection::close`.
    pub(super) async fn attend(&self, mut control: Control) -> Ending {
        let error = tokio::select! {
            error = self.hear(&mut control.1) => error,
            error = self.speak(&mut control.0) => error,
            error = self.take_up() => error,
            error = self.line.connection.closed() => error.into(),
            () = self.rest() => ExchangeError::Torn,
            () = self.silence() => ExchangeError::Silent,
        };
        if let Some((code, reason)) = self.line.closed_with().cloned() {
            self.line.end();
            return Ending { code, reason, is_silent: false };
        }
        let (code, reason, is_silent) = (error.code(), error.to_string(), error == ExchangeError::Silent);
        // Tells the other side, if it is still there.
        self.line.close(code, &reason);
        self.line.end();
        if code == Code::Leaving {
            self.hear_leaving();
        }
        Ending { code, reason, is_silent }
    }

    async fn hear(&self, control: &mut MessageReceiver) -> ExchangeError {
        loop {
            match control.next().await {
                Ok(Some(Message::Leaving(_))) => self.hear_leaving(),
                Ok(Some(Message::Refused(refused))) => {
                    tracing::debug!(code = ?refused.reason(), detail = &*refused.detail, "a message was refused");
                }
                Ok(Some(message)) if message.is_told() && !self.apart => {
                    self.line.touch();
                    self.session.upgrade().inspect(|session| self.service.told(session, message));
                }
                Ok(Some(message)) => {
                    return ExchangeError::Malformed(format!("{} on the control stream", message.name()));
                }
                // A later version says something here that this one does without.
                Err(error @ ExchangeError::Unknown(_)) => {
                    let refused = Refused::of(Code::Unknown, &error.to_string());
                    _ = self.line.tell(&refused.into());
                }
                Ok(None) => return ExchangeError::Malformed("the end of the control stream".into()),
                Err(error) => return error,
            }
            // What has come already is not all heard at once: others live on this shard too.
            consume_budget().await;
        }
    }

    fn hear_leaving(&self) {
        if self.line.hear_leaving() && !self.apart {
            self.session.upgrade().inspect(|session| self.service.told(session, Leaving {}.into()));
        }
    }

    async fn speak(&self, control: &mut MessageSender) -> ExchangeError {
        loop {
            let frame = self.line.next_to_tell().await;
            if let Err(error) = control.write(frame).await {
                return error;
            }
        }
    }

    /// Streams that the other side opens. Each has a task until its first message is there.
    async fn take_up(&self) -> ExchangeError {
        loop {
            let (mut send, mut recv) = match self.line.connection.accept().await {
                Ok(halves) => halves,
                Err(error) => return error.into(),
            };
            consume_budget().await;
            let Some(place) = Place::to_answer(&self.line) else {
                // Without a message, which it might not take.
                send.reset(Code::Busy.number().into());
                recv.stop(Code::Busy.number().into());
                continue;
            };
            self.line.touch();
            let exchange = Exchange::new(Rc::clone(&self.line), (send, recv), place);
            let this = self.clone();
            spawn_local(async move { this.hand_over(exchange).await });
        }
    }

    async fn hand_over(self, mut exchange: Exchange) {
        let request = match timeout(REQUEST_TIMEOUT, exchange.next()).await {
            Ok(Ok(Some(request))) => request,
            // What may not be said has closed the connection already.
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => return exchange.give_up(Code::Busy),
        };
        let is_gossip = matches!(request, Message::Gossip(_));
        if !request.is_request() || is_gossip != self.apart {
            let reason = format!("the other node sent what it may not: {} at first", request.name());
            return self.line.close(Code::Malformed, &reason);
        }
        if self.leaving.get() {
            return exchange.refuse(Refused::of(Code::Leaving, "")).await;
        }
        if let Some(session) = self.session.upgrade() {
            self.service.asked(&session, request, exchange);
        }
    }

    /// Until the other side owes this one an answer and nothing has come from it for too long. The membership finds that
    /// out by itself.
    async fn silence(&self) {
        if self.apart {
            return std::future::pending().await;
        }
        loop {
            self.line.asking.taken().await;
            let Some(seen) = self.line.connection.traffic() else { return std::future::pending().await };
            let mut silence = Silence::since(seen);
            while self.line.asking.is_any_taken() {
                sleep(LOOK_EVERY).await;
                let traffic = self.line.connection.traffic();
                if traffic.is_some_and(|traffic| silence.is_too_long(traffic, Instant::now())) {
                    return;
                }
            }
        }
    }

    /// Until the session has been of no use for long.
    async fn rest(&self) {
        if !self.may_rest {
            return std::future::pending().await;
        }
        loop {
            let idle = self.line.idle_since().map_or(Duration::ZERO, |since| Instant::now() - since);
            match SESSION_IDLE.checked_sub(idle) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return self.line.close(Code::Other(0), "of no use for long"),
            }
        }
    }
}
