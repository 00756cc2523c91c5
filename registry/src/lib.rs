//! The registry server: the only place where the parts meet.

pub mod disk;
pub mod raft;
