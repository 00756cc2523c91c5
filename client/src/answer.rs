//! Makes the answers of a node safe to read.
//!
//! tonic 0.14.9 panics on a `grpc-status-details-bin` that is not base64, in headers and in trailers alike. Here such a
//! value is dropped before tonic sees it: the status keeps its code and its text, and has no details.

use futures_util::{TryFutureExt as _, future::MapOk};
use http_body_util::BodyExt as _;
use std::task::{Context, Poll};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Body as HttpBody, Bytes, Service, StdError,
        http::{HeaderMap, Request, Response},
    },
    metadata::MetadataMap,
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
    drop_unreadable(answer.headers_mut());
    answer.map(|body| {
        Body::new(body.map_frame(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                drop_unreadable(trailers);
            }
            frame
        }))
    })
}

fn drop_unreadable(headers: &mut HeaderMap) {
    let details = Status::GRPC_STATUS_DETAILS;
    if !headers.contains_key(&details) {
        return;
    }
    let metadata = MetadataMap::from_headers(std::mem::take(headers));
    let value = metadata.get_bin(details.as_str());
    let readable = value.is_some_and(|value| value.to_bytes().is_ok());
    *headers = metadata.into_headers();
    if !readable {
        headers.remove(details);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::codegen::http::HeaderValue;

    proptest! {
        #[test]
        fn no_details_make_a_status_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static("5"));
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert("grpc-status-details-bin", value);
            }
            drop_unreadable(&mut headers);
            let status = Status::from_header_map(&headers).unwrap();
            prop_assert_eq!(status.code(), tonic::Code::NotFound);
        }
    }

    #[test]
    fn readable_details_stay() {
        let details = Bytes::from_static(b"details");
        let status = Status::with_details(tonic::Code::Aborted, "lost", details.clone());
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        drop_unreadable(&mut headers);
        assert_eq!(Status::from_header_map(&headers).unwrap().details(), details);
    }
}
