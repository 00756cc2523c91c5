//! What the registry decides: names, instances, commands and the one writer of the state.
//!
//! No I/O, no clock, no async, no randomness, no `HashMap`: values in, values out, so that equal logs give equal
//! states and every rule is tested without a network. Start with [`state`], then [`command`].
//!
//! * [`name`], [`instance`], [`policy`]: what callers declare, parsed once into types that cannot be wrong
//! * [`check`]: what the registry tests, and the judge that turns results into verdicts
//! * [`egress`]: addresses that no instance can have
//! * [`signals`], [`checkers`]: what is kept of them, and which node probes which instance
//! * [`record`]: what the registry knows of an instance, and the events that led there
//! * [`command`]: every way in which the state can change or refuse
//! * [`state`]: `State::apply`, the only writer
//! * [`query`]: which instances an answer holds, and in which order
//! * [`lease`], [`protection`]: the pure parts of the leader's work: deadlines, checkpoints, the gate against mass expiry
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::wildcard_enum_match_arm, clippy::cast_possible_truncation)]

pub mod check;
pub mod checkers;
pub mod command;
pub mod egress;
pub mod instance;
pub mod lease;
pub mod name;
pub mod policy;
pub mod protection;
pub mod query;
pub mod record;
pub mod signals;
pub mod state;

pub use command::{Command, Outcome, Rejection, Stamped};
pub use state::{Applied, Service, State};
