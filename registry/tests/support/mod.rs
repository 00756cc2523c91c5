//! What end-to-end tests share: real nodes on loopback, each with a directory of its own.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    missing_debug_implementations,
    reason = "each test binary uses a part of it, and a test may unwrap"
)]

use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient,
    discovery_service_client::DiscoveryServiceClient, journal_service_client::JournalServiceClient,
    registration_service_client::RegistrationServiceClient,
};
use rollcall_registry::{
    api::ApiSettings,
    host::Host,
    lease::LeaseSettings,
    node::{Entry, Listen, Node, NodeOptions},
    raft::{JoinOptions, RaftSettings},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for anything: a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Settings that a test may change before it starts nodes.
#[derive(Clone, Default)]
pub struct Settings {
    pub raft: RaftSettings,
    pub lease: LeaseSettings,
    pub api: ApiSettings,
}

/// One node; its directory stays when it is stopped.
pub struct Running {
    pub node: Node,
    pub dir: TempDir,
}

/// Any free port on loopback.
pub fn free() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

pub async fn start_in(dir: TempDir, settings: &Settings, entry: Entry, seed: u64) -> Running {
    let options = NodeOptions {
        name: format!("node-{seed}"),
        data_dir: dir.path().to_owned(),
        listen: Listen { grpc: free(), http: free(), dns: free(), peer: free() },
        advertise: None,
        entry,
        raft: settings.raft.clone(),
        lease: settings.lease.clone(),
        api: settings.api.clone(),
        shutdown_grace: Duration::from_secs(5),
    };
    let node = Node::start(options, Host::system(seed)).await.expect("the node starts");
    Running { node, dir }
}

/// One node that leads itself.
pub async fn single(settings: &Settings) -> Running {
    let entry = Entry { bootstrap: true, ..Entry::default() };
    let running = start_in(TempDir::new().unwrap(), settings, entry, 1).await;
    within("the node leads", running.node.ready()).await;
    running
}

/// Three nodes of one cluster, all voters.
pub async fn three(settings: &Settings) -> Vec<Running> {
    let first = single(settings).await;
    let seeds = vec![first.node.listen.peer];
    let mut nodes = vec![first];
    for seed in 2..=3 {
        let join = JoinOptions { seeds: seeds.clone(), ..JoinOptions::default() };
        let entry = Entry { bootstrap: false, join };
        nodes.push(start_in(TempDir::new().unwrap(), settings, entry, seed).await);
    }
    for running in &nodes {
        within("the node is ready", running.node.ready()).await;
    }
    let voters = || {
        let members = nodes[0].node.replica().status().members;
        let voters =
            members.values().filter(|m| m.standing == rollcall_registry::raft::Standing::Voter);
        voters.count()
    };
    eventually("three voters", || voters() == 3).await;
    nodes
}

/// Runs something that must end in time.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The index of the node that leads.
pub fn leader_of(nodes: &[Running]) -> Option<usize> {
    nodes.iter().position(|running| running.node.replica().leadership().borrow().reign.is_some())
}

impl Running {
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.node.listen.grpc)).unwrap().connect_lazy()
    }

    pub fn registration(&self) -> RegistrationServiceClient<Channel> {
        RegistrationServiceClient::new(self.channel())
    }

    pub fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel())
    }

    pub fn journal(&self) -> JournalServiceClient<Channel> {
        JournalServiceClient::new(self.channel())
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel())
    }

    /// The ids that a plain lookup answers.
    pub async fn resolve(&self, service: &str) -> Vec<String> {
        let request =
            v1::ResolveRequest { service: Some(service_name(service)), ..Default::default() };
        let response = self.discovery().resolve(request).await.expect("resolve").into_inner();
        response.instances.into_iter().map(|instance| instance.instance_id).collect()
    }
}

pub fn service_name(service: &str) -> v1::ServiceName {
    v1::ServiceName { namespace: String::new(), service: service.into() }
}

pub fn instance_name(service: &str, id: &str) -> v1::InstanceName {
    v1::InstanceName { namespace: String::new(), service: service.into(), instance_id: id.into() }
}

pub fn seconds(seconds: u64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: seconds.cast_signed(), nanos: 0 })
}

/// A registration of `service/id` with a lease of one second.
pub fn registration(service: &str, id: &str, nonce: u8) -> v1::Registration {
    v1::Registration {
        name: Some(instance_name(service, id)),
        spec: Some(v1::InstanceSpec {
            endpoints: vec![v1::Endpoint {
                name: "http".into(),
                host: "127.0.0.1".into(),
                port: 8080,
                ..Default::default()
            }],
            ttl: seconds(1),
            ..Default::default()
        }),
        owner_nonce: vec![nonce; 16],
        ..Default::default()
    }
}

pub fn batch(items: Vec<v1::Registration>) -> v1::RegisterRequest {
    v1::RegisterRequest { items, request_id: String::new() }
}
