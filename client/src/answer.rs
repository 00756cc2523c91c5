//! Makes the answers of a node safe to read.
//!
//! tonic 0.14.9 panics on a `grpc-status-details-bin` that is not base64, in headers and in trailers alike. Such a value
//! is dropped before tonic sees it: the status keeps its code and its text, and has no details.

use crate::balance::details::sanitize;
use futures_util::{TryFutureExt as _, future::MapOk};
use http_body_util::BodyExt as _;
use std::task::{Context, Poll};
use tonic::{
    body::Body,
    codegen::{
        Body as HttpBody, Bytes, Service, StdError,
        http::{Request, Response},
    },
};

/// A gRPC service whose answers are safe to read.
#[derive(Debug, Clone)]
pub(crate) struct Safe<S>(pub(crate) S);

impl<S, B> Service<Request<Body>> for Safe<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<B>) -> Response<Body>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request).map_ok(safe)
    }
}

/// The same answer without details that cannot be read.
pub(crate) fn safe<B>(mut answer: Response<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    sanitize(answer.headers_mut());
    answer.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                sanitize(trailers);
            }
            frame
        }))
    })
}
