//! The registry server: the only place where the parts meet.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod host;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod net;
pub mod node;
pub mod raft;
pub mod view;
