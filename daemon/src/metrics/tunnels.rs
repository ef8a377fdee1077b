//! What clients of the forward proxy have opened by CONNECT.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What became of a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectFate {
    /// Its bytes are carried as they are.
    Tunnel,
    /// Its TLS ends here.
    Terminated,
    /// Its client may not go there.
    Refused,
    /// Nobody is reached there.
    Failed,
    /// There are too many.
    Shed,
}

/// Where bytes of a tunnel go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Towards {
    /// What a client has sent.
    Server,
    /// What it is sent.
    Client,
}

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    open: Gauge,
    connects: Labelled,
    bytes: Labelled,
    handshakes_failed: Counter,
}

impl ConnectFate {
    const ALL: [Self; 5] = [Self::Tunnel, Self::Terminated, Self::Refused, Self::Failed, Self::Shed];

    fn labels(self) -> [(&'static str, &'static str); 1] {
        let fate = match self {
            Self::Tunnel => "tunnel",
            Self::Terminated => "terminated",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Shed => "shed",
        };
        [("fate", fate)]
    }
}

impl Towards {
    fn labels(self) -> [(&'static str, &'static str); 1] {
        let towards = match self {
            Self::Server => "server",
            Self::Client => "client",
        };
        [("towards", towards)]
    }
}

impl Tunnels {
    pub(super) fn register(&self, registry: &mut Registry) {
        for fate in ConnectFate::ALL {
            let _ = self.connects.get_or_create(&fate.labels());
        }
        for towards in [Towards::Server, Towards::Client] {
            let _ = self.bytes.get_or_create(&towards.labels());
        }
        registry.register("tunnels", "Connections that a CONNECT has opened", self.open.clone());
        registry.register(
            "connect_requests",
            "Requests of CONNECT, by what became of them",
            self.connects.clone(),
        );
        registry.register_with_unit(
            "tunnel",
            "Carried through tunnels as they were",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "client_handshakes_failed",
            "TLS handshakes of clients that came to nothing: they may not know the authority",
            self.handshakes_failed.clone(),
        );
    }

    pub(crate) fn opened(&self) {
        self.open.inc();
    }

    pub(crate) fn closed(&self) {
        self.open.dec();
    }

    pub(crate) fn asked(&self, fate: ConnectFate) {
        self.connects.get_or_create(&fate.labels()).inc();
    }

    /// The counter itself: bytes are counted as they move.
    pub(crate) fn bytes(&self, towards: Towards) -> Counter {
        self.bytes.get_or_create(&towards.labels()).clone()
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }
}
