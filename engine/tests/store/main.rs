//! The store as its users see it: what is written is read, survives a restart, gives way, and never lies.
//! Every case runs with both I/O backends.

mod damage;
mod digests;
mod reading;
mod restarts;
mod room;
mod setting;
