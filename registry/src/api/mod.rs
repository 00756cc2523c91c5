//! The public gRPC API: four services over one replica and one view.
//!
//! * `registration`, `heartbeat`, `said`: instances speak
//! * `discovery`, `watch`, `answer`, `read`: callers ask
//! * `journal`, `admin`: operators look and act
//! * `status`: every failure of this node as a gRPC status; refusals of the catalogue are in `rollcall_proto::error`
//! * `codec`, `kept`: replies that are bytes already, and those that are kept
//! * `serve`, `calls`: the gRPC server and what every call passes
//! * `gather`, `cut`: connections that send what has come together, and that end

pub mod admin;
pub mod answer;
pub mod calls;
pub mod codec;
pub(crate) mod cut;
mod declared;
pub mod discovery;
pub(crate) mod gather;
pub mod heartbeat;
pub mod journal;
mod kept;
pub mod read;
pub mod registration;
mod renewed;
mod said;
pub mod serve;
pub mod status;
pub mod watch;

use crate::{check::Checks, host::Host, lease::Leases, raft::Replica, view::View};
use answer::Answers;
use calls::CallMetrics;
use rollcall_core::Command;
use rollcall_core::command::Outcome;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use watch::{delta::Messenger, hub::Hub};

/// Limits of the API of one node.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Streams on one connection; default 256.
    pub streams_per_connection: u32,
    /// Largest header list in bytes; default 16 KiB.
    pub header_list_bytes: u32,
    /// Largest message in bytes; default 4 MiB.
    pub message_bytes: usize,
    /// HTTP/2 keep-alive: asked so often.
    pub keepalive: Duration,
    /// HTTP/2 keep-alive: a connection without an answer ends after this.
    pub keepalive_timeout: Duration,
    /// A unary call ends after this.
    pub request_deadline: Duration,
    /// Watches and journal tails at a time.
    pub watches: usize,
    /// Heartbeat streams at a time.
    pub heartbeat_streams: usize,
    /// Lease of an instance that does not say.
    pub default_ttl: Duration,
    /// Whether every listener is loopback, so that addresses have no limit.
    pub loopback: bool,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            streams_per_connection: 256,
            header_list_bytes: 16 * 1024,
            message_bytes: 4 << 20,
            keepalive: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            request_deadline: Duration::from_secs(10),
            watches: 20_000,
            heartbeat_streams: 20_000,
            default_ttl: Duration::from_secs(10),
            loopback: true,
        }
    }
}

/// What all services share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

/// What the API stands on.
#[derive(Debug)]
pub struct Parts {
    /// The door to the log.
    pub replica: Replica,
    /// What readers see.
    pub view: View,
    /// The lease module.
    pub leases: Leases,
    /// The active checks.
    pub checks: Checks,
    /// The watchers.
    pub hub: Hub,
    /// Clocks, sockets, disk and randomness.
    pub host: Host,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    answers: Answers,
    messenger: Arc<Messenger>,
    calls: CallMetrics,
    settings: ApiSettings,
    draining: CancellationToken,
    heartbeat_streams: Arc<AtomicUsize>,
    tails: Arc<AtomicUsize>,
}

impl Api {
    /// The API over these parts. `draining` ends every stream.
    pub fn new(parts: Parts, settings: ApiSettings, draining: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            parts,
            answers: Answers::default(),
            messenger: Arc::default(),
            calls: CallMetrics::default(),
            settings,
            draining,
            heartbeat_streams: Arc::default(),
            tails: Arc::default(),
        }))
    }

    /// What readers see.
    pub fn view(&self) -> &View {
        &self.0.parts.view
    }

    /// The door to the log.
    pub fn replica(&self) -> &Replica {
        &self.0.parts.replica
    }

    /// The lease module.
    pub fn leases(&self) -> &Leases {
        &self.0.parts.leases
    }

    /// The active checks.
    pub fn checks(&self) -> &Checks {
        &self.0.parts.checks
    }

    /// Clocks, sockets, disk and randomness.
    pub fn host(&self) -> &Host {
        &self.0.parts.host
    }

    /// The watchers.
    pub fn hub(&self) -> &Hub {
        &self.0.parts.hub
    }

    /// Messages that watchers share.
    pub fn messenger(&self) -> &Arc<Messenger> {
        &self.0.messenger
    }

    /// Counts of calls.
    pub fn calls(&self) -> &CallMetrics {
        &self.0.calls
    }

    /// The limits.
    pub fn settings(&self) -> &ApiSettings {
        &self.0.settings
    }

    /// Heartbeat streams at the moment.
    pub fn heartbeat_streams(&self) -> usize {
        self.0.heartbeat_streams.load(Ordering::Relaxed)
    }

    /// Journal tails at the moment.
    pub fn tails(&self) -> usize {
        self.0.tails.load(Ordering::Relaxed)
    }

    /// Whether this node shuts down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.is_cancelled()
    }

    /// Ends when this node begins to shut down.
    pub async fn draining(&self) {
        self.0.draining.cancelled().await;
    }

    /// As [`Api::draining`], to be kept.
    fn draining_owned(&self) -> WaitForCancellationFutureOwned {
        self.0.draining.clone().cancelled_owned()
    }

    /// The cluster as text; empty as long as this node belongs to none.
    pub fn cluster_id(&self) -> String {
        self.0.parts.replica.cluster_id().map(|id| format!("{id:032x}")).unwrap_or_default()
    }

    /// Whether nobody else holds this API any more: every connection has ended.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Has a command carried out. Never tried again here: what became of it may be unknown.
    async fn submit(&self, command: Command, caller: &Caller) -> Result<Arc<Outcome>, Status> {
        if self.is_draining() {
            return Err(status::draining());
        }
        let deadline = self.0.settings.request_deadline;
        let outcome = match caller.may_forward {
            true => self.0.parts.replica.submit(command, deadline).await,
            false => self.0.parts.replica.propose_on_leader(command, deadline).await,
        };
        let outcome = outcome.map_err(|error| status::of_submit(&error))?;
        // This node may be a follower: the answer is given once it is visible here, so that its caller reads its own
        // write, at the latest after a moment.
        let visible = self.view().reached(outcome.revision);
        let _ = tokio::time::timeout(VISIBLE, visible).await;
        Ok(outcome)
    }
}

/// A follower waits so long for its own state to show what the leader acknowledged.
const VISIBLE: Duration = Duration::from_secs(1);

/// Who calls, as far as a write needs to know.
#[derive(Debug, Clone)]
struct Caller {
    /// Where it is, for the journal.
    from: String,
    /// Whether its write may be passed on to the leader.
    may_forward: bool,
}

impl Caller {
    fn of<T>(request: &tonic::Request<T>) -> Self {
        let address: Option<SocketAddr> = request.remote_addr();
        Self {
            from: address.map(|address| address.to_string()).unwrap_or_default(),
            may_forward: !request.metadata().contains_key(calls::NO_FORWARD),
        }
    }
}

/// A place among a bounded number; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    count: Arc<AtomicUsize>,
}

impl Place {
    /// A place, unless all `limit` are taken.
    pub(crate) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < limit).then_some(count + 1)
        });
        taken.ok().map(|_| Self { count: count.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}
