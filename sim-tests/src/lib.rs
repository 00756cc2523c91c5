//! The simulation: real nodes and the real client library under a deterministic network, disk and clock.
//!
//! One seed decides everything; the same seed gives the same trace, byte by byte, in another process. One process
//! runs one seed, because tokio numbers its tasks through the life of a process.
//!
//! * [`cluster`]: nodes on simulated machines: crash, power cut, restart, partition
//! * [`net`], [`disk`], [`clock`]: what a node gets instead of the real ones
//! * [`scenario`]: a seeded day in the life, in two phases: faults, then healing
//! * [`cut_off`]: a checker that cannot reach its targets
//! * [`dns`]: questions to all nodes over simulated UDP and TCP, and what must hold for the answers
//! * [`invariants`]: what must hold after every step
//! * [`trace`]: what happened, when, where, without anything that differs between two runs
//!
//! Every source of entropy, and how it is closed, is listed in `README.md`.
#![forbid(unsafe_code)]

#[cfg(all(not(tokio_unstable), not(doc)))]
compile_error!(
    "the simulation needs --cfg tokio_unstable (see .cargo/config.toml): without it tokio's own randomness is not \
     seeded. An RUSTFLAGS variable replaces that setting: unset it."
);

pub mod clock;
pub mod cluster;
pub mod cut_off;
pub mod disk;
pub mod dns;
pub mod invariants;
pub mod net;
pub mod scenario;
pub mod trace;
