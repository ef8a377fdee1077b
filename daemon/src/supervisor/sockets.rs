//! Sockets that the service manager has opened before the daemon started: they outlive it, so that who connects while
//! the daemon is restarted waits and is not refused.
//!
//! They are told apart by their names, `FileDescriptorName=front` and `admin`. The addresses of the configuration stay
//! what counts: whether the front is open to others decides which registries it serves.

use std::env;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// Sockets that were handed over, by their names.
pub(crate) struct Sockets {
    handed: ListenFd,
    names: Vec<String>,
}

/// A socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoSocket {
    /// It is not the one that the configuration means.
    #[error(
        "the socket `{name}` of the service manager listens at {there}, and the configuration says {configured}: make \
         ListenStream= of the socket unit and the configuration agree"
    )]
    Elsewhere {
        /// Its name.
        name: &'static str,
        /// Where it listens.
        there: SocketAddr,
        /// Where the daemon is to listen.
        configured: SocketAddr,
    },
    /// It is of another kind.
    #[error("the socket `{name}` of the service manager is none that listens for TCP: {source}")]
    Foreign {
        /// Its name.
        name: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Sockets {
    /// Those that the environment tells of.
    pub(crate) fn of_environment() -> Self {
        let handed = ListenFd::from_env();
        Self { handed, names: names(&env::var("LISTEN_FDNAMES").unwrap_or_default()) }
    }

    /// The one of this name, if there is one, to listen at `configured`. Port 0 is any port.
    ///
    /// # Errors
    /// It listens elsewhere, or is something else.
    pub(crate) fn take(
        &mut self,
        name: &'static str,
        configured: SocketAddr,
    ) -> Result<Option<TcpListener>, NoSocket> {
        let Some(index) = self.names.iter().position(|there| there == name) else { return Ok(None) };
        let foreign = |source| NoSocket::Foreign { name, source };
        let Some(listener) = self.handed.take_tcp_listener(index).map_err(foreign)? else { return Ok(None) };
        let there = listener.local_addr().map_err(foreign)?;
        if there.ip() != configured.ip() || (configured.port() != 0 && there.port() != configured.port()) {
            return Err(NoSocket::Elsewhere { name, there, configured });
        }
        listener.set_nonblocking(true).map_err(foreign)?;
        Ok(Some(listener))
    }
}

/// Names as they are in `LISTEN_FDNAMES`, in the order of the sockets.
fn names(text: &str) -> Vec<String> {
    text.split(':').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_the_sockets() {
        assert_eq!(names("front:admin"), ["front", "admin"]);
        assert_eq!(names("front::admin"), ["front", "", "admin"]);
        assert_eq!(names(""), [""]);
    }
}
