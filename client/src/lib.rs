//! Register a service in five lines, and call the others by name.
//!
//! ```no_run
//! use rollcall_client::{Client, Registration};
//! # use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient as PaymentsClient};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(["10.0.0.1:8502", "10.0.0.2:8502", "10.0.0.3:8502"])?;
//!
//! // Listed until the guard goes. Heartbeats, fail-over and healing are its business.
//! let here = "10.1.2.3:8080".parse()?;
//! let guard = client.register(Registration::new("orders").endpoint("grpc", here)).await?;
//!
//! // Any client that tonic generates. Each call goes to a live instance; there is no proxy between.
//! let mut payments = PaymentsClient::new(client.channel("payments")?);
//! # let request = HealthCheckRequest::default();
//! payments.check(request).await?;
//!
//! guard.deregister().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Calling
//!
//! [`Balance`] says how calls to a service are balanced; every setting has a default. [`Client::balance`] makes a
//! [`Balancer`] of it, and that is called in one of four ways:
//!
//! | you have | you use | example |
//! |---|---|---|
//! | a client that tonic generated | [`Balancer::channel`], or [`Client::channel`] with every default | `caller` |
//! | hyper, or another HTTP client that takes whole URIs | [`Balancer::http`], [`Balancer::http_layer`] | `http` |
//! | anything else | [`Balancer::pick`], and [`Pick::report`] when the call has ended | `pick` |
//! | a balancer or a pool built on tower | [`Balancer::discover`] | |
//!
//! ```no_run
//! # use rollcall_client::{Balance, Client, Hedge, Retry};
//! # use std::time::Duration;
//! # fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let balance = Balance::service("inventory")?
//!     .zone("eu-1a") // near instances first, others for what those cannot take
//!     .timeout(Duration::from_secs(2)) // all attempts and the answer; gRPC hands it on as `grpc-timeout`
//!     .retry(Retry::idempotent(3)) // every call may be done twice
//!     .hedge(Hedge::default()); // a second attempt for the slowest 5 %
//! let channel = client.balance(balance)?.channel();
//! # Ok(())
//! # }
//! ```
//!
//! What happens by default:
//!
//! - The better of two endpoints gets the call, by mean latency and calls in flight ([`Policy::PeakEwma`]; six other
//!   policies). Weights, tiers and the health that the registry sees are kept.
//! - Five failures in a row, or a success rate far below that of the others, eject an endpoint for 5 s or longer; then
//!   one call tries it ([`Ejection`]). At most half may be out, and where too few are left, ejections are ignored.
//! - A call that was never sent is tried elsewhere, three attempts in all and within a budget. What may have arrived is
//!   repeated only where you say that it may be done twice: [`Retry::idempotent`], [`Channel::idempotent`], or
//!   [`Idempotent`] in one request. HTTP methods that are idempotent by definition need no word.
//! - An endpoint that hangs is found out by deadlines only: give calls one, or attempts one of their own
//!   ([`Balance::attempt_timeout`]), after which idempotent calls go elsewhere.
//! - A newcomer gets one call, and then its share over 30 s.
//! - The list stays when the registry is gone.
//!
//! A pick takes no lock: it reads an immutable snapshot and atomics. What stands around it does: tower's retry budget
//! (a mutex that each call through a channel or HTTP holds for some nanoseconds, twice where calls are hedged), and the
//! tonic channel of each endpoint, a queue of 1,024 requests of which one task sends over the endpoint's connection.
//!
//! One request can carry in its extensions a [`Hint`] (a key for ring hash and maglev), [`Idempotent`] and a
//! [`Deadline`]. An [`Observer`] is told of every attempt and every ejection; the same goes to `tracing`.
//!
//! # Registering and watching
//!
//! - [`Client`] asks one node until it fails, then the next. Every call has a deadline. Writes carry a request id and
//!   are repeated under it when their outcome is unknown; a refusal is never repeated. Each call of the API is a method
//!   that takes and gives the messages of [`v1`].
//! - [`Guard`] keeps one instance listed: all registrations of a client beat on one stream, at the pace that the
//!   server asks. Without an acknowledgement for a sixth of the lease the beat goes to the next node. A lease that ran
//!   out is registered again under the same nonce; a registration that somebody else took over is not.
//!   [`Guard::drain_on`] takes it out of traffic before the server stops, [`Registration::health`] lets it say how it
//!   is.
//! - [`Watch`] shows whole states only, resumes at any node, never goes back, and keeps the last good state while the
//!   registry is gone. [`Builder::copies`] keeps a copy on disk for a process that starts meanwhile;
//!   [`Selection::shrink_grace`] holds back sudden losses.
//! - [`Error`] says which node was asked, what it answered and whether trying again helps.
//!
//! Everything runs on the tokio runtime in which it is called. Sockets come from the [`Connector`], randomness from
//! the seed of the [`Builder`], time from tokio: a simulation can own all three. Dependencies: tokio, tonic and what
//! tonic brings (bytes, futures-util, h2, http, hyper, prost, tower), arc-swap, backon, rand, thiserror, tracing and
//! xxhash-rust.
//!
//! Map of the code: `client` (the loop of every call), `calls` (the calls), `nodes` and `connect` (connections),
//! `session` (heartbeats), `watch`, `balance` (calling services), `stream` (journal and backup), `error`, `dice`
//! (randomness and backoff).

#![warn(missing_docs)]

mod answer;
mod balance;
mod calls;
mod check;
mod client;
mod connect;
mod copies;
mod dice;
mod error;
mod guard;
mod nodes;
mod registration;
mod report;
mod session;
mod stream;
mod watch;

pub use balance::{
    Answer, Attempt, Balance, Balancer, BodyError, CallError, Cause, Change, Channel, Deadline,
    Discovered, Ejection, Endpoint, Hedge, Hint, Http, HttpLayer, Idempotent, Key, Load, Observer,
    Outcome, Pick, PickError, Policy, Retry, Standing, Why,
};
pub use check::Check;
pub use client::{Builder, Client};
pub use connect::{Address, BoxFuture, Connection, Connector, Transport};
pub use copies::{Copies, StoredCopy};
pub use error::{Error, Refusal, Tried, Unreachable, reason};
pub use guard::Guard;
pub use registration::{Acknowledged, Fence, Registration, State};
pub use report::HealthReport;
pub use rollcall_core::name::{InstanceId, InstanceName, Invalid, Label, ServiceName};
pub use rollcall_proto::v1;
pub use stream::{Export, Tail};
pub use watch::{Origin, Picture, Selection, Service, Update, Utilization, Watch};
