//! A scripted registry in memory: nodes that answer, refuse, fall silent or are gone, as the test says.
#![allow(dead_code, reason = "each test binary uses its part")]

use rollcall_client::{Address, Builder, Connection, Connector, v1};
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};
use v1::{
    admin_service_server::{AdminService, AdminServiceServer},
    discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
    journal_service_server::{JournalService, JournalServiceServer},
    registration_service_server::{RegistrationService, RegistrationServiceServer},
};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How a node takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dial {
    Open,
    Refused,
    Hangs,
}

/// How a node deals with beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beats {
    Acknowledged,
    Ignored,
    NoLeader,
    /// No lease is known.
    Forgotten,
    /// Acknowledged, with the wish to be left.
    GoAway,
}

/// What a unary call comes to; the default is success.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Refuse(Status),
    Hang,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) dial: Dial,
    pub(crate) dials: usize,
    pub(crate) beats: Beats,
    /// Taken one by one by the calls that come, whichever they are.
    pub(crate) script: VecDeque<Answer>,
    pub(crate) registers: Vec<(Instant, v1::RegisterRequest)>,
    pub(crate) deregisters: Vec<v1::DeregisterRequest>,
    pub(crate) admin_states: Vec<v1::SetAdminStateRequest>,
    pub(crate) resolves: Vec<v1::ResolveRequest>,
    pub(crate) transfers: usize,
    /// Beats with the number of their stream.
    pub(crate) heard: Vec<(Instant, usize, v1::StreamHeartbeatsRequest)>,
    pub(crate) streams: Vec<mpsc::Sender<Result<v1::StreamHeartbeatsResponse, Status>>>,
    pub(crate) watches: Vec<(v1::WatchRequest, mpsc::Sender<Result<v1::WatchResponse, Status>>)>,
    pub(crate) tails: Vec<(v1::TailRequest, mpsc::Sender<Result<v1::TailResponse, Status>>)>,
    /// Length of every lease that is granted, whatever was asked for.
    pub(crate) ttl: Option<prost_types::Duration>,
    sockets: Vec<tokio::task::AbortHandle>,
    generation: u64,
}

/// One node.
#[derive(Clone)]
pub(crate) struct Node(Arc<Mutex<State>>);

/// Nodes `n1`, `n2`, ... on port 8502.
pub(crate) struct Registry {
    pub(crate) nodes: Vec<Node>,
    incoming: Vec<mpsc::Sender<io::Result<DuplexStream>>>,
}

pub(crate) fn reason(code: Code, reason: &str) -> Status {
    let none = std::collections::HashMap::<String, String>::new();
    let mut details = ErrorDetails::with_error_info(reason, "rollcall.v1", none);
    if code == Code::Unavailable {
        details.set_retry_info(Some(Duration::from_millis(200)));
    }
    Status::with_error_details(code, reason.to_lowercase().replace('_', " "), details)
}

pub(crate) fn no_leader() -> Answer {
    Answer::Refuse(reason(Code::Unavailable, "NO_LEADER"))
}

impl Registry {
    pub(crate) fn start(count: usize) -> Self {
        let (mut nodes, mut incoming) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let node = Node(Arc::new(Mutex::new(State::new())));
            let (sender, connections) = mpsc::channel(16);
            let server = Server::builder()
                .add_service(RegistrationServiceServer::new(node.clone()))
                .add_service(DiscoveryServiceServer::new(node.clone()))
                .add_service(JournalServiceServer::new(node.clone()))
                .add_service(AdminServiceServer::new(node.clone()))
                .serve_with_incoming(ReceiverStream::new(connections));
            tokio::spawn(async move { server.await.expect("serve") });
            nodes.push(node);
            incoming.push(sender);
        }
        Self { nodes, incoming }
    }

    pub(crate) fn builder(&self) -> Builder {
        let names = (1..=self.nodes.len()).map(|n| format!("n{n}"));
        Builder::new(names).seed([1; 32]).connector(self.connector())
    }

    pub(crate) fn connector(&self) -> Connector {
        let (nodes, incoming) = (self.nodes.clone(), self.incoming.clone());
        Connector::new(move |address: Address| {
            let index = address.host()[1..].parse::<usize>().expect("nN") - 1;
            let (node, incoming) = (nodes[index].clone(), incoming[index].clone());
            Box::pin(async move {
                let dial = {
                    let mut state = node.state();
                    state.dials += 1;
                    state.dial
                };
                match dial {
                    Dial::Open => {}
                    Dial::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
                    Dial::Hangs => std::future::pending().await,
                }
                // A pair of pipes with a task between them, which the test can cut.
                let (ours, mut near) = tokio::io::duplex(1 << 20);
                let (mut far, theirs) = tokio::io::duplex(1 << 20);
                let between = tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                node.state().sockets.push(between.abort_handle());
                incoming.send(Ok(theirs)).await.map_err(io::Error::other)?;
                Ok(Connection::new(ours, Some("10.1.2.3:4000".parse().expect("address"))))
            })
        })
    }
}

/// One node on a real socket.
pub(crate) async fn on_loopback() -> (std::net::SocketAddr, Node) {
    let node = Node(Arc::new(Mutex::new(State::new())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let server = Server::builder()
        .add_service(RegistrationServiceServer::new(node.clone()))
        .add_service(DiscoveryServiceServer::new(node.clone()))
        .add_service(AdminServiceServer::new(node.clone()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let incoming = incoming.map(|socket| {
        let socket = socket?;
        socket.set_nodelay(true)?;
        io::Result::Ok(socket)
    });
    tokio::spawn(async move { server.serve_with_incoming(incoming).await.expect("serve") });
    (address, node)
}

impl State {
    fn new() -> Self {
        Self {
            dial: Dial::Open,
            dials: 0,
            beats: Beats::Acknowledged,
            script: VecDeque::new(),
            registers: Vec::new(),
            deregisters: Vec::new(),
            admin_states: Vec::new(),
            resolves: Vec::new(),
            transfers: 0,
            heard: Vec::new(),
            streams: Vec::new(),
            watches: Vec::new(),
            tails: Vec::new(),
            ttl: None,
            sockets: Vec::new(),
            generation: 100,
        }
    }
}

impl Node {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    /// Cuts every connection and takes no new one.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.dial = Dial::Refused;
        state.sockets.drain(..).for_each(|socket| socket.abort());
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.state().sockets.drain(..).for_each(|socket| socket.abort());
    }

    /// Waits for a condition; fails after two minutes of the test's time.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        condition: impl Fn(&mut State) -> Option<T>,
    ) -> T {
        let end = Instant::now() + Duration::from_secs(120);
        while Instant::now() < end {
            if let Some(value) = condition(&mut self.state()) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain: {what}");
    }

    async fn act(&self) -> Result<(), Status> {
        let answer = self.state().script.pop_front();
        match answer {
            None => Ok(()),
            Some(Answer::Refuse(status)) => Err(status),
            Some(Answer::Hang) => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl RegistrationService for Node {
    type StreamHeartbeatsStream = Messages<v1::StreamHeartbeatsResponse>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        self.state().registers.push((Instant::now(), request.clone()));
        self.act().await?;
        let mut state = self.state();
        let mut items = Vec::new();
        for item in &request.items {
            state.generation += 1;
            let spec = item.spec.clone().unwrap_or_default();
            let ttl = (!spec.persistent)
                .then(|| spec.ttl.unwrap_or(prost_types::Duration { seconds: 10, nanos: 0 }))
                .map(|asked| state.ttl.unwrap_or(asked));
            let third = ttl.and_then(|ttl| {
                prost_types::Duration::try_from(Duration::try_from(ttl).ok()? / 3).ok()
            });
            items.push(v1::RegistrationResult {
                generation: state.generation,
                lease_handle: if spec.persistent { 0 } else { state.generation },
                revision: state.generation,
                ttl,
                heartbeat_interval: third,
                changed: true,
                ..v1::RegistrationResult::default()
            });
        }
        let revision = state.generation;
        Ok(Response::new(v1::RegisterResponse { items, revision }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let request = request.into_inner();
        self.state().deregisters.push(request.clone());
        self.act().await?;
        let removed = v1::DeregistrationResult { removed: true };
        let items = vec![removed; request.items.len()];
        Ok(Response::new(v1::DeregisterResponse { items, revision: 7 }))
    }

    async fn set_admin_state(
        &self,
        request: Request<v1::SetAdminStateRequest>,
    ) -> Result<Response<v1::SetAdminStateResponse>, Status> {
        self.state().admin_states.push(request.into_inner());
        self.act().await?;
        let revision = self.state().generation + 1;
        Ok(Response::new(v1::SetAdminStateResponse { instance: None, revision }))
    }

    async fn stream_heartbeats(
        &self,
        request: Request<Streaming<v1::StreamHeartbeatsRequest>>,
    ) -> Result<Response<Self::StreamHeartbeatsStream>, Status> {
        let mut beats = request.into_inner();
        let (sender, messages) = mpsc::channel(64);
        let number = {
            let mut state = self.state();
            state.streams.push(sender.clone());
            state.streams.len() - 1
        };
        let node = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(beat)) = beats.next().await {
                let (sequence, handles) = (beat.sequence, beat.alive_handles.clone());
                let how = {
                    let mut state = node.state();
                    state.heard.push((Instant::now(), number, beat));
                    state.beats
                };
                let away = prost_types::Duration { seconds: 20, nanos: 0 };
                let forgotten = (how == Beats::Forgotten).then_some(handles);
                let answer = match how {
                    Beats::Ignored => continue,
                    Beats::NoLeader => Err(reason(Code::Unavailable, "NO_LEADER")),
                    Beats::Acknowledged | Beats::GoAway | Beats::Forgotten => {
                        Ok(v1::StreamHeartbeatsResponse {
                            ack_sequence: sequence,
                            reregister_handles: forgotten.unwrap_or_default(),
                            go_away_after: (how == Beats::GoAway).then_some(away),
                            ..v1::StreamHeartbeatsResponse::default()
                        })
                    }
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

#[tonic::async_trait]
impl DiscoveryService for Node {
    type WatchStream = Messages<v1::WatchResponse>;

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        self.state().resolves.push(request.into_inner());
        self.act().await?;
        Ok(Response::new(Default::default()))
    }

    async fn batch_resolve(
        &self,
        _: Request<v1::BatchResolveRequest>,
    ) -> Result<Response<v1::BatchResolveResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_instance(
        &self,
        _: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let page: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let name = v1::ServiceName { namespace: "default".into(), service: format!("s{page}") };
        let services = vec![v1::ServiceSummary { name: Some(name), ..Default::default() }];
        let next_page_token = if page < 2 { (page + 1).to_string() } else { String::new() };
        Ok(Response::new(v1::ListServicesResponse {
            services,
            next_page_token,
            read_metadata: None,
        }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.act().await?;
        let (sender, messages) = mpsc::channel(64);
        self.state().watches.push((request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

#[tonic::async_trait]
impl JournalService for Node {
    type TailStream = Messages<v1::TailResponse>;

    async fn history(
        &self,
        _: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let (sender, messages) = mpsc::channel(64);
        self.state().tails.push((request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

macro_rules! absent {
    ($($method:ident: $request:ident -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl AdminService for Node {
            type ExportSnapshotStream = Messages<v1::ExportSnapshotResponse>;

            async fn get_cluster_status(
                &self,
                _: Request<v1::GetClusterStatusRequest>,
            ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
                self.act().await?;
                Ok(Response::new(Default::default()))
            }

            async fn transfer_leader(
                &self,
                _: Request<v1::TransferLeaderRequest>,
            ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
                self.state().transfers += 1;
                self.act().await?;
                Ok(Response::new(Default::default()))
            }

            async fn export_snapshot(
                &self,
                _: Request<v1::ExportSnapshotRequest>,
            ) -> Result<Response<Self::ExportSnapshotStream>, Status> {
                let part = |offset, last| v1::ExportSnapshotResponse {
                    offset, data: vec![1, 2, 3], crc32c: 0, last,
                };
                let cut = self.state().script.pop_front().is_some();
                let parts = if cut { vec![part(0, false)] } else { vec![part(0, false), part(3, true)] };
                Ok(Response::new(Box::pin(tokio_stream::iter(parts.into_iter().map(Ok)))))
            }

            $(
                async fn $method(
                    &self,
                    _: Request<v1::$request>,
                ) -> Result<Response<v1::$answer>, Status> {
                    Err(Status::unimplemented("not in this test"))
                }
            )*
        }
    };
}

absent! {
    add_member: AddMemberRequest -> AddMemberResponse;
    promote_member: PromoteMemberRequest -> PromoteMemberResponse;
    remove_member: RemoveMemberRequest -> RemoveMemberResponse;
    trigger_snapshot: TriggerSnapshotRequest -> TriggerSnapshotResponse;
    get_service_policy: GetServicePolicyRequest -> GetServicePolicyResponse;
    put_service_policy: PutServicePolicyRequest -> PutServicePolicyResponse;
    delete_service_policy: DeleteServicePolicyRequest -> DeleteServicePolicyResponse;
    get_protection: GetProtectionRequest -> GetProtectionResponse;
    release_protection: ReleaseProtectionRequest -> ReleaseProtectionResponse;
}
