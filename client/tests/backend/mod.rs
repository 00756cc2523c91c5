//! A gRPC backend on loopback that counts, waits and fails as a test says, and lists of instances.
#![allow(dead_code, reason = "each test binary uses its part")]

use http_body_util::BodyExt as _;
use rollcall_client::{Channel, v1};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, body::Body, transport::Server};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};

use tower::util::MapResponseLayer;

/// What a backend answers.
type Answer = Arc<dyn Fn(usize) -> Option<Status> + Send + Sync>;

/// How a backend spoils its answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spoil {
    /// Details that cannot be read, in the head.
    Head,
    /// The same in the trailers.
    Trailers,
    /// Nothing comes after the head, and no status in it.
    Nothing,
}

/// A backend; it stops when it is dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    served: AtomicUsize,
    delay: Mutex<Duration>,
    answer: Mutex<Option<Answer>>,
    headers: Mutex<Vec<http::HeaderMap>>,
}

struct Checks(Arc<Script>);

impl Backend {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// A backend whose answers are spoiled.
    pub(crate) async fn spoiled(spoil: Spoil) -> Self {
        Self::serve(Some(spoil)).await
    }

    async fn serve(spoil: Option<Spoil>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let script = Arc::<Script>::default();
        let service = HealthServer::new(Checks(Arc::clone(&script)));
        let spoil = MapResponseLayer::new(move |answer| spoiled(answer, spoil));
        let serving = Server::builder()
            .layer(spoil)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.expect("serve") });
        Self { address, script, task }
    }

    /// An address at which nobody listens.
    pub(crate) async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound")
    }

    /// Calls that arrived.
    pub(crate) fn served(&self) -> usize {
        self.script.served.load(Relaxed)
    }

    pub(crate) fn delay(&self, delay: Duration) {
        *self.script.delay.lock().expect("no panic") = delay;
    }

    /// Answers the call of that number (from 0) with a status, where `answer` gives one.
    pub(crate) fn answer(&self, answer: impl Fn(usize) -> Option<Status> + Send + Sync + 'static) {
        *self.script.answer.lock().expect("no panic") = Some(Arc::new(answer));
    }

    /// Metadata of the calls that arrived.
    pub(crate) fn headers(&self) -> Vec<http::HeaderMap> {
        self.script.headers.lock().expect("no panic").clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl Health for Checks {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let number = self.0.served.fetch_add(1, Relaxed);
        let headers = request.metadata().clone().into_headers();
        self.0.headers.lock().expect("no panic").push(headers);
        let delay = *self.0.delay.lock().expect("no panic");
        tokio::time::sleep(delay).await;
        let answer = self.0.answer.lock().expect("no panic").clone();
        match answer.and_then(|answer| answer(number)) {
            Some(status) => Err(status),
            None => Ok(Response::new(HealthCheckResponse { status: 1 })),
        }
    }

    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.served.fetch_add(1, Relaxed);
        Ok(Response::new(tokio_stream::pending()))
    }
}

/// Puts the code and details that are not base64 where they are asked for, or takes everything but the head away.
fn spoiled(answer: http::Response<Body>, spoil: Option<Spoil>) -> http::Response<Body> {
    let Some(spoil) = spoil else { return answer };
    let (mut head, _) = answer.into_parts();
    let details = http::HeaderValue::from_static("!!! not base64");
    match spoil {
        Spoil::Nothing => http::Response::from_parts(head, Body::empty()),
        Spoil::Head => {
            head.headers.insert("grpc-status-details-bin", details);
            http::Response::from_parts(head, Body::empty())
        }
        Spoil::Trailers => {
            head.headers.insert("grpc-status-details-bin", details);
            let trailers = std::mem::take(&mut head.headers);
            head.headers.insert("content-type", "application/grpc".parse().expect("a value"));
            let end = futures_util::future::ready(Some(Ok::<_, Status>(trailers)));
            let body = http_body_util::Empty::new().map_err(|never| match never {});
            http::Response::from_parts(head, Body::new(body.with_trailers(end)))
        }
    }
}

/// Waits for a condition, five seconds at most.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.expect("in time");
}

/// A healthy instance at an address.
pub(crate) fn instance(address: SocketAddr) -> v1::Instance {
    let endpoint = v1::Endpoint {
        name: "grpc".into(),
        host: address.ip().to_string(),
        port: address.port().into(),
        ..v1::Endpoint::default()
    };
    v1::Instance {
        instance_id: format!("i-{}", address.port()),
        spec: Some(v1::InstanceSpec { endpoints: vec![endpoint], ..v1::InstanceSpec::default() }),
        health_status: v1::HealthStatus::Healthy.into(),
        admin_state: v1::AdminState::Enabled.into(),
        generation: 1,
        ..v1::Instance::default()
    }
}

pub(crate) type Lists = watch::Sender<Vec<v1::Instance>>;

pub(crate) fn lists(
    instances: impl IntoIterator<Item = v1::Instance>,
) -> (Lists, watch::Receiver<Vec<v1::Instance>>) {
    watch::channel(instances.into_iter().collect())
}

/// One call.
pub(crate) async fn health(channel: &Channel) -> Result<(), Status> {
    let request = HealthCheckRequest { service: "web".into() };
    HealthClient::new(channel.clone()).check(request).await.map(|_| ())
}
