//! DNS as this node serves it: sockets, threads and bounds around the answers of `rollcall-dns`.
//!
//! * [`desk`]: one query in, one reply out, on what readers see at this moment; counted by [`stats`]
//! * `udp`: threads that block, one socket each, where the network has such; one loop over [`Net`] where not
//! * [`tcp`]: connections, how many of them ([`tcp::places`]) and for how long; on a thread of their own in the same case
//! * `standing`: how far the state can be trusted, and where the nodes are; `secret`: what signs the cookies
//!
//! [`Net`]: crate::net::Net

pub mod desk;
mod secret;
mod standing;
pub mod stats;
pub mod tcp;
mod udp;

use crate::{
    host::Host,
    net::{Datagrams, Listener},
    raft::Replica,
    view::View,
};
use desk::Desk;
use rollcall_core::name::Invalid;
use rollcall_dns::{Front, Settings};
use stats::DnsStats;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tcp::TcpLimits;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use udp::Threads;

/// Most threads that answer UDP.
pub const THREADS_MAX: usize = 64;
/// Port 0: a port that is free for TCP may be taken for UDP. So often another one is tried.
const PORT_TRIES: usize = 16;

/// How a node serves DNS.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsSettings {
    /// Names, TTLs, limits of the answers.
    pub front: Settings,
    /// Threads for UDP; 0 = one for each core.
    pub threads: usize,
    /// Bounds on connections.
    pub tcp: TcpLimits,
    /// A node that was not in step with a leader for so long marks its answers as stale. Longer than an election.
    pub stale_after: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            front: Settings::default(),
            threads: 0,
            tcp: TcpLimits::default(),
            stale_after: Duration::from_secs(2),
        }
    }
}

impl DnsSettings {
    fn thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if self.threads == 0 { cores() } else { self.threads };
        count.min(THREADS_MAX)
    }
}

/// Why DNS does not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A setting is out of its bounds.
    #[error("dns.{0}")]
    Setting(Invalid),
    /// The system gives no more threads or files.
    #[error("start the threads of DNS: {0}; raise the limits of this user, or lower dns.threads")]
    Threads(io::Error),
}

/// The sockets of one address, TCP and UDP on one port.
#[derive(Debug)]
pub struct DnsSockets {
    /// The address, with the port that was taken.
    pub address: SocketAddr,
    tcp: Box<dyn Listener>,
    udp: Udp,
}

#[derive(Debug)]
enum Udp {
    Threads(Vec<UdpSocket>),
    Loop(Box<dyn Datagrams>),
}

impl DnsSockets {
    /// Takes the port. TCP comes first: its listener is never shared with another process, while the UDP sockets of
    /// several processes could be without anybody noticing.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub async fn open(
        host: &Host,
        address: SocketAddr,
        settings: &DnsSettings,
    ) -> io::Result<Self> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            let tcp = host.net.listen(address).await?;
            let taken = tcp.local_addr()?;
            let udp = match host.net.bind_threads(taken, settings.thread_count()) {
                Some(sockets) => sockets.map(Udp::Threads),
                None => host.net.bind_udp(taken).await.map(Udp::Loop),
            };
            tries -= 1;
            match udp {
                Ok(udp) => return Ok(Self { address: taken, tcp, udp }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The DNS server of a node.
#[derive(Debug)]
pub struct Dns {
    desk: Arc<Desk>,
    threads: Threads,
    tasks: JoinSet<()>,
    stopping: CancellationToken,
}

impl Dns {
    /// Begins to answer.
    ///
    /// # Errors
    /// A setting out of its bounds, or a thread that cannot be had.
    pub fn start(
        settings: &DnsSettings,
        sockets: DnsSockets,
        host: Host,
        replica: Replica,
        view: View,
    ) -> Result<Self, DnsError> {
        let front = Front::new(settings.front.clone()).map_err(DnsError::Setting)?;
        let (shards, tcp_shard) = match &sockets.udp {
            // One more for what is unusual, and one for TCP.
            Udp::Threads(sockets) => (sockets.len() + 2, sockets.len() + 1),
            Udp::Loop(_) => (2, 1),
        };
        let stats = Arc::new(DnsStats::new(shards));
        let desk = Desk::new(front, view.clone(), host.clock.clone(), stats);
        let desk = Arc::new(desk);
        let stopping = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let trust = standing::Trust::new(replica.clone(), host.clone(), desk.clone());
        tasks.spawn(trust.keep(settings.stale_after, stopping.clone()));
        tasks.spawn(secret::keep(replica, view, host.random.clone(), stopping.clone()));
        let mut threads = Threads::default();
        let (random, port) = (host.random.clone(), sockets.address.port());
        let server = tcp::TcpServer::new(desk.clone(), settings.tcp.clone(), tcp_shard, random);
        let stop = stopping.clone();
        match sockets.udp {
            Udp::Threads(udp) => {
                threads.start(udp, &desk, &host.random).map_err(DnsError::Threads)?;
                let name = format!("dns-{port}-tcp");
                threads.serve(&name, server, sockets.tcp, stop).map_err(DnsError::Threads)?;
            }
            Udp::Loop(socket) => {
                let random = host.random.bits();
                tasks.spawn(udp::answer_loop(socket, desk.clone(), random, stopping.clone()));
                tasks.spawn(server.serve(sockets.tcp, stop));
            }
        }
        Ok(Self { desk, threads, tasks, stopping })
    }

    /// What it has counted.
    pub fn stats(&self) -> Arc<DnsStats> {
        self.desk.stats().clone()
    }

    /// Whether it answers from a state that is in step with a leader.
    pub fn is_current(&self) -> bool {
        self.desk.is_current()
    }

    /// Ends all of it; no thread and no task runs afterwards.
    pub async fn shutdown(&mut self) {
        self.stopping.cancel();
        self.threads.stop().await;
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Dns {
    /// A thread has nobody else to tell it.
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
