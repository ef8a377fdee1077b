//! The service manager that has started the daemon, if one has: systemd's protocols, without its library.
//!
//! [`Manager`] is told what becomes of the daemon (`sd_notify(3)`); [`Sockets`] are those that it has opened for the
//! daemon (`sd_listen_fds(3)`), and that stay open while the daemon is restarted. Without a manager both do nothing.

mod manager;
mod sockets;

pub(crate) use manager::Manager;
pub(crate) use sockets::{NoSocket, Sockets};
