//! Consensus: one replicated log of commands, and what it needs from disk and network.

pub mod identity;
pub mod log;
pub mod runtime;
pub mod snapshot;
pub mod stand_in;
pub mod types;
