//! The connections of this node to the others: one per address and lane, dialled when first needed, kept alive
//! by pings, dropped when a peer gives no sign of life.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rollcall_proto::internal::v1::peer_service_client::PeerServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use super::guard::{PeerGuard, PeerStamp};
use super::settings::{MESSAGE_BYTES_MAX, RaftSettings};
use super::types::{Member, Membership};
use crate::host::Host;

/// A channel to one peer that puts our ids on every request.
pub type PeerChannel = InterceptedService<Channel, PeerStamp>;
pub(crate) type PeerClient = PeerServiceClient<PeerChannel>;

/// More connections than any cluster needs; beyond it all are dropped and dialled anew.
const CHANNELS_MAX: usize = 64;

/// Which connection to a peer: bulk data must not delay the signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Heartbeats, votes, read indexes, forwarded commands, beats.
    Control,
    /// Log entries and snapshots.
    Bulk,
}

/// The connections of this node.
#[derive(Debug)]
pub(crate) struct Peers {
    host: Host,
    guard: PeerGuard,
    connect_timeout: Duration,
    keep_alive: Duration,
    channels: Mutex<BTreeMap<(SocketAddr, Lane), Channel>>,
    /// The members as last announced.
    members: RwLock<BTreeMap<u64, Member>>,
    dials: Arc<AtomicU64>,
}

impl Peers {
    pub(crate) fn new(host: Host, guard: PeerGuard, settings: &RaftSettings) -> Self {
        Self {
            host,
            guard,
            connect_timeout: settings.connect_timeout,
            keep_alive: settings.keep_alive,
            channels: Mutex::default(),
            members: RwLock::default(),
            dials: Arc::default(),
        }
    }

    /// Closes all connections. A later call dials anew.
    pub(crate) fn close(&self) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn host(&self) -> Host {
        self.host.clone()
    }

    pub(crate) fn guard(&self) -> &PeerGuard {
        &self.guard
    }

    /// How many connections were dialled since the start.
    pub(crate) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    /// Takes over the addresses of a membership, and drops connections to addresses that left it.
    pub(crate) fn set_members(&self, membership: &Membership) {
        let members: BTreeMap<u64, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let mut known = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if *known == members {
            return;
        }
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.values().filter(|old| members.values().all(|new| new.peer != old.peer)) {
            channels.retain(|(address, _), _| *address != gone.peer);
        }
        *known = members;
    }

    pub(crate) fn member(&self, id: u64) -> Option<Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All members.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The peer addresses of all members but this one.
    pub(crate) fn other_addresses(&self) -> Vec<SocketAddr> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let others = members.iter().filter(|(id, _)| **id != self.guard.node_id());
        others.map(|(_, member)| member.peer).collect()
    }

    /// A client for the node at `address`; `target` is its id where it is known.
    pub(crate) fn client(
        &self,
        target: Option<u64>,
        address: SocketAddr,
        lane: Lane,
    ) -> PeerClient {
        PeerServiceClient::new(self.channel(target, address, lane))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A channel to the node at `address`, for services beside the peer service.
    pub(crate) fn channel(
        &self,
        target: Option<u64>,
        address: SocketAddr,
        lane: Lane,
    ) -> PeerChannel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= CHANNELS_MAX && !channels.contains_key(&(address, lane)) {
            channels.clear();
        }
        let channel = channels.entry((address, lane)).or_insert_with(|| self.dial_lazily(address));
        InterceptedService::new(channel.clone(), self.guard.stamp_for(target))
    }

    fn dial_lazily(&self, address: SocketAddr) -> Channel {
        let net = Arc::clone(&self.host.net);
        let (dials, timeout) = (Arc::clone(&self.dials), self.connect_timeout);
        let connector = tower::service_fn(move |_: Uri| {
            dials.fetch_add(1, Ordering::Relaxed);
            let net = Arc::clone(&net);
            async move {
                // Net sets TCP_NODELAY; tonic's own connector is not involved.
                let dial = tokio::time::timeout(timeout, net.connect(address)).await;
                dial.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
                    .map(TokioIo::new)
            }
        });
        let uri = format!("http://{address}");
        Endpoint::from_shared(uri)
            .expect("a socket address makes a valid URI")
            .http2_keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }
}

/// Makes one call with a deadline, which the other side is told as well.
///
/// # Errors
/// The status of the call; DEADLINE_EXCEEDED when no answer came in time.
pub(crate) async fn call<Q, R, F>(
    what: &str,
    deadline: Duration,
    message: Q,
    rpc: impl FnOnce(Request<Q>) -> F,
) -> Result<R, Status>
where
    F: Future<Output = Result<tonic::Response<R>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    match tokio::time::timeout(deadline, rpc(request)).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("{what}: no answer in {deadline:?}"))),
    }
}

/// Whether a failed call certainly never reached the peer: the connection could not be opened, or the peer
/// refused to look at it.
pub(crate) fn never_arrived(status: &Status) -> bool {
    if status.code() == tonic::Code::FailedPrecondition {
        return true;
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
