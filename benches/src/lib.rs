//! Benches of the engine and of the front beside other servers.
