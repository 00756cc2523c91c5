//! Consensus: one replicated log of commands, and what it needs from disk and network.
//!
//! * [`replica`]: the door for the rest of the server; [`settings`], [`errors`], [`status`] go with it
//! * `submit`, `stamp`, `reads`: the ways of a write and of a linearizable read
//! * [`machine`], `load`: applies what is committed, publishes it, makes and loads snapshots
//! * [`leadership`], [`membership`], `join`, `duties`: who leads, who belongs to it, what a node does by itself
//! * [`peers`], [`guard`], `network`, `server`, `transfer`, `wire`: between the nodes
//! * [`log`], [`snapshot`], [`identity`], `record`: on disk
//! * [`types`], [`runtime`]: what openraft is told about all this

mod duties;
pub mod errors;
pub mod guard;
pub mod identity;
mod join;
pub mod leadership;
mod load;
pub mod log;
pub mod machine;
pub mod membership;
mod network;
pub mod peers;
mod reads;
pub(crate) mod record;
pub mod replica;
pub mod runtime;
mod server;
pub mod settings;
mod shared;
pub mod snapshot;
mod stamp;
pub mod status;
mod submit;
mod transfer;
pub mod types;
mod wire;

pub use errors::{AdminError, ReadError, StartError, SubmitError};
pub use join::JoinOptions;
pub use log::Fatal;
pub use machine::{Published, Publisher};
pub use membership::Standing;
pub use peers::Lane;
pub use replica::Replica;
pub use settings::RaftSettings;
pub use status::Role;
pub use types::Member;
