//! How a node comes into a cluster: by beginning one, by asking to be taken in, or, where it is a member whose
//! addresses have changed, by telling the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use rollcall_proto::internal::v1 as pb;

use super::errors::{AdminError, StartError};
use super::membership::{Applicant, Standing};
use super::peers::{Lane, call};
use super::shared::Shared;
use super::wire;

/// The first pause between two attempts; each one is twice as long, up to [`PAUSE_MAX`], with jitter.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// An invited node that is no member after this is not waited for any longer.
const INVITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// Peer addresses of members; the addresses in this node's own log are tried as well.
    pub seeds: Vec<SocketAddr>,
    /// Stay a learner.
    pub learner: bool,
    /// The member whose place this node takes: one that has lost its disk.
    pub replace: Option<u64>,
}

/// Begins a cluster. The id of a cluster begins with the id of the node that began it, so that a node that was
/// interrupted in the middle can tell its own cluster from one it was about to join.
pub(crate) async fn bootstrap(shared: &Arc<Shared>) -> Result<bool, StartError> {
    let raft_error = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    let node_id = shared.node_id();
    if shared.raft.is_initialized().await.map_err(|error| raft_error(&error))? {
        tracing::info!("bootstrap ignored: this node belongs to a cluster already");
        return Ok(false);
    }
    let cluster_id = match shared.guard.cluster_id() {
        None => u128::from(node_id) << 64 | u128::from(shared.host.random.bits()),
        Some(id) if id >> 64 == u128::from(node_id) => id,
        Some(cluster_id) => return Err(StartError::WasJoining { cluster_id }),
    };
    shared.adopt_cluster(cluster_id).await?;
    let members = BTreeMap::from([(node_id, shared.announced.clone())]);
    match shared.raft.initialize(members).await {
        Ok(()) => {
            tracing::info!(cluster = format!("{cluster_id:032x}"), "a new cluster begins");
            Ok(true)
        }
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
            tracing::info!("bootstrap ignored: this node belongs to a cluster already");
            Ok(false)
        }
        Err(error) => Err(raft_error(&error)),
    }
}

/// Asks to be taken in until it is done.
pub(crate) async fn join(
    shared: &Arc<Shared>,
    options: JoinOptions,
) -> Result<Standing, AdminError> {
    let wanted = if options.learner { Standing::Learner } else { Standing::Voter };
    let mut pause = PAUSE_MIN;
    loop {
        match ask_around(shared, &options).await? {
            Some(standing) if standing == wanted || standing == Standing::Voter => {
                tracing::info!(?standing, "this node belongs to the cluster");
                return Ok(standing);
            }
            // Taken in; promoted as soon as it has caught up.
            Some(_) => pause = PAUSE_MIN,
            None => pause = (2 * pause).min(PAUSE_MAX),
        }
        sleep(shared, pause).await?;
    }
}

/// Follows an invitation. A later one takes the place of an earlier one that has not led anywhere.
pub(crate) fn accept(shared: &Arc<Shared>, options: JoinOptions) {
    let guest = Arc::clone(shared);
    let joining = shared.tasks.spawn(async move {
        if let Err(error) = join(&guest, options).await {
            tracing::warn!(%error, "follow an invitation");
        }
    });
    let mut invited = shared.invited.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(earlier) = invited.replace(joining.abort_handle()) {
        earlier.abort();
    }
}

/// Has the node at a peer address join the cluster of this one; returns its id when it is a member.
pub(crate) async fn invite(
    shared: &Arc<Shared>,
    address: SocketAddr,
    replace: Option<u64>,
    learner: bool,
) -> Result<u64, AdminError> {
    let refused = |text: String| AdminError::Refused(text);
    if shared.guard.cluster_id().is_none() {
        return Err(refused("this node belongs to no cluster yet".to_owned()));
    }
    let mut seeds = vec![shared.announced.peer.to_string()];
    seeds.extend(shared.peers.other_addresses().iter().map(ToString::to_string));
    let replace_node_id = replace.unwrap_or_default();
    let request = pb::InviteRequest { seeds, learner, replace_node_id };
    let mut client = shared.peers.client(None, address, Lane::Control);
    let deadline = shared.settings.rpc_timeout;
    let answer = call("invite", deadline, request, |r| client.invite(r)).await;
    let id = match answer {
        Ok(answer) => answer.node_id,
        Err(status) => {
            return Err(refused(format!("invite the node at {address}: {}", status.message())));
        }
    };
    let is_in = || {
        let metrics = shared.metrics();
        let membership = metrics.committed_membership_config.membership();
        let voter = membership.voter_ids().any(|voter| voter == id);
        voter || (learner && membership.get_node(&id).is_some())
    };
    let waiting = async {
        while !is_in() {
            sleep(shared, PAUSE_MIN).await?;
        }
        Ok(id)
    };
    tokio::time::timeout(INVITE_TIMEOUT, waiting).await.unwrap_or_else(|_| {
        let text = format!("node {id:016x} at {address} has not joined in {INVITE_TIMEOUT:?}");
        Err(AdminError::Unknown(format!("{text}; its log tells why")))
    })
}

async fn sleep(shared: &Shared, pause: Duration) -> Result<(), AdminError> {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let jittered = Duration::from_millis(shared.host.random.between(millis / 2, millis));
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(AdminError::Stopped),
        () = tokio::time::sleep(jittered) => Ok(()),
    }
}

/// Asks each known address until one takes the node in; `None` where none did.
async fn ask_around(
    shared: &Arc<Shared>,
    options: &JoinOptions,
) -> Result<Option<Standing>, AdminError> {
    let own = shared.announced.peer;
    let mut asked = BTreeSet::from([own]);
    for seed in options.seeds.iter().copied().chain(shared.peers.other_addresses()) {
        if !asked.insert(seed) {
            continue;
        }
        if shared.stop.is_cancelled() {
            return Err(AdminError::Stopped);
        }
        match ask(shared, seed, options).await {
            Ok(standing) => return Ok(Some(standing)),
            Err(Refused::Disk(error)) => {
                shared.fatal.report(&error.to_string());
                return Err(AdminError::Stopped);
            }
            Err(Refused::Answer(reason)) => tracing::warn!(%seed, reason, "join the cluster"),
        }
    }
    Ok(None)
}

enum Refused {
    Answer(String),
    Disk(StartError),
}

async fn ask(
    shared: &Arc<Shared>,
    seed: SocketAddr,
    options: &JoinOptions,
) -> Result<Standing, Refused> {
    let deadline = shared.settings.rpc_timeout;
    let answer = |status: tonic::Status| Refused::Answer(status.message().to_owned());
    let mut client = shared.peers.client(None, seed, Lane::Control);
    let hello = call("hello", deadline, pb::HelloRequest {}, |r| client.hello(r)).await;
    let hello = hello.map_err(answer)?;
    let Ok(cluster_id) = u128::from_str_radix(&hello.cluster_id, 16) else {
        return Err(Refused::Answer("it belongs to no cluster yet".to_owned()));
    };
    if hello.node_id == shared.node_id() {
        return Err(Refused::Answer("it is this node itself".to_owned()));
    }
    if shared.guard.cluster_id().is_none() {
        // Before the first entry can come.
        shared.adopt_cluster(cluster_id).await.map_err(Refused::Disk)?;
    }
    let request = pb::JoinRequest {
        node_id: shared.node_id(),
        member: Some(wire::member_out(&shared.announced)),
        learner: options.learner,
        replace_node_id: options.replace.unwrap_or_default(),
        forwarded: false,
    };
    let mut client = shared.peers.client(Some(hello.node_id), seed, Lane::Control);
    // It is passed on to the leader, which commits a change.
    let deadline = 6 * shared.settings.rpc_timeout;
    let joined = call("join", deadline, request, |r| client.join(r)).await.map_err(answer)?;
    use pb::join_response::Standing as Wire;
    match joined.standing() {
        Wire::Learner => Ok(Standing::Learner),
        Wire::Voter => Ok(Standing::Voter),
        Wire::Unspecified => Err(Refused::Answer(joined.refusal)),
    }
}

/// Tells the cluster the addresses of this node where it knows others from an earlier run.
pub(crate) async fn announce(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        if sleep(&shared, pause).await.is_err() {
            return;
        }
        let known = shared.peers.member(shared.node_id());
        let Some(known) = known.filter(|known| *known != shared.announced) else {
            // Not a member, or all is well; a removed node may be taken in again later.
            pause = PAUSE_MAX;
            continue;
        };
        let voter = shared.metrics().membership_config.voter_ids().any(|id| id == shared.node_id());
        tracing::info!(old = %known, new = %shared.announced, "announce the new addresses");
        if shared.raft.is_leader() {
            let (id, member) = (shared.node_id(), shared.announced.clone());
            let applicant = Applicant { id, member, learner: !voter, replace: None };
            if let Err(error) = shared.admit(applicant).await {
                tracing::warn!(%error, "announce the new addresses");
            }
        } else {
            let options = JoinOptions { learner: !voter, ..JoinOptions::default() };
            if ask_around(&shared, &options).await.is_err() {
                return;
            }
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}
