//! A storage simulator.
#![allow(dead_code)]
mod disk;
mod rng;
pub(crate) use disk::{SimulatedFile, read, write};
