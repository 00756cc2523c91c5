//! Register a service in five lines, and follow the ones you call.
//!
//! ```no_run
//! use rollcall_client::{Client, Registration, Selection};
//!
//! # async fn example() -> Result<(), rollcall_client::Error> {
//! let client = Client::new(["10.0.0.1:8502", "10.0.0.2:8502", "10.0.0.3:8502"])?;
//!
//! // Listed until the guard goes. Heartbeats, fail-over and healing are its business.
//! let here = "10.1.2.3:8080".parse().expect("an address");
//! let guard = client.register(Registration::new("payments").endpoint("http", here)).await?;
//!
//! // What is routable now, and every change of it.
//! let mut watch = client.watch(Selection::service("inventory")?)?;
//! for service in watch.current().services.values() {
//!     println!("{}: {} instances", service.name, service.instances.len());
//! }
//! println!("{:?}", watch.next().await);
//!
//! guard.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] asks one node until it fails, then the next. Every call has a deadline. Writes carry a request id and
//!   are repeated under it when their outcome is unknown; a refusal is never repeated. Each call of the API is a method
//!   that takes and gives the messages of [`v1`].
//! - [`Guard`] keeps one instance listed: all registrations of a client beat on one stream, at the pace that the
//!   server asks. Without an acknowledgement for a sixth of the lease the beat goes to the next node. A lease that ran
//!   out is registered again under the same nonce; a registration that somebody else took over is not.
//! - [`Watch`] shows whole states only, resumes at any node, never goes back, and keeps the last good state while the
//!   registry is gone.
//! - [`Error`] says which node was asked, what it answered and whether trying again helps.
//!
//! Everything runs on the tokio runtime in which it is called. Sockets come from the [`Connector`], randomness from
//! the seed of the [`Builder`], time from tokio: a simulation can own all three.
//!
//! Map of the code: `client` (the loop of every call), `calls` (the calls), `nodes` and `connect` (connections),
//! `session` (heartbeats), `watch`, `stream` (journal and backup), `error`, `dice` (randomness and backoff).

#![warn(missing_docs)]

mod calls;
mod check;
mod client;
mod connect;
mod dice;
mod error;
mod nodes;
mod registration;
mod session;
mod stream;
mod watch;

pub use check::Check;
pub use client::{Builder, Client};
pub use connect::{Address, BoxFuture, Connection, Connector, Transport};
pub use error::{Error, Refusal, Tried, Unreachable, reason};
pub use registration::{Acknowledged, Fence, Guard, Registration, State};
pub use rollcall_core::name::{InstanceId, InstanceName, Invalid, Label, ServiceName};
pub use rollcall_proto::v1;
pub use stream::{Export, Tail};
pub use watch::{Picture, Selection, Service, Update, Watch};
