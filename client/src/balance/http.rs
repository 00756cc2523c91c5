//! HTTP by service name: a tower service around any HTTP client that takes whole URIs, such as hyper's.

use super::{
    Balancer,
    answer::{Answer, Ending},
    call::{CallError, Protocol, call},
    deadline::Deadline,
    endpoint::Endpoint,
    judge::{self, Judged},
    observe::Outcome,
};
use crate::connect::BoxFuture;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, request::Parts, uri};
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tonic::body::Body;
use tower::{BoxError, Layer, Service};

/// Sends each request to an endpoint of its own, through the inner client. Of the URI of a request path and query are
/// used, and the scheme where there is one (else `http`). Always ready, cheap to clone where the inner client is.
///
/// Methods that are idempotent by definition (RFC 9110 section 9.2.2) are retried; others where the request says so.
#[derive(Debug, Clone)]
pub struct Http<S> {
    balancer: Balancer,
    inner: S,
}

/// Wraps HTTP clients into [`Http`].
#[derive(Debug, Clone)]
pub struct HttpLayer(Balancer);

/// HTTP through a client that is shared by all endpoints.
#[derive(Debug, Clone)]
struct Web<S>(S);

impl Balancer {
    /// HTTP requests to this service through `inner`, for example `hyper_util::client::legacy::Client` with bodies of
    /// type [`tonic::body::Body`].
    pub fn http<S>(&self, inner: S) -> Http<S> {
        Http { balancer: self.clone(), inner }
    }

    /// The same as a tower layer.
    pub fn http_layer(&self) -> HttpLayer {
        HttpLayer(self.clone())
    }
}

impl<S> Layer<S> for HttpLayer {
    type Service = Http<S>;

    fn layer(&self, inner: S) -> Http<S> {
        self.0.http(inner)
    }
}

impl<S, B, R> Service<Request<B>> for Http<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error: Into<BoxError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Answer<R>>;
    type Error = CallError;
    type Future = BoxFuture<Result<Self::Response, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The task that follows the list must live until the call is made.
        let (balancer, web) = (self.balancer.clone(), Web(self.inner.clone()));
        let request = request.map(Body::new);
        Box::pin(async move { call(Arc::clone(&balancer.core), web, request).await })
    }
}

impl<S, R> Protocol for Web<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error: Into<BoxError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    type Body = R;
    type Error = S::Error;
    type Service = S;

    fn service(&self, _: &Endpoint) -> S {
        self.0.clone()
    }

    fn aim(&self, request: &mut Request<Body>, endpoint: &Endpoint, _: Option<Deadline>) {
        let path = request.uri().path_and_query().cloned();
        let parts = uri::Builder::new()
            .scheme(request.uri().scheme_str().unwrap_or("http"))
            .authority(&*endpoint.authority)
            .path_and_query(path.unwrap_or_else(|| uri::PathAndQuery::from_static("/")));
        *request.uri_mut() = parts.build().unwrap_or_else(|_| Uri::default());
    }

    fn is_idempotent(&self, request: &Parts) -> bool {
        // CONNECT is not listed, and makes no sense here.
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE]
            .contains(&request.method)
    }

    fn head(&self, status: StatusCode, headers: &HeaderMap) -> Judged {
        judge::http_head(status, headers)
    }

    fn end(&self) -> Ending {
        // Who reads nothing but the head has what it wanted.
        Ending { verdict: judge::http_end, dropped: Outcome::Success, late: |_| None }
    }
}
