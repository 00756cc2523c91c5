//! The HTTP probe: one request over one connection, no redirect followed, at most 4 KiB of the body read.

use super::{Failed, Failure, OUTPUT_BYTES_MAX, output::printable};
use crate::net::Connection;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rollcall_core::check::HttpProbe;
use std::{io, net::SocketAddr};
use tokio::time::{Instant, timeout_at};

/// Buffer of a connection, and so the longest head of an answer.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// A body whose end is announced is judged by its beginning; a longer one is as good as endless.
const BODY_BYTES_MAX: u64 = 16 << 20;
const USER_AGENT: &str = concat!("rollcall/", env!("CARGO_PKG_VERSION"));

/// Asks, and judges the answer. What is missing at `deadline` is not waited for.
pub(super) async fn probe(
    connection: Connection,
    address: SocketAddr,
    wanted: &HttpProbe,
    deadline: Instant,
) -> Result<String, Failed> {
    let request = request(address, wanted)?;
    let mut settings = http1::Builder::new();
    settings.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    let opened = settings.handshake(TokioIo::new(connection)).await;
    let (mut sender, connection) = opened.map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(response, wanted, deadline).await
    };
    let driven = async {
        // The exchange learns of the end of its connection by itself.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        judged = exchange => judged,
        never = driven => never,
    }
}

fn broken(error: hyper::Error) -> Failed {
    let mut text = format!("HTTP: {error}");
    let mut closed = error.is_incomplete_message();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        closed |= error.downcast_ref().is_some_and(is_end);
        source = error.source();
    }
    let why = if closed { Failure::Closed } else { Failure::Protocol };
    Failed::new(why, text)
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    [ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

fn request(address: SocketAddr, wanted: &HttpProbe) -> Result<Request<Empty<Bytes>>, Failed> {
    let unusable = |error: http::Error| {
        let text = format!("the check cannot be sent: {error}; correct its path and headers");
        Failed::new(Failure::Protocol, text)
    };
    let mut request = Request::builder()
        .method(wanted.method.as_str())
        .uri(&*wanted.path)
        .body(Empty::new())
        .map_err(unusable)?;
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&address.to_string()).map_err(|e| unusable(e.into()))?;
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in &wanted.headers {
        let name = HeaderName::try_from(&**name).map_err(|error| unusable(error.into()))?;
        let value = HeaderValue::try_from(&**value).map_err(|error| unusable(error.into()))?;
        headers.insert(name, value);
    }
    // Not for the check to choose: nothing is unpacked, and the connection is used once.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn judge(
    response: Response<Incoming>,
    wanted: &HttpProbe,
    deadline: Instant,
) -> Result<String, Failed> {
    let (head, body) = response.into_parts();
    let size = body.size_hint().exact();
    let (read, end) = read(body, deadline).await;
    let seen = shown(head.status, &read);
    let fail = |kind, why: &str| Err(Failed::new(kind, format!("{why}: {seen}")));
    if !wanted.accepts(head.status.as_u16()) {
        if head.status.is_redirection() {
            let to = head.headers.get(header::LOCATION).map(HeaderValue::as_bytes);
            let to = printable(to.unwrap_or_default(), 256);
            return fail(Failure::Redirect, &format!("redirect to {to:?} not followed"));
        }
        return fail(Failure::Code, "code not accepted");
    }
    if let Some(encoding) = packed(&head.headers) {
        let why = format!("body packed as {encoding}, which was not asked for");
        return fail(Failure::Body, &why);
    }
    match end {
        End::Whole => {}
        End::Cut if size.is_some_and(|size| size <= BODY_BYTES_MAX) => {}
        End::Cut => {
            let why = "the body is longer than 4 KiB and does not say where it ends; give the check \
                       a smaller page";
            return fail(Failure::Body, why);
        }
        End::Late => return fail(Failure::Timeout, "the body did not end in time"),
        End::Broken(error) => {
            let Failed { why, text } = broken(error);
            return fail(why, &text);
        }
    }
    if !contains(&read, wanted.body_contains.as_bytes()) {
        let why = format!("the body does not contain {:?}", wanted.body_contains);
        return fail(Failure::Body, &why);
    }
    Ok(seen)
}

/// How a body ended.
enum End {
    Whole,
    /// There is more than is read.
    Cut,
    Late,
    Broken(hyper::Error),
}

async fn read(mut body: Incoming, deadline: Instant) -> (Vec<u8>, End) {
    let mut read = Vec::new();
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => return (read, End::Late),
            Ok(None) => return (read, End::Whole),
            Ok(Some(Err(error))) => return (read, End::Broken(error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let room = OUTPUT_BYTES_MAX - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            return (read, End::Cut);
        }
    }
}

/// How the body is packed, where it is.
fn packed(headers: &HeaderMap) -> Option<String> {
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut packed = encodings.filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    packed.next().map(|value| printable(value.as_bytes(), 64))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

fn shown(status: StatusCode, body: &[u8]) -> String {
    let body = printable(body, OUTPUT_BYTES_MAX);
    let body = body.trim();
    if body.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {body}") }
}
