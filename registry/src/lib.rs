//! The registry server: the only place where the parts meet. In the order of the flow:
//!
//! * [`node`]: builds the parts, wires them, owns their tasks, stops them; read it first
//! * [`api`]: the gRPC services; [`http`] and [`metrics`]: health and figures
//! * [`dns`]: the sockets of DNS
//! * [`raft`]: consensus, the durable log, snapshots; [`raft::Replica`] is its only door
//! * [`view`]: what readers see, swapped once per applied batch
//! * [`lease`]: the leader's memory of heartbeats, and what it proposes
//! * [`check`]: probes what is listed, and reports verdicts
//! * [`host`] with [`clock`], [`net`], [`disk`]: what a node gets from outside
//! * [`config`], [`cli`]: settings and the command line

pub mod api;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod dns;
pub mod host;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod net;
pub mod node;
pub mod raft;
pub mod view;
