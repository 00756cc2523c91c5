//! Real nodes on loopback sockets and temporary directories, each on a runtime of its own: killing a node is
//! dropping its runtime, so that nothing it was about to do is done. `freeze` cuts a node off without closing
//! anything.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod freeze;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollcall_core::command::PutServicePolicy;
use rollcall_core::name::ServiceName;
use rollcall_core::policy::Policy;
use rollcall_core::record::Actor;
use rollcall_core::{Command, State};
use rollcall_registry::disk::{DirLock, Disk, DiskFile, OpenMode, StdDisk};
use rollcall_registry::host::Host;
use rollcall_registry::net::{Net, TokioNet};
use rollcall_registry::raft::JoinOptions;
use rollcall_registry::raft::errors::StartError;
use rollcall_registry::raft::log::Fatal;
use rollcall_registry::raft::machine::Published;
use rollcall_registry::raft::membership::Standing;
use rollcall_registry::raft::replica::Replica;
use rollcall_registry::raft::settings::RaftSettings;
use rollcall_registry::raft::types::Member;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::service::Routes;

/// No condition of these tests takes longer on a machine that works at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Deadline of single calls.
pub(crate) const CALL: Duration = Duration::from_secs(10);

/// The disk and the network of a node.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) net: Arc<dyn Net>,
}

impl Default for World {
    fn default() -> Self {
        Self { disk: Arc::new(StdDisk), net: Arc::new(TokioNet) }
    }
}

/// What a node has published.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) applied: u64,
    /// How often the state was replaced as a whole.
    pub(crate) restored: u32,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) peer: SocketAddr,
    pub(crate) replica: Replica,
    pub(crate) fatal: Fatal,
    seen: Arc<Mutex<Seen>>,
    runtime: Option<Runtime>,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn open(
    dir: PathBuf,
    peer: SocketAddr,
    settings: RaftSettings,
    world: World,
    seen: Arc<Mutex<Seen>>,
    fatal: Fatal,
) -> Result<(Replica, SocketAddr), StartError> {
    // Each start of a node draws other ids: a wiped node must not get its old one again.
    static STARTS: AtomicU64 = AtomicU64::new(0);
    let seed = u64::from(std::process::id()) << 32 | STARTS.fetch_add(1, Ordering::Relaxed);
    let host = Host { disk: world.disk, net: world.net, ..Host::system(seed) };
    let listener = listen(&host, peer).await;
    let peer = listener.local_addr().unwrap();
    let announced = Member {
        name: format!("node-{}", peer.port()),
        api: loopback(1),
        http: loopback(2),
        dns: loopback(3),
        peer,
    };
    let publisher = Arc::new(move |published: Published| {
        let mut seen = seen.lock().unwrap();
        seen.state = published.state;
        assert!(published.applied_index >= seen.applied, "published index went back");
        seen.applied = published.applied_index;
        seen.restored += u32::from(published.restored);
    });
    let replica = Replica::start(settings, host, dir, announced, publisher, fatal).await?;
    replica.serve_peers(listener, Routes::default());
    Ok((replica, peer))
}

/// A port of a node that was just killed is free after a moment.
async fn listen(host: &Host, address: SocketAddr) -> Box<dyn rollcall_registry::net::Listener> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match host.net.listen(address).await {
            Ok(listener) => return listener,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{address}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

impl Node {
    /// Starts a node on an empty directory and any free port.
    pub(crate) fn start(settings: RaftSettings) -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), loopback(0), settings)
    }

    /// Starts a node on a directory that may hold what an earlier one has left.
    pub(crate) fn open(dir: Arc<TempDir>, peer: SocketAddr, settings: RaftSettings) -> Self {
        Self::open_in(World::default(), dir, peer, settings)
    }

    /// Starts a node in a world of the test's choice.
    pub(crate) fn open_in(
        world: World,
        dir: Arc<TempDir>,
        peer: SocketAddr,
        settings: RaftSettings,
    ) -> Self {
        let runtime = runtime();
        let (path, fatal) = (dir.path().to_owned(), Fatal::default());
        let state = State::new(1);
        let seen = Arc::new(Mutex::new(Seen { state, applied: 0, restored: 0 }));
        let opened = {
            let (seen, fatal) = (Arc::clone(&seen), fatal.clone());
            let opening = async move {
                let until = tokio::time::Instant::now() + PATIENCE;
                loop {
                    let (path, settings) = (path.clone(), settings.clone());
                    let (seen, fatal) = (Arc::clone(&seen), fatal.clone());
                    match open(path, peer, settings, world.clone(), seen, fatal).await {
                        // The threads of a killed node end a moment later.
                        Err(StartError::Store(rollcall_registry::disk::StoreError::InUse {
                            ..
                        })) if tokio::time::Instant::now() < until => {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        result => return result.unwrap(),
                    }
                }
            };
            // From a thread of its own: the tests run inside a runtime.
            std::thread::scope(|threads| {
                threads.spawn(|| runtime.block_on(opening)).join().unwrap()
            })
        };
        let (replica, peer) = opened;
        Self { dir, peer, replica, fatal, seen, runtime: Some(runtime) }
    }

    /// Runs something with the replica on the runtime of the node.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Replica) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let handle = self.runtime.as_ref().unwrap().handle();
        handle.spawn(work(self.replica.clone())).await.unwrap()
    }

    pub(crate) fn id(&self) -> u64 {
        self.replica.node_id()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn leads(&self) -> bool {
        self.replica.leadership().borrow().reign.is_some()
    }

    pub(crate) async fn bootstrap(&self) {
        assert!(self.run(|replica| async move { replica.bootstrap().await.unwrap() }).await);
        eventually("the first node leads", || self.leads()).await;
    }

    pub(crate) async fn join(&self, seeds: &[SocketAddr]) -> Standing {
        let options = JoinOptions { seeds: seeds.to_vec(), ..JoinOptions::default() };
        let join = self.run(|replica| async move { replica.join(options).await.unwrap() });
        tokio::time::timeout(PATIENCE, join).await.expect("joined in time")
    }

    /// Submits a command that makes the service `name`.
    pub(crate) async fn put(&self, name: &str) -> Result<u64, String> {
        let command = put(name);
        let outcome = self.run(|replica| async move { replica.submit(command, CALL).await }).await;
        outcome.map(|outcome| outcome.revision).map_err(|error| error.to_string())
    }

    /// Submits until it is done.
    pub(crate) async fn put_surely(&self, name: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.put(name).await {
                Ok(_) => return,
                Err(error) if tokio::time::Instant::now() > deadline => panic!("{name}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        has(&self.seen().state, name)
    }

    /// Ends the node at once, as kill -9 would; what is on its disk stays.
    pub(crate) fn kill(mut self) -> (Arc<TempDir>, SocketAddr) {
        self.runtime.take().unwrap().shutdown_background();
        (Arc::clone(&self.dir), self.peer)
    }

    /// Ends the node in order.
    pub(crate) async fn stop(mut self) -> (Arc<TempDir>, SocketAddr) {
        self.run(|replica| async move { replica.shutdown().await }).await;
        let runtime = self.runtime.take().unwrap();
        // Connections end when the other side has noticed.
        eventually("no task is left", || runtime.metrics().num_alive_tasks() == 0).await;
        runtime.shutdown_background();
        (Arc::clone(&self.dir), self.peer)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::parse("", name).unwrap()
}

pub(crate) fn put(name: &str) -> Command {
    Command::PutServicePolicy(PutServicePolicy {
        service: service(name),
        policy: Policy::default(),
        actor: Actor::Operator("test".into()),
        request_id: None,
    })
}

pub(crate) fn has(state: &State, name: &str) -> bool {
    state.service(&service(name)).is_some()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The node that leads, once one does.
pub(crate) async fn leader(nodes: &[Node]) -> usize {
    let mut found = None;
    eventually("a node leads", || {
        found = nodes.iter().position(Node::leads);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Three nodes in one cluster.
pub(crate) async fn three(settings: &RaftSettings) -> Vec<Node> {
    let nodes: Vec<Node> = (0..3).map(|_| Node::start(settings.clone())).collect();
    nodes[0].bootstrap().await;
    let seeds = [nodes[0].peer];
    for node in &nodes[1..] {
        assert_eq!(node.join(&seeds).await, Standing::Voter);
    }
    nodes
}

/// The real disk, which says on request that it is nearly full.
#[derive(Debug, Default)]
pub(crate) struct TightDisk {
    full: AtomicBool,
}

impl TightDisk {
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }
}

impl Disk for TightDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        StdDisk.open(path, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        StdDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        StdDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        StdDisk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        StdDisk.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        StdDisk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<DirLock> {
        StdDisk.lock(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        if self.full.load(Ordering::SeqCst) { Ok(1 << 20) } else { StdDisk.free_bytes(dir) }
    }
}
