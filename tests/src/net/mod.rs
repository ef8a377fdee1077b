//! Networks of a test's own: a switch, and hosts on it with links that are slow, lossy, cut or blocked. Needs root.
//!
//! Each host is a network namespace of the kernel's with one link to a bridge in one more namespace. None of them has
//! a name, so nothing of them is left when the test and its children have ended, however that came; what a dead run may
//! leave is processes and files, and the next run takes these away (`run.rs`). Networks do not see each other, nor the
//! machine's own; a [`Door`] leads in or out. They wait for each other within one process: the cores are few.
//!
//! Links have no delay of their own: only netem would give them one, and not every kernel has it. What needs a
//! distance takes it from the registry's `latency`.

mod at_once;
mod cluster;
mod datagrams;
mod door;
mod filter;
mod host;
mod namespace;
mod network;
mod run;
mod trickle;

pub use at_once::{Makespan, at_once};
pub use cluster::{Cluster, Node, Plan, Role};
pub use datagrams::{Disorder, DisorderedPorts};
pub use door::Door;
pub use host::{Host, LinkBytes};
pub use namespace::Namespace;
pub use network::{NETWORK, Network};
pub(crate) use run::MARK as RUN_MARK;
pub use trickle::TricklingPort;
