//! Draft.
#![warn(missing_docs)]
#![forbid(unsafe_code)]
mod calls;
mod client;
mod connect;
mod dice;
mod error;
mod nodes;
mod registration;
mod session;
mod stream;
mod watch;

pub use client::{Builder, Client};
pub use connect::{Address, BoxFuture, Connection, Connector, Transport};
pub use error::{Error, Refusal, Tried, Unreachable, reason};
pub use registration::{Acknowledged, Fence, Guard, Registration, State};
pub use rollcall_core::name::{InstanceName, Invalid, ServiceName};
pub use rollcall_proto::v1;
pub use stream::{Export, Tail};
pub use watch::{Picture, Selection, Service, Update, Watch};
