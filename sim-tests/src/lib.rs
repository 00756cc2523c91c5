//! The simulation: real nodes and the real client library under a deterministic network, disk and clock.
//!
//! One seed decides everything; the same seed gives the same trace, byte by byte, in another process. One process
//! runs one seed, because tokio numbers its tasks through the life of a process.
//!
//! * [`plan`]: what a seed decides; [`run`]: its faults, then healing
//! * [`cluster`], [`links`]: nodes on simulated machines, and what lies between them
//! * [`net`], [`disk`], [`clock`]: what a node gets instead of the real ones
//! * [`faults`], [`workload`], [`invariants`]: one kind to a file
//! * [`oracle`]: what clients were told; [`chronicle`]: what nodes showed
//! * [`points`]: rare states that were reached; [`trace`]: what happened, the same in every run of a seed
//!
//! Every source of entropy, and how it is closed, is listed in `README.md`.
#![forbid(unsafe_code)]

#[cfg(all(not(tokio_unstable), not(doc)))]
compile_error!(
    "the simulation needs --cfg tokio_unstable (see .cargo/config.toml): without it tokio's own randomness is not \
     seeded. An RUSTFLAGS variable replaces that setting: unset it."
);

pub mod chronicle;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod links;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod planted;
pub mod points;
pub mod run;
pub mod scenarios;
pub mod swarm;
pub mod trace;
pub mod wgl;
pub mod workload;
