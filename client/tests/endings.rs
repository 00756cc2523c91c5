//! How answers end, and what that says of the endpoint: what is blamed on it, and what is not.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use axum::{Router, body::Bytes};
use backend::{Backend, Spoil, health, instance, lists};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use rollcall_client::{
    Answer, Attempt, Balance, Balancer, BodyError, Deadline, Observer, Outcome, Policy, Standing,
};
use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, time::sleep};
use tower::Service as _;

/// How attempts ended.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Outcome>>>);

impl Observer for Told {
    fn attempt(&self, attempt: &Attempt<'_>) {
        self.0.lock().unwrap().push(attempt.outcome);
    }
}

impl Told {
    fn outcomes(&self) -> Vec<Outcome> {
        self.0.lock().unwrap().clone()
    }
}

/// In turn, and everything is told.
fn in_turn(told: &Told) -> Balance {
    let balance = Balance::service("web").unwrap().policy(Policy::RoundRobin);
    balance.observer(told.clone())
}

/// What an HTTP server with this body answers within a deadline.
async fn got<S>(
    body: impl Fn() -> S + Clone + Send + Sync + 'static,
    within: Duration,
    told: &Told,
) -> Answer<hyper::body::Incoming>
where
    S: Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
{
    let answer = move || {
        let body = axum::body::Body::from_stream(body());
        async { body }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    let (_, list) = lists([instance(address)]);
    let hyper = legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut http = Balancer::over(in_turn(told), list, 1).unwrap().http(hyper);
    let mut request = http::Request::get("/").body(Full::<Bytes>::default()).unwrap();
    request.extensions_mut().insert(Deadline::after(within));
    http.call(request).await.unwrap().into_body()
}

#[tokio::test]
async fn a_server_that_answers_200_and_nothing_is_no_black_hole() {
    let (hole, good) = (Backend::spoiled(Spoil::Nothing).await, Backend::start().await);
    let (_lists, list) = lists([hole.address, good.address].map(instance));
    let told = Told::default();
    let balancer = Balancer::over(in_turn(&told), list, 1).unwrap();
    let channel = balancer.channel();
    let mut failed = 0;
    for _ in 0..30 {
        failed += usize::from(health(&channel).await.is_err());
    }
    let failures = told.outcomes().into_iter().filter(|o| *o == Outcome::Failure).count();
    assert_eq!(failures, failed);
    // Five in a row, and one that was picked before the list was made anew.
    assert!((5..=6).contains(&failed), "{failed} of 30 calls failed");
    let endpoints = balancer.endpoints().unwrap();
    let hole = endpoints.iter().find(|e| e.address() == hole.address).unwrap();
    assert_eq!(hole.standing(), Standing::Ejected);
}

#[tokio::test]
async fn an_answer_that_is_read_after_its_deadline_is_no_fault_of_the_endpoint() {
    let (told, whole) = (Told::default(), || stream::iter([Ok(Bytes::from("whole"))]));
    let answer = got(whole, Duration::from_millis(200), &told).await;
    sleep(Duration::from_millis(250)).await;
    let error = answer.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Deadline(_)), "{error:?}");
    assert_eq!(told.outcomes(), [Outcome::Cancelled]);
}

#[tokio::test]
async fn a_reader_that_looks_away_until_the_deadline_blames_nobody() {
    let told = Told::default();
    let soon = || {
        stream::once(async {
            sleep(Duration::from_millis(100)).await;
            Ok(Bytes::from("whole"))
        })
    };
    let mut answer = got(soon, Duration::from_millis(400), &told).await;
    // It asks once, when nothing is there yet.
    assert!(answer.frame().now_or_never().is_none());
    sleep(Duration::from_millis(450)).await;
    answer.collect().await.unwrap_err();
    assert_eq!(told.outcomes(), [Outcome::Cancelled]);
}

#[tokio::test]
async fn a_stream_that_flows_until_its_deadline_is_no_fault_of_the_endpoint() {
    let flowing = || {
        stream::repeat(Bytes::from("on")).then(|bytes| async {
            sleep(Duration::from_millis(10)).await;
            Ok(bytes)
        })
    };
    let told = Told::default();
    let answer = got(flowing, Duration::from_millis(500), &told).await;
    let error = answer.collect().await.unwrap_err();
    assert!(matches!(error, BodyError::Deadline(_)), "{error:?}");
    assert_eq!(told.outcomes(), [Outcome::Cancelled]);
}

#[tokio::test]
async fn a_stream_that_falls_silent_long_before_its_deadline_is_the_fault_of_the_endpoint() {
    let told = Told::default();
    let stalls = || stream::iter([Ok(Bytes::from("begun"))]).chain(stream::pending());
    let answer = got(stalls, Duration::from_millis(500), &told).await;
    answer.collect().await.unwrap_err();
    assert_eq!(told.outcomes(), [Outcome::Timeout]);
}

#[tokio::test]
async fn an_answer_that_is_dropped_while_it_is_read_is_no_success() {
    let told = Told::default();
    let stalls = || stream::iter([Ok(Bytes::from("begun"))]).chain(stream::pending());
    let mut answer = got(stalls, Duration::from_secs(60), &told).await;
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
    drop(answer);
    assert_eq!(told.outcomes(), [Outcome::Cancelled]);
}
