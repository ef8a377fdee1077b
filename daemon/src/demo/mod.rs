//! `darter demo`: what darter does for one node, shown on this machine and with nothing but the binary.

pub mod registry;
