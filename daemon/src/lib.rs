//! Darter's node daemon as a library: configuration, HTTP front, origin client, admin port and demo.
//!
//! The binary `darter` is a thin shell over this crate; the whole-system tests use its demo registry.
#![forbid(unsafe_code)]

pub mod demo;
