//! The registry server: the only place where the parts meet.

pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod host;
pub mod net;
pub mod raft;
