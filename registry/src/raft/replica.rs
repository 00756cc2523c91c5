//! [`Replica`]: the only door to consensus for the rest of the server. Cheap to clone; all clones are one node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::Raft;
use rollcall_core::{Command, Outcome};
use rollcall_proto::internal::v1 as pb;
use rollcall_proto::internal::v1::peer_service_server::PeerServiceServer;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use super::duties;
use super::errors::{AdminError, ReadError, StartError, SubmitError};
use super::guard::PeerGuard;
use super::identity::Identity;
use super::join::{self, JoinOptions};
use super::leadership::{self, Leadership};
use super::log::{Fatal, LogOptions, LogStore, TAIL_BYTES_DEFAULT};
use super::machine::{Machine, Output, Publisher};
use super::membership::Standing;
use super::network::PeerNetworks;
use super::peers::{Lane, PeerChannel, Peers, call, never_arrived};
use super::reads::{self, Reads};
use super::runtime::seed_randomness;
use super::server::PeerServer;
use super::settings::{MESSAGE_BYTES_MAX, RaftSettings};
use super::shared::Shared;
use super::snapshot::{SnapshotHandle, SnapshotStore};
use super::status::Status;
use super::types::Member;
use super::wire;
use crate::disk::{DirLock, lock_data_dir};
use crate::host::Host;
use crate::net::{self, Listener};

/// Open streams on one peer connection: the commands that a node passes on, and room for everything else.
const STREAMS_MAX: u32 = 8192;
/// A stopping node waits this long for its peers to end their calls.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// One node's part in consensus.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
    /// Held until the node is shut down, or its last clone is gone: the data directory is this node's.
    lock: Arc<Mutex<Option<DirLock>>>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("guard", &self.shared.guard).finish_non_exhaustive()
    }
}

/// What is read from the data directory.
struct Stored {
    lock: DirLock,
    identity: Identity,
    log: LogStore,
    snapshots: SnapshotStore,
}

impl Stored {
    /// Blocks. Must run within the runtime where the writer of the log is a task.
    fn open(host: &Host, dir: &Path, fatal: Fatal) -> Result<Self, StartError> {
        let lock = lock_data_dir(host.disk.as_ref(), dir)?;
        let mut identity = Identity::open(Arc::clone(&host.disk), dir, &host.random)?;
        let snapshots = SnapshotStore::open(Arc::clone(&host.disk), dir, identity.cluster_id())?;
        let options = LogOptions {
            dir: dir.to_owned(),
            node_id: identity.node_id(),
            cluster_id: identity.cluster_id(),
            must_exist: identity.has_log(),
            writer: host.writer,
            tail_bytes_max: TAIL_BYTES_DEFAULT,
        };
        let log = LogStore::open(Arc::clone(&host.disk), options, fatal)?;
        identity.set_has_log()?;
        Ok(Self { lock, identity, log, snapshots })
    }
}

impl Replica {
    /// Opens what is stored in `data_dir`, replays it, publishes the state once, and takes up its part: as a
    /// member where it is one, as an empty node that waits for [`Replica::bootstrap`] or [`Replica::join`]
    /// where it is not. `announced` is what the others shall know of this node. `fatal` hears of the error
    /// that ends the node, if there is one. Peers reach the node after [`Replica::serve_peers`].
    ///
    /// # Errors
    /// Settings that cannot work; stored data that cannot be trusted.
    pub async fn start(
        settings: RaftSettings,
        host: Host,
        data_dir: PathBuf,
        announced: Member,
        publisher: Publisher,
        fatal: Fatal,
    ) -> Result<Self, StartError> {
        let config = settings.config()?;
        let settings = Arc::new(settings);
        // Nodes with equal election timeouts would campaign against each other for ever.
        seed_randomness(host.random.bits());
        let (open_host, open_fatal) = (host.clone(), fatal.clone());
        let open = move || Stored::open(&open_host, &data_dir, open_fatal);
        let stored = host.run_blocking(open).await.ok_or(StartError::Cancelled("opening"))??;
        let Stored { lock, identity, log, snapshots } = stored;

        let guard =
            PeerGuard::new(identity.node_id(), identity.cluster_id(), settings.allow_loopback);
        let peers = Arc::new(Peers::new(host.clone(), guard.clone(), &settings));
        let output = Arc::new(Output::new(publisher));
        let stop = CancellationToken::new();
        let machine = Machine::new(
            settings.journal_events,
            host.clone(),
            snapshots.clone(),
            Arc::clone(&output),
            fatal.clone(),
            stop.clone(),
        );
        let networks = PeerNetworks::new(Arc::clone(&peers), Arc::clone(&settings));
        let raft = Raft::build(guard.node_id(), config, networks, log.clone(), machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let (reads, waiters) = Reads::new(settings.waiting_reads_max);
        let in_flight = Semaphore::new(settings.in_flight_max);
        let restarted = guard.cluster_id().is_some();
        let quiet_until = restarted.then(|| Instant::now() + settings.leader_lease());
        let shared = Arc::new(Shared {
            raft,
            host,
            settings,
            announced,
            guard,
            peers,
            output,
            log,
            snapshots,
            identity: Mutex::new(identity),
            leadership: watch::Sender::new(Leadership::default()),
            reads,
            in_flight,
            changing: tokio::sync::Mutex::default(),
            invited: Mutex::default(),
            stop,
            tasks: TaskTracker::new(),
            fatal,
            stamper: Mutex::default(),
            contact: Mutex::default(),
            quiet_until,
            handing_over: AtomicU64::new(0),
        });
        shared.output.go_live();
        if restarted {
            shared.raft.runtime_config().elect(false);
        }
        shared.raft.run();
        let tasks = &shared.tasks;
        tasks.spawn(leadership::watch(Arc::clone(&shared)));
        tasks.spawn(reads::run(Arc::clone(&shared), waiters));
        duties::spawn(&shared);
        Ok(Self { shared, lock: Arc::new(Mutex::new(Some(lock))) })
    }

    /// Serves the peer service and `more` services on the peer listener, until the node shuts down.
    pub fn serve_peers(&self, listener: Box<dyn Listener>, more: Routes) {
        let shared = &self.shared;
        let service = PeerServiceServer::new(PeerServer::new(Arc::clone(shared)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let server = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(shared.settings.keep_alive))
            .http2_keepalive_timeout(Some(shared.settings.keep_alive))
            .add_routes(more.add_service(service));
        let (stop, drain) = (shared.stop.clone(), shared.stop.clone());
        let serving = server.serve_with_incoming_shutdown(net::incoming(listener), async move {
            stop.cancelled().await
        });
        shared.tasks.spawn(async move {
            let drained = async move {
                drain.cancelled().await;
                tokio::time::sleep(DRAIN_TIMEOUT).await;
            };
            tokio::select! {
                biased;
                result = serving => if let Err(error) = result {
                    tracing::error!(%error, "serve peers");
                },
                () = drained => tracing::debug!("peers did not end their calls in time"),
            }
        });
    }

    /// Begins a cluster with this node as its only member. `false`, with a notice in the log, where it belongs
    /// to one already.
    ///
    /// # Errors
    /// The node was joining another cluster; what the disk said.
    pub async fn bootstrap(&self) -> Result<bool, StartError> {
        join::bootstrap(&self.shared).await
    }

    /// Joins the cluster that the seeds belong to, and returns when this node has the standing it wants.
    /// Tries for ever, more and more slowly; never begins a cluster. Drop the future to give up.
    ///
    /// # Errors
    /// The node shuts down, or its disk failed.
    pub async fn join(&self, options: JoinOptions) -> Result<Standing, AdminError> {
        join::join(&self.shared, options).await
    }

    /// Has a command carried out: proposes it on the leader, passes it on once from elsewhere. Never tries
    /// twice. `timeout` bounds everything.
    ///
    /// # Errors
    /// See [`SubmitError`]: all but [`SubmitError::OutcomeUnknown`] mean that it has had no effect.
    pub async fn submit(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        self.shared.submit(command, timeout).await
    }

    /// Has a command carried out if this node is the leader.
    ///
    /// # Errors
    /// [`SubmitError::NotLeader`] elsewhere; else as [`Replica::submit`].
    pub async fn propose_on_leader(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        self.shared.propose(command, timeout).await
    }

    /// Has a command carried out that only the leader of `term` may have decided. It takes no place among the
    /// commands of callers, so that their number cannot delay the end of a lease: the caller bounds them.
    ///
    /// # Errors
    /// As [`Replica::propose_on_leader`]; [`SubmitError::NotLeader`] also where this node leads in another term.
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: Command,
        timeout: Duration,
    ) -> Result<Arc<Outcome>, SubmitError> {
        self.shared.propose_as(Some(term), command, timeout).await
    }

    /// Returns when everything that was acknowledged anywhere before this call is applied and published here.
    /// On any node; asks a quorum, through the leader, each time anew.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self, timeout: Duration) -> Result<(), ReadError> {
        self.shared.read_index(timeout).await
    }

    /// The newest moment of the host's monotonic clock at which everything acknowledged by then is known to be
    /// applied here. `None` until a leader was heard. A node that nobody reads from refreshes it by itself.
    pub fn fresh_as_of(&self) -> Option<Duration> {
        self.shared.fresh_as_of()
    }

    /// The leader as this node sees it, as a value to watch.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// How long ago a quorum answered this leader; `None` where this node is no leader, or never was answered.
    pub fn quorum_contact_age(&self) -> Option<Duration> {
        self.shared.quorum_contact_age()
    }

    /// As [`Replica::quorum_contact_age`], and `None` where this node does not lead in `term`.
    pub fn quorum_contact_age_in(&self, term: u64) -> Option<Duration> {
        self.shared.quorum_contact(Some(term))
    }

    /// How long a leader may trust its last contact with a quorum.
    pub fn leader_lease(&self) -> Duration {
        self.shared.settings.leader_lease()
    }

    /// Where the node stands.
    pub fn status(&self) -> Status {
        Status::of(&self.shared)
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.shared.node_id()
    }

    /// The cluster's id, once the node belongs to one.
    pub fn cluster_id(&self) -> Option<u128> {
        self.shared.guard.cluster_id()
    }

    /// What checks the requests of peers, for services beside the peer service.
    pub fn guard(&self) -> &PeerGuard {
        &self.shared.guard
    }

    /// A channel to a member, for services beside the peer service; `None` where it is no member.
    pub fn channel_to(&self, id: u64, lane: Lane) -> Option<PeerChannel> {
        let member = self.shared.peers.member(id)?;
        Some(self.shared.peers.channel(Some(id), member.peer, lane))
    }

    /// The members as they last announced themselves, learners included.
    pub fn members(&self) -> BTreeMap<u64, Member> {
        self.shared.peers.members()
    }

    /// How long ago this node heard `leader`, as its follower; `None` where another one was heard since, or nobody.
    pub fn contact_age(&self, leader: u64) -> Option<Duration> {
        self.shared.contact_age(leader, self.shared.host.clock.monotonic())
    }

    /// How many connections to peers were dialled since the start.
    pub fn dials(&self) -> u64 {
        self.shared.peers.dials()
    }

    /// Hands the lead to `to`, or to the best prepared voter; returns who leads then. Any node takes the wish.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<(), AdminError> {
        use pb::administer_request::Action;
        let to_node_id = to.unwrap_or_default();
        self.administer(Action::HandOver(pb::HandOver { to_node_id })).await
    }

    /// Has the node that listens for peers at `address`, and belongs to no cluster yet, join this one: in the
    /// place of a member that has lost its disk, or as one more; returns its id when it is a member. Any node
    /// takes the wish.
    ///
    /// # Errors
    /// See [`AdminError`]; [`AdminError::Unknown`] where it has not joined within 10 s.
    pub async fn invite(
        &self,
        address: SocketAddr,
        replace: Option<u64>,
        learner: bool,
    ) -> Result<u64, AdminError> {
        join::invite(&self.shared, address, replace, learner).await
    }

    /// Takes a node in as a learner. (A node that joins does this by itself.)
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn add_member(&self, id: u64, member: Member) -> Result<(), AdminError> {
        use pb::administer_request::Action;
        let member = Some(wire::member_out(&member));
        self.administer(Action::AddLearner(pb::NamedMember { node_id: id, member })).await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn promote(&self, id: u64) -> Result<(), AdminError> {
        use pb::administer_request::Action;
        self.administer(Action::Promote(pb::PromoteMember { node_id: id })).await
    }

    /// Removes a member.
    ///
    /// # Errors
    /// See [`AdminError`]; refused where the voters that remain would have no quorum.
    pub async fn remove_member(&self, id: u64) -> Result<(), AdminError> {
        use pb::administer_request::Action;
        self.administer(Action::Remove(pb::RemoveMember { node_id: id })).await
    }

    /// Takes an operator's wish to the leader. Waits for one as long as an outage may last: without a leader
    /// the wish has had no effect yet.
    async fn administer(&self, action: pb::administer_request::Action) -> Result<(), AdminError> {
        let until = Instant::now() + self.shared.settings.outage_max();
        loop {
            match self.administer_once(action.clone()).await {
                Err(AdminError::NoLeader { retry_after }) if Instant::now() < until => {
                    tokio::time::sleep(retry_after).await;
                }
                result => return result,
            }
        }
    }

    async fn administer_once(
        &self,
        action: pb::administer_request::Action,
    ) -> Result<(), AdminError> {
        let shared = &self.shared;
        let request = pb::AdministerRequest { action: Some(action) };
        let answer = if shared.raft.is_leader() {
            let answer = shared.administer_for_peer(request).await;
            answer.map_err(|status| AdminError::Refused(status.message().to_owned()))?
        } else {
            let no_leader = || AdminError::NoLeader { retry_after: shared.retry_after() };
            let (id, member) = shared.last_known_leader().ok_or_else(no_leader)?;
            let mut client = shared.peers.client(Some(id), member.peer, Lane::Control);
            let deadline = 6 * shared.settings.rpc_timeout;
            match call("administer", deadline, request, |r| client.administer(r)).await {
                Ok(answer) => answer,
                Err(status) if never_arrived(&status) => return Err(no_leader()),
                Err(status) => return Err(AdminError::Unknown(status.message().to_owned())),
            }
        };
        if answer.not_leader.is_some() {
            return Err(AdminError::NoLeader { retry_after: shared.retry_after() });
        }
        match (answer.refusal.as_str(), answer.unknown.as_str()) {
            ("", "") => Ok(()),
            ("", unknown) => Err(AdminError::Unknown(unknown.to_owned())),
            (refusal, _) => Err(AdminError::Refused(refusal.to_owned())),
        }
    }

    /// Makes a snapshot now and returns when it is current.
    ///
    /// # Errors
    /// Nothing is applied yet; it was not done in time; the node shuts down.
    pub async fn trigger_snapshot(&self) -> Result<SnapshotHandle, AdminError> {
        duties::snapshot_now(&self.shared).await
    }

    /// The current snapshot, to be exported.
    pub fn snapshot_handle(&self) -> Option<SnapshotHandle> {
        self.shared.snapshots.latest()
    }

    /// The addresses of peers that this node would join through.
    pub fn peer_addresses(&self) -> Vec<SocketAddr> {
        self.shared.peers.other_addresses()
    }

    /// Hands the lead over where this node has it, then stops everything: when it returns, no task runs any
    /// more and the log is closed in order. Later calls fail with "shutting down".
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        if shared.raft.is_leader() && !shared.peers.other_addresses().is_empty() {
            let hand_over = shared.hand_over(None);
            match tokio::time::timeout(shared.settings.election_timeout_max, hand_over).await {
                Ok(Ok(to)) => tracing::info!(to = format!("{to:016x}"), "handed the lead over"),
                Ok(Err(error)) => tracing::info!(%error, "hand the lead over"),
                Err(_) => tracing::info!("hand the lead over: not done in time"),
            }
        }
        shared.stop.cancel();
        if let Err(error) = shared.raft.shutdown().await {
            tracing::warn!(%error, "stop raft");
        }
        shared.tasks.close();
        shared.tasks.wait().await;
        shared.peers.close();
        if let Err(error) = shared.log.close().await {
            tracing::warn!(%error, "close the raft log");
        }
        // Nothing of this node reaches the directory any more, whoever still holds a clone.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Shared {
    /// Makes this node one of the cluster, durably, before the first entry of the cluster can come.
    pub(crate) async fn adopt_cluster(self: &Arc<Self>, id: u128) -> Result<(), StartError> {
        let shared = Arc::clone(self);
        let write = move || {
            let mut identity = shared.identity.lock().unwrap_or_else(PoisonError::into_inner);
            identity.set_cluster_id(id)
        };
        let written = self.host.run_blocking(write).await;
        written.ok_or(StartError::Cancelled("storing the cluster id"))??;
        let logged = self.log.set_cluster_id(id).await;
        logged.map_err(|error| StartError::Raft(format!("store the cluster id: {error}")))?;
        self.snapshots.set_cluster_id(id);
        self.guard.set_cluster_id(id);
        Ok(())
    }
}
