//! Who this shard is connected to.
//!
//! A [`Mesh`] accepts connections and makes them, says `Hello` on each (`greeting`), and has each session attended
//! (`attendant`) until it ends. There is one attempt at a time to reach a node, whoever asks for it; one that fails, or
//! must not be spoken to, is left alone for a while (`paths`). What other nodes do takes bounded memory: there are
//! [`SESSIONS_MAX`] connections and [`SESSIONS_OF_NODE_MAX`] with one node (`seats`), [`HELLOS_MAX`] of them without a
//! `Hello`, and of each session so many requests and so much that waits to be told.
//!
//! Not here: what requests mean ([`Service`] answers them), and who is a seed.

mod attendant;
mod greeting;
mod paths;
mod seats;
mod silence;
#[cfg(test)]
mod tests;
mod unreachable;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use self::attendant::{Attendant, Ending};
use self::greeting::{Greeted, Side};
use self::paths::{Paths, Target};
pub use self::seats::{SESSIONS_MAX, SESSIONS_OF_NODE_MAX};
use self::seats::{Seat, Seats};
pub use self::unreachable::Unreachable;
use crate::chance::Chance;
use crate::exchange::Exchange;
use crate::lane::{Connection, Endpoint, LaneKind, Lanes};
use crate::node::{Node, NodeId, Role, ZONE_BYTES_MAX};
use crate::session::{Line, Session};
use crate::wire::{Code, Message, Text};

/// How long `Hello` may take, from either side.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that others have made and on which no `Hello` has come yet; one more is refused.
pub const HELLOS_MAX: usize = 128;
/// How long the first message of a stream may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without use a session of two peers is closed by the one that had connected.
pub const SESSION_IDLE: Duration = Duration::from_secs(120);
/// How long a node that leaves goes on answering.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What a node says of itself in `Hello`. Its role is that of its certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introduction {
    /// Where others reach it. With an unspecified IP others take the one that they see.
    pub address: SocketAddr,
    /// Its zone, or empty.
    pub zone: Text<ZONE_BYTES_MAX>,
    /// Slots of its store.
    pub capacity_slots: u32,
    /// Its shards.
    pub shards: u8,
    /// Name and version of the software.
    pub software: Text<63>,
}

/// What a node does with what others say. Called on the shard, and not to block it.
pub trait Service: 'static {
    /// A session has begun. Not called for one that is [apart](Session::is_apart).
    fn up(&self, session: &Rc<Session>);

    /// It has ended; called once for each [`up`](Self::up).
    fn down(&self, session: &Rc<Session>);

    /// On its control stream: `Seeds`, `Holds`, `Complain`, `Purge` or `Leaving`, the last one once.
    fn told(&self, session: &Rc<Session>, message: Message);

    /// A request: the first message of a stream that the other side has opened. Spawns what it needs to answer.
    fn asked(&self, session: &Rc<Session>, request: Message, exchange: Exchange);
}

/// The connections of one shard. They are closed when it is dropped.
pub struct Mesh {
    endpoint: Rc<Endpoint>,
    introduction: Introduction,
    service: Rc<dyn Service>,
    own: NodeId,
    leaving: Rc<Cell<bool>>,
    seats: Rc<Seats>,
    state: RefCell<State>,
    accepting: OnceCell<JoinHandle<()>>,
}

struct State {
    sessions: HashMap<NodeId, Vec<Rc<Session>>>,
    /// Those apart as well.
    lines: HashMap<u64, Rc<Line>>,
    next_line: u64,
    attempts: HashMap<Target, Rc<Attempt>>,
    paths: Paths,
}

/// An attempt that others may wait for.
#[derive(Default)]
struct Attempt {
    ended: OnceCell<Result<Rc<Session>, Unreachable>>,
    /// It has ended, or the node has come by itself.
    told: Notify,
}

impl Mesh {
    /// Begins to accept connections. Needs the runtime of the shard, with `spawn_local`.
    #[must_use]
    pub fn start(endpoint: Endpoint, introduction: Introduction, service: Rc<dyn Service>) -> Rc<Self> {
        let endpoint = Rc::new(endpoint);
        let own = endpoint.own().id;
        let seed = own.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let mesh = Rc::new(Self {
            endpoint: Rc::clone(&endpoint),
            introduction,
            service,
            own,
            leaving: Rc::default(),
            seats: Rc::default(),
            state: RefCell::new(State {
                sessions: HashMap::new(),
                lines: HashMap::new(),
                next_line: 0,
                attempts: HashMap::new(),
                paths: Paths::new(Chance::seeded(seed)),
            }),
            accepting: OnceCell::new(),
        });
        _ = mesh.accepting.set(spawn_local(accept(Rc::downgrade(&mesh), endpoint)));
        mesh
    }

    /// A session with this node: one that stands, or a new one. Whoever asks for it meanwhile waits for the same attempt;
    /// a node that could not be reached is left alone for a while.
    ///
    /// # Errors
    /// See [`Unreachable`].
    pub async fn session(self: &Rc<Self>, node: &Node) -> Result<Rc<Session>, Unreachable> {
        self.reach(Target::Node(node.id), node.address).await
    }

    /// A session with whoever is there: for joining, when no id is known yet.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub async fn greet(self: &Rc<Self>, address: SocketAddr) -> Result<Rc<Session>, Unreachable> {
        self.reach(Target::Address(address), address).await
    }

    /// A connection of its own for the membership, between seeds. It is in neither [`known`](Self::known) nor
    /// [`sessions`](Self::sessions), on both sides; only `Gossip` is asked on it. The caller keeps it: it is closed when
    /// the last `Rc` of it is dropped.
    ///
    /// # Errors
    /// As [`session`](Self::session), without leaving the node alone afterwards.
    pub async fn apart(self: &Rc<Self>, address: SocketAddr) -> Result<Rc<Session>, Unreachable> {
        if self.leaving.get() {
            return Err(Unreachable::Closed);
        }
        self.connect(Target::Address(address), address, true).await
    }

    /// A session with this node that stands.
    #[must_use]
    pub fn known(&self, id: &NodeId) -> Option<Rc<Session>> {
        let state = self.state.borrow();
        let of_use = |session: &&Rc<Session>| !session.is_over() && !session.is_leaving();
        state.sessions.get(id)?.iter().find(of_use).cloned()
    }

    /// All sessions that stand; of one node there may be several.
    #[must_use]
    pub fn sessions(&self) -> Vec<Rc<Session>> {
        let state = self.state.borrow();
        state.sessions.values().flatten().filter(|session| !session.is_over()).cloned().collect()
    }

    /// Tells all that this node goes, answers what is being asked for at most [`LEAVE_PATIENCE`], and closes. What is asked
    /// meanwhile is refused.
    pub async fn leave(&self) {
        self.leaving.set(true);
        let lines: Vec<_> = self.state.borrow().lines.values().cloned().collect();
        lines.iter().for_each(|line| line.tell_leaving());
        let answered = async {
            for line in &lines {
                line.answering.all_free().await;
            }
        };
        let _ = timeout(LEAVE_PATIENCE, answered).await;
        self.close(Code::Leaving, "it is leaving");
        self.endpoint.close(Code::Leaving.number().into(), "it is leaving").await;
    }

    fn close(&self, code: Code, reason: &str) {
        self.leaving.set(true);
        self.accepting.get().inspect(|accepting| accepting.abort());
        let lines: Vec<_> = self.state.borrow().lines.values().cloned().collect();
        lines.iter().for_each(|line| line.close(code, reason));
    }

    async fn reach(self: &Rc<Self>, target: Target, address: SocketAddr) -> Result<Rc<Session>, Unreachable> {
        loop {
            let attempt = match self.attempt(target, address)? {
                Found::Session(session) => return Ok(session),
                Found::Attempt(attempt) => attempt,
            };
            attempt.told.notified().await;
            if let Some(ended) = attempt.ended.get() {
                return ended.clone();
            }
        }
    }

    /// What stands, what is under way, or a new attempt.
    fn attempt(self: &Rc<Self>, target: Target, address: SocketAddr) -> Result<Found, Unreachable> {
        if let Target::Node(id) = target {
            if let Some(session) = self.known(&id) {
                return Ok(Found::Session(session));
            }
            if id == self.own {
                return Err(Unreachable::Oneself(address));
            }
            let state = self.state.borrow();
            let mut of_node = state.sessions.get(&id).into_iter().flatten();
            if of_node.any(|session| session.is_leaving() && !session.is_over()) {
                return Err(Unreachable::Leaving(id));
            }
        }
        if self.leaving.get() {
            return Err(Unreachable::Closed);
        }
        let mut state = self.state.borrow_mut();
        if let Some(attempt) = state.attempts.get(&target) {
            return Ok(Found::Attempt(Rc::clone(attempt)));
        }
        if let Some((after, reason)) = state.paths.left_alone(target, Instant::now()) {
            return Err(Unreachable::LeftAlone { address, after, reason: reason.to_owned() });
        }
        let attempt = Rc::new(Attempt::default());
        state.attempts.insert(target, Rc::clone(&attempt));
        // A task of its own: who asked may give up, others wait.
        let (mesh, ending) = (Rc::clone(self), Rc::clone(&attempt));
        spawn_local(async move {
            let ended = mesh.connect(target, address, false).await;
            mesh.state.borrow_mut().attempts.remove(&target);
            match &ended {
                Ok(_) => mesh.state.borrow_mut().paths.stands(target),
                Err(unreachable) => mesh.failed(target, unreachable),
            }
            _ = ending.ended.set(ended);
            ending.told.notify_waiters();
        });
        Ok(Found::Attempt(attempt))
    }

    fn failed(&self, target: Target, unreachable: &Unreachable) {
        let (now, paths) = (Instant::now(), &mut self.state.borrow_mut().paths);
        if unreachable.is_lasting() {
            if paths.leave_alone(target, unreachable.to_string(), now) {
                tracing::warn!(error = %unreachable, "a node is left alone for a minute");
            }
        } else if !matches!(unreachable, Unreachable::Closed) {
            tracing::debug!(error = %unreachable, "a node could not be reached");
            paths.failed(target, unreachable.to_string(), now);
        }
    }

    async fn connect(
        self: &Rc<Self>,
        target: Target,
        address: SocketAddr,
        apart: bool,
    ) -> Result<Rc<Session>, Unreachable> {
        let tcp_only = self.state.borrow().paths.is_tcp_only(address, Instant::now());
        let lanes = if tcp_only { Lanes::Tcp } else { Lanes::Auto };
        let connected = self.endpoint.connect_by(lanes, address).await;
        let by_tcp = connected.as_ref().is_ok_and(|connection| connection.kind() == LaneKind::Tcp);
        self.state.borrow_mut().paths.reached(address, by_tcp, Instant::now());
        let connection = connected?;
        let seat = self.seat(target, address, &connection).inspect_err(|error| {
            connection.close(error.code().number().into(), &error.to_string());
        })?;
        let own = self.endpoint.own().role;
        let greeted = greeting::greet(connection, &self.introduction, own, Side::Dialler { apart }).await?;
        Ok(self.begin(greeted, seat, true))
    }

    /// Whether who is there is who is looked for, and there is room.
    fn seat(
        &self,
        target: Target,
        address: SocketAddr,
        connection: &Connection,
    ) -> Result<Seat, Unreachable> {
        let found = connection.member().id;
        match target {
            _ if found == self.own => Err(Unreachable::Oneself(address)),
            Target::Node(expected) if found != expected => {
                Err(Unreachable::OtherNode { address, expected, found })
            }
            _ if self.leaving.get() => Err(Unreachable::Closed),
            _ => self.seats.take(found).ok_or(Unreachable::TooMany),
        }
    }

    /// A connection that another node has made.
    fn admit(self: &Rc<Self>, connection: Connection, hellos: &Arc<Semaphore>) {
        let address = connection.remote();
        let seat = self.seat(Target::Address(address), address, &connection);
        let hello = Arc::clone(hellos).try_acquire_owned();
        let (seat, hello) = match (seat, hello) {
            (Ok(seat), Ok(hello)) => (seat, hello),
            (Err(error), _) => return connection.close(error.code().number().into(), &error.to_string()),
            (_, Err(_)) => return connection.close(Code::Busy.number().into(), "too many at once"),
        };
        let mesh = Rc::clone(self);
        spawn_local(async move {
            let (member, own) = (connection.member(), mesh.endpoint.own().role);
            match greeting::greet(connection, &mesh.introduction, own, Side::Acceptor).await {
                Ok(greeted) => _ = mesh.begin(greeted, seat, false),
                Err(error) if error.is_lasting() => mesh.failed(Target::Node(member.id), &error),
                Err(error) => tracing::debug!(node = %member.id, %error, "a node came and said no Hello"),
            }
            drop(hello);
        });
    }

    fn begin(self: &Rc<Self>, greeted: Greeted, seat: Seat, dialled: bool) -> Rc<Session> {
        let Greeted { session, control } = greeted;
        let apart = session.is_apart();
        let attendant = Attendant {
            session: Rc::downgrade(&session),
            line: Rc::clone(&session.line),
            service: Rc::clone(&self.service),
            leaving: Rc::clone(&self.leaving),
            apart,
            may_rest: dialled
                && !apart
                && session.role() == Role::Peer
                && self.endpoint.own().role == Role::Peer,
        };
        let number = self.enter(&session);
        if !apart {
            self.service.up(&session);
        }
        // One that was made for the membership is its caller's.
        let kept = (!apart || !dialled).then(|| Rc::clone(&session));
        let mesh = Rc::downgrade(self);
        spawn_local(async move {
            let end = attendant.attend(control).await;
            let mesh = mesh.upgrade();
            mesh.as_ref().inspect(|mesh| mesh.leave_out(number, &attendant, &end));
            if let Some(session) = kept.filter(|session| !session.is_apart()) {
                attendant.service.down(&session);
            }
            drop(seat);
        });
        session
    }

    /// From here on others find it.
    fn enter(&self, session: &Rc<Session>) -> u64 {
        let mut state = self.state.borrow_mut();
        let number = state.next_line;
        state.next_line += 1;
        state.lines.insert(number, Rc::clone(&session.line));
        if !session.is_apart() {
            let id = session.node().id;
            state.sessions.entry(id).or_default().push(Rc::clone(session));
            state.paths.stands(Target::Node(id));
            // Who waits for an attempt need not any more.
            state.attempts.get(&Target::Node(id)).inspect(|attempt| attempt.told.notify_waiters());
        }
        number
    }

    fn leave_out(&self, number: u64, attendant: &Attendant, end: &Ending) {
        let member = attendant.line.connection.member();
        let mut state = self.state.borrow_mut();
        state.lines.remove(&number);
        if let Some(of_node) = state.sessions.get_mut(&member.id) {
            of_node.retain(|session| !Rc::ptr_eq(&session.line, &attendant.line));
            if of_node.is_empty() {
                state.sessions.remove(&member.id);
            }
        }
        let (node, code, reason) = (member.id, end.code, &end.reason);
        tracing::debug!(%node, ?code, reason, "a session has ended");
        let target = Target::Node(member.id);
        if end.is_silent {
            tracing::info!(%node, address = %attendant.line.connection.remote(), "a node has gone silent");
            // Who asks for it now is not to wait for an attempt that leads nowhere.
            state.paths.failed(target, reason.clone(), Instant::now());
        }
        if code.leaves_node() && state.paths.leave_alone(target, reason.clone(), Instant::now()) {
            tracing::warn!(%node, ?code, reason, "a node is left alone for a minute");
        }
    }
}

/// What there is of a node.
enum Found {
    Session(Rc<Session>),
    Attempt(Rc<Attempt>),
}

async fn accept(mesh: Weak<Mesh>, endpoint: Rc<Endpoint>) {
    let hellos = Arc::new(Semaphore::new(HELLOS_MAX));
    while let Some(connection) = endpoint.accept().await {
        let Some(mesh) = mesh.upgrade() else { return };
        mesh.admit(connection, &hellos);
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.close(Code::Other(0), "");
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("own", &self.own).field("leaving", &self.leaving).finish_non_exhaustive()
    }
}
