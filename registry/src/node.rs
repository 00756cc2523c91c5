//! One registry server: builds the parts, wires them, owns their tasks, stops them in reverse order.

use crate::{
    api::{Api, ApiSettings, Parts, cut::cuttable, gather::gathering, watch::hub::Hub},
    check::{CheckSettings, Checks, peer::CheckServer},
    dns::{Dns, DnsError, DnsSettings, DnsSockets, stats::DnsStats},
    host::Host,
    http,
    lease::{LeaseSettings, Leases, relay::RelayServer},
    net::Listener,
    raft::{Fatal, JoinOptions, Member, Published, RaftSettings, Replica, StartError},
    view::View,
};
use rollcall_proto::internal::v1::{
    beat_relay_server::BeatRelayServer, check_peer_server::CheckPeerServer,
};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Where a node listens. Port 0 takes any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Public gRPC API.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
    /// DNS, UDP and TCP.
    pub dns: SocketAddr,
    /// The other members.
    pub peer: SocketAddr,
}

/// How a node comes into a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Begin a cluster where there is none.
    pub bootstrap: bool,
    /// Join through these, until it is in.
    pub join: JoinOptions,
}

/// Everything a node is started with.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Name for people.
    pub name: String,
    /// Its directory.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Address that others are told, where it listens on all.
    pub advertise: Option<std::net::IpAddr>,
    /// How it comes into a cluster.
    pub entry: Entry,
    /// Consensus.
    pub raft: RaftSettings,
    /// Leases.
    pub lease: LeaseSettings,
    /// Active checks.
    pub check: CheckSettings,
    /// The API.
    pub api: ApiSettings,
    /// DNS.
    pub dns: DnsSettings,
    /// Streams and calls in flight have so long to end at shutdown.
    pub shutdown_grace: Duration,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A socket could not be had.
    #[error("listen for {what} on {address}: {source}{}", advice(source))]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// DNS could not start.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// Consensus could not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program, or another node, has this port: stop it or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: choose one of its own, or a wildcard"
        }
        io::ErrorKind::PermissionDenied => {
            "; this user may not take this port: choose one above 1023"
        }
        _ => "",
    }
}

/// Connections that were cut have so long to be gone.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Where it listens, with the ports that were taken.
    pub listen: Listen,
    api: Api,
    replica: Replica,
    fatal: Fatal,
    draining: CancellationToken,
    stopping: CancellationToken,
    /// Ends every connection at once.
    cut: CancellationToken,
    grace: Duration,
    dns: Dns,
    serving: JoinSet<()>,
    working: JoinSet<()>,
    entering: JoinSet<()>,
}

impl Node {
    /// Starts a node; returns when it listens and has loaded what it had, not when it has a leader.
    ///
    /// # Errors
    /// A socket that cannot be had, data that cannot be trusted, settings that cannot work.
    pub async fn start(options: NodeOptions, host: Host) -> Result<Self, NodeError> {
        let sockets = Sockets::open(&host, options.listen, &options.dns).await?;
        let listen = sockets.listen;
        let told = |address: SocketAddr| match options.advertise {
            Some(ip) if address.ip().is_unspecified() => SocketAddr::new(ip, address.port()),
            _ => address,
        };
        let announced = Member {
            name: options.name,
            api: told(listen.grpc),
            http: told(listen.http),
            dns: told(listen.dns),
            peer: told(listen.peer),
        };
        let (fatal, view) = (Fatal::default(), View::new(options.raft.journal_events));
        let publisher = {
            let view = view.clone();
            Arc::new(move |published| view.publish(published))
        };
        let replica = Replica::start(
            options.raft,
            host.clone(),
            options.data_dir,
            announced,
            publisher,
            fatal.clone(),
        )
        .await?;
        let (leases, lease_tasks) =
            Leases::new(replica.clone(), view.clone(), host.clone(), options.lease);
        let bound = vec![listen.grpc, listen.http, listen.dns, listen.peer];
        let (checks, check_tasks) =
            Checks::new(replica.clone(), view.clone(), host.clone(), options.check, bound);
        leases.set_quick(Arc::new(checks.clone()));
        let hub = Hub::new(options.api.watches, view.seen());
        let following = hub.clone();
        let following = Box::new(move |published: &Published| following.follow(published));
        view.follow(vec![leases.follower(), checks.follower(), following]);
        let relay = BeatRelayServer::new(RelayServer(leases.clone()));
        let peers =
            Routes::new(relay).add_service(CheckPeerServer::new(CheckServer(checks.clone())));
        // Before the first peer comes: DNS must know whether there was anything on the disk.
        let dns =
            Dns::start(&options.dns, sockets.dns, host.clone(), replica.clone(), view.clone())?;
        replica.serve_peers(sockets.peer, peers);
        let (draining, marking) = (CancellationToken::new(), hub.clone().run());
        let parts = Parts { replica: replica.clone(), view, leases, checks, hub, host };
        let api = Api::new(parts, options.api, draining.clone());
        let mut node = Self {
            listen,
            api,
            replica,
            fatal,
            draining,
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            grace: options.shutdown_grace,
            dns,
            serving: JoinSet::new(),
            working: JoinSet::new(),
            entering: JoinSet::new(),
        };
        node.working.spawn(lease_tasks.run());
        node.working.spawn(check_tasks.run());
        node.working.spawn(marking);
        node.serve(sockets.grpc, sockets.http);
        node.enter(options.entry).await?;
        Ok(node)
    }

    fn serve(&mut self, grpc: Box<dyn Listener>, web: Box<dyn Listener>) {
        let cut = |listener| cuttable(listener, self.cut.clone());
        let (api, grpc, web) = (self.api.clone(), gathering(cut(grpc)), cut(web));
        self.serving.spawn(async move {
            if let Err(error) = api.serve(grpc).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });
        // HTTP goes on while the streams drain, so that an operator can look.
        let (api, stop) = (self.api.clone(), self.stopping.clone().cancelled_owned());
        let dns = self.dns.stats();
        self.working.spawn(async move {
            if let Err(error) = http::serve(web, api, dns, stop).await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
    }

    async fn enter(&mut self, entry: Entry) -> Result<(), NodeError> {
        if entry.bootstrap {
            self.replica.bootstrap().await?;
        }
        if !entry.join.seeds.is_empty() {
            let replica = self.replica.clone();
            self.entering.spawn(async move {
                match replica.join(entry.join).await {
                    Ok(standing) => tracing::info!(?standing, "joined the cluster"),
                    Err(error) => tracing::error!(%error, "this node could not join"),
                }
            });
        }
        Ok(())
    }

    /// The API of this node.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// This node's part in consensus.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What DNS has counted.
    pub fn dns_stats(&self) -> Arc<DnsStats> {
        self.dns.stats()
    }

    /// Resolves when the node can no longer be trusted; it must exit with code 70.
    pub async fn failed(&self) -> String {
        self.fatal.wait().await
    }

    /// Whether a leader is known, this node has been in step with it, and DNS answers from that.
    pub fn is_ready(&self) -> bool {
        let freshness = self.api.freshness();
        freshness.leader_known && freshness.staleness.is_some() && self.dns.is_current()
    }

    /// Resolves when a leader is known and this node has been in step with it.
    pub async fn ready(&self) {
        let mut leadership = self.replica.leadership();
        loop {
            if self.is_ready() {
                return;
            }
            let look = tokio::time::timeout(Duration::from_millis(20), leadership.changed());
            if let Ok(Err(_)) = look.await {
                return;
            }
        }
    }

    /// Ends streams properly, hands the lead over, stops everything. When it returns no task runs any more; the data
    /// directory is free once nobody holds a clone of what [`Node::api`] and [`Node::replica`] gave.
    pub async fn shutdown(mut self) {
        self.entering.shutdown().await;
        self.draining.cancel();
        if tokio::time::timeout(self.grace, self.served()).await.is_err() {
            tracing::warn!(grace = ?self.grace, "calls were still open when the grace was over");
        }
        // Lookups go on as long as there is something to look up in.
        self.dns.shutdown().await;
        self.replica.shutdown().await;
        self.stopping.cancel();
        self.cut.cancel();
        let _ = tokio::time::timeout(CUT_GRACE, self.served()).await;
        self.serving.shutdown().await;
        self.working.shutdown().await;
        // The followers hold the replica, which holds the view.
        self.api.view().forsake();
        let gone = async {
            while !self.api.is_alone() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(CUT_GRACE, gone).await;
    }

    async fn served(&mut self) {
        while self.serving.join_next().await.is_some() {}
    }
}

struct Sockets {
    listen: Listen,
    grpc: Box<dyn Listener>,
    http: Box<dyn Listener>,
    peer: Box<dyn Listener>,
    dns: DnsSockets,
}

impl Sockets {
    async fn open(
        host: &Host,
        mut listen: Listen,
        settings: &DnsSettings,
    ) -> Result<Self, NodeError> {
        let grpc = open(host, "gRPC", &mut listen.grpc).await?;
        let http = open(host, "HTTP", &mut listen.http).await?;
        let peer = open(host, "peers", &mut listen.peer).await?;
        let address = listen.dns;
        let failed = |source| NodeError::Listen { what: "DNS", address, source };
        let dns = DnsSockets::open(host, address, settings).await.map_err(failed)?;
        listen.dns = dns.address;
        Ok(Self { listen, grpc, http, peer, dns })
    }
}

async fn open(
    host: &Host,
    what: &'static str,
    address: &mut SocketAddr,
) -> Result<Box<dyn Listener>, NodeError> {
    let failed = |source| NodeError::Listen { what, address: *address, source };
    let listener = host.net.listen(*address).await.map_err(failed)?;
    *address = listener.local_addr().map_err(failed)?;
    Ok(listener)
}
