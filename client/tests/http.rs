//! HTTP over real servers on loopback: what is retried, which bodies can be sent again, and where requests go.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use axum::{Router, body::Bytes, extract::Request, http::StatusCode};
use backend::{Backend, instance, lists};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::{client::legacy, rt::TokioExecutor};
use rollcall_client::{
    Attempt, Balance, Balancer, BodyError, CallError, Deadline, Ejection, Http, HttpLayer,
    Idempotent, Observer, Outcome, Policy, Retry, v1,
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;
use tonic::body::Body;
use tower::{Layer as _, Service as _};

type Hyper = legacy::Client<legacy::connect::HttpConnector, Body>;
/// Method, path, Host and body of the requests that arrived.
type Seen = Arc<Mutex<Vec<(String, String, Bytes)>>>;

fn hyper() -> Hyper {
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

/// A server that answers with this code, and what it saw.
async fn server(code: u16) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let saw = Arc::clone(&seen);
    let answer = move |request: Request| {
        let saw = Arc::clone(&saw);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let host = head.headers["host"].to_str().unwrap().to_owned();
            saw.lock().unwrap().push((format!("{} {}", head.method, head.uri), host, body.clone()));
            (StatusCode::from_u16(code).unwrap(), body)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    (address, seen)
}

fn over(balance: Balance, addresses: &[SocketAddr]) -> Http<Hyper> {
    let (_, list) = lists(addresses.iter().copied().map(instance));
    Balancer::over(balance, list, 1).unwrap().http(hyper())
}

/// In turn, and nobody is ejected.
fn in_turn() -> Balance {
    let balance = Balance::service("web").unwrap().policy(Policy::RoundRobin);
    balance.ejection(Ejection::off())
}

fn request(method: &str, body: &'static str) -> http::Request<Full<Bytes>> {
    http::Request::builder().method(method).uri("/items/7?x=1").body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn a_request_keeps_its_path_and_goes_to_an_endpoint() {
    let (address, seen) = server(200).await;
    let mut http = over(in_turn(), &[address]);
    let answer = http.call(request("PUT", "seven")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "seven");
    let expected = ("PUT /items/7?x=1".to_owned(), address.to_string(), Bytes::from("seven"));
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn what_is_idempotent_is_sent_again_whole_and_a_post_is_not() {
    let ((bad, _), (good, seen)) = (server(503).await, server(200).await);
    let mut http = over(in_turn(), &[bad, good]);
    for _ in 0..4 {
        let answer = http.call(request("PUT", "seven")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert!(seen.lock().unwrap().iter().all(|(_, _, body)| body == "seven"));
    let mut refused = 0;
    for _ in 0..4 {
        let answer = http.call(request("POST", "seven")).await.unwrap();
        refused += usize::from(answer.status() == 503);
    }
    assert_eq!(refused, 2);
    for _ in 0..4 {
        let mut request = request("POST", "seven");
        request.extensions_mut().insert(Idempotent);
        assert_eq!(http.call(request).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_post_that_was_never_sent_is_sent_elsewhere_even_as_a_stream() {
    let (good, seen) = server(200).await;
    let gone = Backend::nobody().await;
    let (_, list) = lists([gone, good].map(instance));
    let mut http = Balancer::over(in_turn(), list, 1).unwrap().http(hyper());
    for _ in 0..4 {
        // The second half comes later: it is no body that could be kept.
        let halves = futures_util::stream::unfold(0, |at| async move {
            tokio::time::sleep(Duration::from_millis(at * 10)).await;
            let half = http_body::Frame::data(Bytes::from(["one,", "two"][at as usize % 2]));
            (at < 2).then_some((Ok::<_, Infallible>(half), at + 1))
        });
        let body = Body::new(StreamBody::new(Box::pin(halves)));
        let request = http::Request::post("/").body(body).unwrap();
        assert_eq!(http.call(request).await.unwrap().status(), 200);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|(_, _, body)| body == "one,two"), "{seen:?}");
}

#[tokio::test]
async fn a_retry_leaves_the_zone_where_nobody_else_is_in_it() {
    let ((bad, asked), (good, _)) = (server(503).await, server(200).await);
    let placed = |(address, zone): (SocketAddr, &str)| {
        let mut instance = instance(address);
        let locality = v1::Locality { zone: zone.to_owned(), ..v1::Locality::default() };
        instance.spec.as_mut().unwrap().locality = Some(locality);
        instance
    };
    let (_, list) = lists([(bad, "a"), (good, "b")].map(placed));
    let mut http = Balancer::over(in_turn().zone("a"), list, 1).unwrap().http(hyper());
    for _ in 0..4 {
        assert_eq!(http.call(request("PUT", "seven")).await.unwrap().status(), 200);
    }
    assert_eq!(asked.lock().unwrap().len(), 4, "the near one is always asked first");
}

#[tokio::test]
async fn a_body_above_the_bound_is_sent_once() {
    let ((bad, saw), (good, _)) = (server(503).await, server(200).await);
    let retry = Retry { request_bytes: 4, ..Retry::default() };
    let mut http = over(in_turn().retry(retry), &[bad, good]);
    let mut refused = 0;
    for _ in 0..4 {
        let answer = http.call(request("PUT", "seven")).await.unwrap();
        refused += usize::from(answer.status() == 503);
    }
    assert_eq!(refused, 2);
    for _ in 0..4 {
        assert_eq!(http.call(request("PUT", "four")).await.unwrap().status(), 200);
    }
    let large = |(_, _, body): &&(String, String, Bytes)| body == "seven";
    assert_eq!(saw.lock().unwrap().iter().filter(large).count(), 2);
}

#[tokio::test]
async fn a_layer_does_the_same_and_says_when_nobody_is_there() {
    let (_, list) = lists([]);
    let layer: HttpLayer = Balancer::over(in_turn(), list, 1).unwrap().http_layer();
    let error = layer.layer(hyper()).call(request("GET", "")).await.unwrap_err();
    assert!(matches!(error, CallError::Pick(_)), "{error}");
    let gone = Backend::nobody().await;
    let error = over(in_turn(), &[gone]).call(request("GET", "")).await.unwrap_err();
    assert!(matches!(error, CallError::Failed { attempts: 3, .. }), "{error}");
    assert!(error.to_string().contains(&gone.to_string()), "{error}");
}

/// How attempts ended.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Outcome>>>);

impl Observer for Told {
    fn attempt(&self, attempt: &Attempt<'_>) {
        self.0.lock().unwrap().push(attempt.outcome);
    }
}

#[tokio::test]
async fn an_answer_whose_end_nobody_asks_for_is_a_success() {
    let (address, _) = server(200).await;
    let told = Told::default();
    let mut http = over(in_turn().observer(told.clone()), &[address]);
    let answer = http.call(request("PUT", "seven")).await.unwrap();
    drop(answer);
    let answer = http.call(request("PUT", "seven")).await.unwrap();
    // As a server does that passes it on.
    let mut body = answer.into_body();
    while !http_body::Body::is_end_stream(&body) {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(*told.0.lock().unwrap(), [Outcome::Success; 2]);
}

#[tokio::test]
async fn a_body_that_stalls_ends_at_the_deadline() {
    let stall = || async {
        let begun = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from("begun"))]);
        axum::body::Body::from_stream(futures_util::StreamExt::chain(
            begun,
            futures_util::stream::pending(),
        ))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().fallback(stall)).into_future());
    let told = Told::default();
    let mut http = over(in_turn().observer(told.clone()), &[address]);
    let mut request = request("GET", "");
    request.extensions_mut().insert(Deadline::after(Duration::from_millis(300)));
    let answer = http.call(request).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), answer.into_body().collect()).await;
    let error = read.expect("an end").unwrap_err();
    assert!(
        matches!(error, BodyError::Deadline(CallError::Deadline { attempts: 1, .. })),
        "{error:?}"
    );
    assert_eq!(*told.0.lock().unwrap(), [Outcome::Timeout]);
}

#[tokio::test]
async fn a_body_that_the_caller_breaks_is_no_fault_of_the_endpoint() {
    let (address, _) = server(200).await;
    let told = Told::default();
    let mut http = over(in_turn().observer(told.clone()), &[address]);
    let parts = futures_util::stream::unfold(0, |at| async move {
        tokio::time::sleep(Duration::from_millis(at * 20)).await;
        let part = match at {
            0 => Ok(http_body::Frame::data(Bytes::from("one"))),
            _ => Err(std::io::Error::other("the file is gone")),
        };
        Some((part, at + 1))
    });
    let body = Body::new(StreamBody::new(Box::pin(parts)));
    let request = http::Request::put("/").body(body).unwrap();
    let error = http.call(request).await.unwrap_err();
    assert!(matches!(error, CallError::Failed { attempts: 1, .. }), "{error}");
    assert_eq!(*told.0.lock().unwrap(), [Outcome::Cancelled]);
}

#[tokio::test]
async fn a_retry_that_cannot_be_sent_costs_no_budget() {
    let ((bad, _), (good, _)) = (server(503).await, server(200).await);
    let retry = Retry { request_bytes: 4, budget_floor: 0, ..Retry::default() };
    let mut http = over(in_turn().retry(retry), &[bad, good]);
    // 20 calls earn 4 retries; half of them fail, and cannot be sent again.
    for _ in 0..20 {
        http.call(request("PUT", "seven")).await.unwrap();
    }
    for _ in 0..6 {
        assert_eq!(http.call(request("PUT", "four")).await.unwrap().status(), 200);
    }
}
