//! What the service manager is told: one datagram for each change, to the socket that `NOTIFY_SOCKET` names.
//!
//! The daemon needs no answer and goes on without one. What is wrong with the socket is logged once.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::admin::health::Health;

/// A manager that does not read is not waited for longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Whoever has to be told. A clone tells the same one.
#[derive(Clone, Debug)]
pub(crate) struct Manager(Option<Rc<Told>>);

#[derive(Debug)]
struct Told {
    socket: UnixDatagram,
    /// It wants to hear within each of these spaces of time that the daemon lives.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names.
    pub(crate) fn of_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self(None);
        };
        let socket = address(&name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
            socket.connect_addr(&address)?;
            Ok(socket)
        });
        let variable = |name| env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        match socket {
            Ok(socket) => Self(Some(Rc::new(Told { socket, watchdog }))),
            Err(error) => {
                let name = name.display();
                tracing::warn!(%error, "the service manager at {name} is not told that darter has started");
                Self(None)
            }
        }
    }

    /// Clients are served from now on, or again after [`Manager::reloading`].
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being read again, until [`Manager::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000));
    }

    /// Answers under way are finished, and no more are begun.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says again and again that the daemon lives, for as long as no shard is stuck: the manager restarts one that is
    /// silent. Ends at once where nobody wants to hear it.
    pub(crate) async fn watch(self, health: Health) {
        let Some(within) = self.0.as_ref().and_then(|told| told.watchdog) else { return };
        loop {
            if health.is_healthy() {
                self.tell("WATCHDOG=1");
            }
            // Two words in each span: one that comes late costs nothing.
            tokio::time::sleep(within / 2).await;
        }
    }

    fn tell(&self, state: &str) {
        let Some(told) = &self.0 else { return };
        if let Err(error) = told.socket.send(state.as_bytes()) {
            tracing::warn!(%error, state, "the service manager cannot be told");
        }
    }
}

/// A path, or `@` and the name of an abstract socket.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is no path and no abstract name")),
    }
}

/// What the manager wants to hear within, if it means this process.
fn watchdog(microseconds: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    let is_own = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let microseconds = microseconds?.parse().ok().filter(|microseconds| *microseconds > 0);
    microseconds.filter(|_| is_own).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_paths_or_abstract_names() {
        let address = |name: &str| address(OsStr::new(name));
        assert_eq!(address("/run/notify").unwrap().as_pathname().unwrap().to_str(), Some("/run/notify"));
        assert_eq!(address("@a b").unwrap().as_abstract_name(), Some(&b"a b"[..]));
        for wrong in ["", "run/notify", "vsock:2:1234"] {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_watchdog_is_that_of_this_process() {
        let asked = |microseconds: &str, pid: Option<&str>| {
            watchdog(Some(microseconds.to_owned()), pid.map(str::to_owned), 7)
        };
        assert_eq!(asked("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(asked("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(asked("30000000", Some("8")), None);
        assert_eq!(asked("30000000", Some("x")), None);
        for nothing in ["0", "-1", "", "a", "99999999999999999999999"] {
            assert_eq!(asked(nothing, None), None, "{nothing:?}");
        }
        assert_eq!(watchdog(None, None, 7), None);
    }
}
