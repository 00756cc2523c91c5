//! The gRPC probe: one call of `grpc.health.v1.Health/Check` over one connection that is gone afterwards.

use super::{Failed, Failure};
use crate::net::Connection;
use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::task::JoinSet;
use tonic::{Code, Status, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::Service;

/// Largest answer; a right one has two bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Largest header list, and largest trailers.
const HEADER_LIST_BYTES_MAX: u32 = 8 << 10;
/// What the target may send before it is read.
const WINDOW_BYTES: u32 = 16 << 10;

/// Asks for the health of `service`; the text is the status.
pub(super) async fn probe(
    connection: Connection,
    address: SocketAddr,
    service: &str,
) -> Result<String, Failed> {
    let tasks = Tasks::default();
    let mut settings = http2::Builder::new(tasks.clone());
    settings
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(WINDOW_BYTES as usize);
    let broken = |error| Failed::new(Failure::Protocol, format!("HTTP/2: {error}"));
    let opened = settings.handshake::<_, Body>(TokioIo::new(connection)).await;
    let (sender, connection) = opened.map_err(broken)?;
    let origin = Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/");
    let origin = origin.build().expect("a socket address is an authority");
    let mut client = HealthClient::with_origin(Once(sender), origin)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = client.check(HealthCheckRequest { service: service.to_owned() });
    let driven = async {
        // The call learns of the end of its connection by itself.
        let _ = connection.await;
        std::future::pending().await
    };
    let answer = tokio::select! {
        biased;
        answer = call => answer,
        never = driven => never,
    };
    judge(answer.map(|answer| answer.into_inner().status()))
}

fn judge(answer: Result<ServingStatus, Status>) -> Result<String, Failed> {
    let not_serving = |text: String| Err(Failed::new(Failure::NotServing, text));
    match answer {
        Ok(ServingStatus::Serving) => Ok("SERVING".to_owned()),
        Ok(other) => not_serving(other.as_str_name().to_owned()),
        Err(status) if status.code() == Code::Unimplemented => {
            not_serving("the target does not serve grpc.health.v1.Health".to_owned())
        }
        Err(status) if status.code() == Code::NotFound => {
            not_serving(format!("the target does not know this service: {}", status.message()))
        }
        Err(status) => {
            let text = format!("{:?}: {}", status.code(), status.message());
            Err(Failed::new(Failure::Protocol, text))
        }
    }
}

/// The one connection as a service for the generated client.
struct Once(SendRequest<Body>);

impl Service<Request<Body>> for Once {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What hyper starts beside the connection; it ends with the probe, whatever the target does.
#[derive(Debug, Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }
}
