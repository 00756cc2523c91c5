//! The nodes of the registry as this client sees them: their addresses, which one is in use, and a connection to
//! each, opened when it is first needed.

use crate::{
    answer::Safe,
    connect::{Address, Connector, Dialer},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

/// Silence on a connection after which it is asked for a sign of life.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for that sign.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const NONE: usize = usize::MAX;

/// Which of the two connections to a node. Beats have their own, so that no large answer and no unread stream can
/// stand in their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Calls,
    Beats,
}

/// A connection to a node.
pub(crate) type NodeChannel = Safe<Channel>;

/// All nodes. At least one.
#[derive(Debug)]
pub(crate) struct Nodes {
    list: Vec<Node>,
    connector: Connector,
    connect_timeout: Duration,
    /// The node that calls go to, until it fails.
    current: AtomicUsize,
    /// The node that said it leads; `NONE` = not known.
    leader: AtomicUsize,
}

#[derive(Debug)]
struct Node {
    address: Address,
    calls: Mutex<Option<NodeChannel>>,
    beats: Mutex<Option<NodeChannel>>,
    local: Arc<Mutex<Option<SocketAddr>>>,
}

impl Nodes {
    pub(crate) fn new(
        addresses: Vec<Address>,
        connector: Connector,
        connect_timeout: Duration,
    ) -> Self {
        let list = addresses.into_iter().map(Node::new).collect();
        let (current, leader) = (AtomicUsize::new(0), AtomicUsize::new(NONE));
        Self { list, connector, connect_timeout, current, leader }
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn address(&self, node: usize) -> &Address {
        &self.list[node].address
    }

    pub(crate) fn after(&self, node: usize) -> usize {
        (node + 1) % self.list.len()
    }

    /// The node to begin with.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// The node to begin a write with: the leader where one made itself known.
    pub(crate) fn for_writes(&self) -> usize {
        match self.leader.load(Ordering::Relaxed) {
            NONE => self.current(),
            leader => leader,
        }
    }

    /// `node` failed: whoever still begins with it shall begin with the next one.
    pub(crate) fn failed(&self, node: usize) {
        let (relaxed, next) = (Ordering::Relaxed, self.after(node));
        // Lost races mean that somebody else already moved on.
        let _ = self.current.compare_exchange(node, next, relaxed, relaxed);
        let _ = self.leader.compare_exchange(node, NONE, relaxed, relaxed);
    }

    /// A node named the leader. Only addresses that the caller configured are followed.
    pub(crate) fn leader_is(&self, address: &str) -> Option<usize> {
        let address = Address::parse(address).ok()?;
        let node = self.list.iter().position(|node| node.address == address)?;
        self.leader.store(node, Ordering::Relaxed);
        Some(node)
    }

    /// The connection to a node; opened by the first call on it.
    pub(crate) fn channel(&self, node: usize, lane: Lane) -> NodeChannel {
        let chosen = &self.list[node];
        let mut slot = chosen.lane(lane);
        slot.get_or_insert_with(|| self.open(chosen)).clone()
    }

    /// Drops the connection to a node that fell silent, so that the next call dials anew.
    pub(crate) fn forget(&self, node: usize, lane: Lane) {
        *self.list[node].lane(lane) = None;
    }

    /// This side's address of the last connection to a node.
    pub(crate) fn local(&self, node: usize) -> Option<SocketAddr> {
        *self.list[node].local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, node: &Node) -> NodeChannel {
        let dialer = Dialer {
            connector: self.connector.clone(),
            address: node.address.clone(),
            deadline: self.connect_timeout,
            local: Arc::clone(&node.local),
        };
        let channel = Endpoint::from_shared(format!("http://{}", node.address))
            .and_then(|e| e.user_agent(concat!("rollcall-client/", env!("CARGO_PKG_VERSION"))))
            .expect("a parsed address is a valid authority")
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(dialer);
        Safe(channel)
    }
}

impl Node {
    fn new(address: Address) -> Self {
        let (calls, beats) = (Mutex::default(), Mutex::default());
        Self { address, calls, beats, local: Arc::default() }
    }

    fn lane(&self, lane: Lane) -> MutexGuard<'_, Option<NodeChannel>> {
        let slot = match lane {
            Lane::Calls => &self.calls,
            Lane::Beats => &self.beats,
        };
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
