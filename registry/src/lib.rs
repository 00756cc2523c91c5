//! The registry server: the only place where the parts meet.

pub mod clock;
pub mod disk;
pub mod host;
pub mod net;
pub mod raft;
