//! What end-to-end tests share: real nodes on loopback, each with a directory of its own.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    missing_debug_implementations,
    reason = "each test binary uses a part of it, and a test may unwrap"
)]

pub mod beating;
pub mod target;

use rollcall_core::{
    name::{InstanceName, ServiceName},
    record::HealthStatus,
};
use rollcall_proto::v1::{
    self, admin_service_client::AdminServiceClient,
    discovery_service_client::DiscoveryServiceClient, journal_service_client::JournalServiceClient,
    registration_service_client::RegistrationServiceClient,
};
use rollcall_registry::{
    api::ApiSettings,
    check::CheckSettings,
    dns::DnsSettings,
    host::Host,
    lease::{
        LeaseSettings,
        beat::{BeatAnswer, NotAcknowledged},
    },
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
    pub check: CheckSettings,
    pub api: ApiSettings,
    pub dns: DnsSettings,
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
    start_on(Host::system(seed), dir, settings, entry, seed).await
}

/// Starts a node on a host of the test's choice.
pub async fn start_on(
    host: Host,
    dir: TempDir,
    settings: &Settings,
    entry: Entry,
    seed: u64,
) -> Running {
    let options = options_in(&dir, settings, entry, seed);
    let node = Node::start(options, host).await.expect("the node starts");
    Running { node, dir }
}

pub fn options_in(dir: &TempDir, settings: &Settings, entry: Entry, seed: u64) -> NodeOptions {
    NodeOptions {
        name: format!("node-{seed}"),
        data_dir: dir.path().to_owned(),
        listen: Listen { grpc: free(), http: free(), dns: free(), peer: free() },
        advertise: None,
        entry,
        raft: settings.raft.clone(),
        lease: settings.lease.clone(),
        check: settings.check.clone(),
        api: settings.api.clone(),
        dns: settings.dns.clone(),
        shutdown_grace: Duration::from_secs(5),
    }
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
    three_on(settings, Host::system).await
}

/// Three nodes on hosts of the test's choice, made from the seeds 1 to 3.
pub async fn three_on(settings: &Settings, host: impl Fn(u64) -> Host) -> Vec<Running> {
    let mut nodes: Vec<Running> = Vec::new();
    for seed in 1..=3 {
        let seeds = nodes.first().map(|first| first.node.listen.peer).into_iter().collect();
        let join = JoinOptions { seeds, ..JoinOptions::default() };
        let entry = Entry { bootstrap: nodes.is_empty(), join };
        let dir = TempDir::new().unwrap();
        nodes.push(start_on(host(seed), dir, settings, entry, seed).await);
        let newest = &nodes[nodes.len() - 1];
        within("the node is ready", newest.node.ready()).await;
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

/// The index of the node that leads, once one does.
pub async fn leads(nodes: &[Running]) -> usize {
    eventually("a node leads", || leader_of(nodes).is_some()).await;
    leader_of(nodes).expect("a leader")
}

/// Stops all nodes in order.
pub async fn stop(nodes: Vec<Running>) {
    for running in nodes {
        running.node.shutdown().await;
    }
}

impl Running {
    /// The health of an instance as this node sees it; `None` where it is not listed.
    pub fn health(&self, service: &str, id: &str) -> Option<HealthStatus> {
        let name = InstanceName::parse("", service, id).unwrap();
        self.node.api().view().seen().state.instance(&name).map(|record| record.health)
    }

    /// How many instances of a service can be routed to, as this node sees it.
    pub fn routable(&self, service: &str) -> usize {
        let seen = self.node.api().view().seen();
        let service = seen.state.service(&ServiceName::parse("", service).unwrap()).cloned();
        let instances = service.iter().flat_map(|service| service.instances.values());
        instances.filter(|record| record.routable()).count()
    }

    /// Registers through this node; returns the lease handles.
    pub async fn register(&self, items: Vec<v1::Registration>) -> Vec<u64> {
        let answer = self.registration().register(batch(items)).await.expect("register");
        answer.into_inner().items.iter().map(|item| item.lease_handle).collect()
    }

    /// One beat through this node, without the wire.
    pub async fn beat(&self, handles: &[u64]) -> Result<BeatAnswer, NotAcknowledged> {
        self.node.api().leases().beat(handles.to_vec()).await
    }

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

pub mod model;

/// A registration of `service/id` that never expires.
pub fn persistent(service: &str, id: &str) -> v1::Registration {
    let mut registration = registration(service, id, 7);
    let spec = registration.spec.as_mut().unwrap();
    (spec.ttl, spec.persistent) = (None, true);
    registration
}

/// A filler of about this many bytes, in metadata.
pub fn padded(mut registration: v1::Registration, bytes: usize) -> v1::Registration {
    let spec = registration.spec.as_mut().unwrap();
    for pair in 0..bytes.div_ceil(500) {
        spec.metadata.insert(format!("pad{pair}"), "x".repeat(490));
    }
    registration
}

impl Running {
    /// Registers; returns the revision. A machine that stalls for a leader's lease has no leader for a moment: as a
    /// client would, this tries again where nothing was done.
    pub async fn enlist(&self, items: Vec<v1::Registration>) -> u64 {
        within("a registration", async {
            loop {
                match self.registration().register(batch(items.clone())).await {
                    Ok(answer) => return answer.into_inner().revision,
                    Err(status) if status.code() == tonic::Code::Unavailable => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(status) => panic!("register: {status:?}"),
                }
            }
        })
        .await
    }

    /// Deregisters one instance as an operator; returns the revision.
    pub async fn deregister(&self, service: &str, id: &str) -> u64 {
        let item =
            v1::Deregistration { name: Some(instance_name(service, id)), ..Default::default() };
        let request = v1::DeregisterRequest {
            items: vec![item],
            role: v1::Role::Operator.into(),
            ..Default::default()
        };
        self.registration().deregister(request).await.expect("deregister").into_inner().revision
    }

    /// Sets an admin state as an operator; returns the revision.
    pub async fn admin_state(&self, service: &str, id: &str, state: v1::AdminState) -> u64 {
        let request = v1::SetAdminStateRequest {
            name: Some(instance_name(service, id)),
            state: state.into(),
            role: v1::Role::Operator.into(),
            ..Default::default()
        };
        self.registration().set_admin_state(request).await.expect("admin").into_inner().revision
    }

    /// Stores a policy that only says when a service fails open.
    pub async fn fail_open_below(&self, service: &str, share: f64) -> u64 {
        let policy = v1::ServicePolicy { fail_open_below: Some(share), ..Default::default() };
        let request = v1::PutServicePolicyRequest {
            service: Some(service_name(service)),
            policy: Some(policy),
            request_id: String::new(),
        };
        self.admin().put_service_policy(request).await.expect("policy").into_inner().revision
    }

    /// Deletes a policy.
    pub async fn delete_policy(&self, service: &str) -> u64 {
        let service = Some(service_name(service));
        let request = v1::DeleteServicePolicyRequest { service, request_id: String::new() };
        self.admin().delete_service_policy(request).await.expect("policy").into_inner().revision
    }
}

/// A node on a runtime of its own: killing it is dropping the runtime, so that nothing it was about to do is done.
pub struct Killable {
    running: Option<Running>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::ops::Deref for Killable {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.running.as_ref().expect("it was not killed")
    }
}

impl Killable {
    pub async fn start(settings: &Settings, entry: Entry, seed: u64) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let settings = settings.clone();
        let start = async move { start_in(TempDir::new().unwrap(), &settings, entry, seed).await };
        let running = runtime.spawn(start).await.expect("the node starts");
        Self { running: Some(running), runtime: Some(runtime) }
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three nodes of one cluster, all voters, that can be killed.
pub async fn three_killable(settings: &Settings) -> Vec<Killable> {
    let entry = Entry { bootstrap: true, ..Entry::default() };
    let mut nodes = vec![Killable::start(settings, entry, 1).await];
    within("the first is ready", nodes[0].node.ready()).await;
    let join = JoinOptions { seeds: vec![nodes[0].node.listen.peer], ..JoinOptions::default() };
    for seed in 2..=3 {
        let entry = Entry { bootstrap: false, join: join.clone() };
        nodes.push(Killable::start(settings, entry, seed).await);
    }
    for node in &nodes {
        within("the node is ready", node.node.ready()).await;
    }
    eventually("three voters", || {
        let members = nodes[0].node.replica().status().members;
        members.len() == 3
            && members.values().all(|m| m.standing == rollcall_registry::raft::Standing::Voter)
    })
    .await;
    nodes
}

/// Which of them leads.
pub async fn leader_among(nodes: &[Killable]) -> usize {
    let leads = |node: &Killable| node.node.replica().leadership().borrow().reign.is_some();
    let mut found = None;
    eventually("a leader", || {
        found = nodes.iter().position(|node| node.runtime.is_some() && leads(node));
        found.is_some()
    })
    .await;
    found.unwrap()
}

impl Killable {
    /// Stops it in order.
    pub async fn shutdown(mut self) {
        let (running, runtime) = (self.running.take(), self.runtime.take());
        let (Some(running), Some(runtime)) = (running, runtime) else { return };
        runtime.spawn(running.node.shutdown()).await.expect("it stops");
        runtime.shutdown_background();
    }
}

/// A check of the first endpoint over TCP, every second, that fails fast.
pub fn tcp_check(id: &str) -> v1::HealthCheck {
    let tcp = v1::health_check::TcpProbe { tls: false };
    v1::HealthCheck {
        check_id: id.into(),
        interval: seconds(1),
        timeout: Some(rollcall_proto::convert::duration(Duration::from_millis(500))),
        probe: Some(v1::health_check::Probe::Tcp(tcp)),
        ..Default::default()
    }
}
