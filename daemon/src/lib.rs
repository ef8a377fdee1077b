//! Darter's node daemon as a library: configuration, HTTP front, origin client, admin port, commands, doctor, init and demo.
//!
//! The binary `darter` is a thin shell over this crate; the whole-system tests use its demo registry.
#![forbid(unsafe_code)]

pub mod access;
mod admin;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod demo;
mod digest;
pub mod doctor;
pub mod fetch;
pub mod front;
pub mod init;
mod logs;
mod memory_limit;
mod metrics;
mod objects;
pub mod origin;
mod policy;
mod polls;
mod profiles;
mod reload;
pub mod sandbox;
pub mod serve;
mod shard;
mod supervisor;
mod termination;
pub mod trace;
