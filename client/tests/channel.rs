//! The gRPC channel over real servers on loopback: who answers, what is retried, what an error says.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use backend::{Backend, Spoil, health, instance, lists, until};
use rollcall_client::{
    Attempt, Balance, Balancer, Deadline, Ejection, Idempotent, Observer, Outcome, Policy, Retry,
    Why, v1,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Who was asked, why, and how it ended.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(SocketAddr, Why, Outcome)>>>);

impl Observer for Told {
    fn attempt(&self, attempt: &Attempt<'_>) {
        let told = (attempt.endpoint.address(), attempt.why, attempt.outcome);
        self.0.lock().unwrap().push(told);
    }
}

impl Told {
    fn outcomes(&self) -> Vec<Outcome> {
        self.0.lock().unwrap().iter().map(|(_, _, outcome)| *outcome).collect()
    }
}

fn web() -> Balance {
    Balance::service("web").unwrap()
}

#[tokio::test]
async fn calls_spread_over_all_backends() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let (_lists, list) = lists(backends.iter().map(|b| instance(b.address)));
    let balancer = Balancer::over(web().policy(Policy::RoundRobin), list, 1).unwrap();
    let channel = balancer.channel();
    for _ in 0..300 {
        health(&channel).await.unwrap();
    }
    assert_eq!(backends.each_ref().map(Backend::served), [100, 100, 100]);
}

#[tokio::test]
async fn a_backend_that_refuses_connections_costs_no_call() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gone = Backend::nobody().await;
    let (_lists, list) = lists([one.address, two.address, gone].map(instance));
    let channel = Balancer::over(web(), list, 2).unwrap().channel();
    for _ in 0..300 {
        health(&channel).await.unwrap();
    }
    assert_eq!(one.served() + two.served(), 300);
}

#[tokio::test]
async fn without_retries_a_dead_backend_costs_few_calls() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gone = Backend::nobody().await;
    let (_lists, list) = lists([one.address, two.address, gone].map(instance));
    let balance = web().retry(Retry::off()).ejection(Ejection::default());
    let channel = Balancer::over(balance, list, 3).unwrap().channel();
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += usize::from(health(&channel).await.is_err());
    }
    assert!(failed <= 10, "{failed} of 1000 failed");
}

#[tokio::test]
async fn an_empty_list_fails_at_once_and_says_why() {
    let (_lists, list) = lists([]);
    let channel = Balancer::over(web(), list, 4).unwrap().channel();
    let status = health(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("web: no endpoint"), "{status}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_says_whom_it_asked() {
    let backend = Backend::start().await;
    backend.delay(Duration::from_secs(60));
    let (_lists, list) = lists([instance(backend.address)]);
    let balance = web().timeout(Duration::from_millis(100));
    let channel = Balancer::over(balance, list, 5).unwrap().channel();
    let status = health(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains(&backend.address.to_string()), "{status}");
}

#[tokio::test]
async fn an_idempotent_call_is_tried_elsewhere_and_another_is_not() {
    let (bad, good) = (Backend::start().await, Backend::start().await);
    bad.answer(|_| Some(Status::unavailable("not now")));
    let (_lists, list) = lists([bad.address, good.address].map(instance));
    let balance = web().policy(Policy::RoundRobin).ejection(Ejection::off());
    let channel = Balancer::over(balance, list, 6).unwrap().channel();
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(health(&channel).await.is_err());
    }
    assert_eq!((failed, bad.served(), good.served()), (5, 5, 5));
    for _ in 0..10 {
        health(&channel.idempotent()).await.unwrap();
    }
    assert_eq!(good.served(), 15);
}

#[tokio::test]
async fn a_request_can_say_of_itself_that_it_is_idempotent() {
    let (bad, good) = (Backend::start().await, Backend::start().await);
    bad.answer(|_| Some(Status::unavailable("not now")));
    let (_lists, list) = lists([bad.address, good.address].map(instance));
    let balance = web().policy(Policy::RoundRobin).ejection(Ejection::off());
    let channel = Balancer::over(balance, list, 6).unwrap().channel();
    for _ in 0..4 {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.extensions_mut().insert(Idempotent);
        HealthClient::new(channel.clone()).check(request).await.unwrap();
    }
    assert_eq!((bad.served(), good.served()), (2, 4));
}

#[tokio::test]
async fn attempts_have_a_bound_and_the_last_answer_is_given() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    backends.iter().for_each(|b| b.answer(|_| Some(Status::unavailable("not now"))));
    let (_lists, list) = lists(backends.iter().map(|b| instance(b.address)));
    let balance = web().retry(Retry::idempotent(2));
    let channel = Balancer::over(balance, list, 7).unwrap().channel();
    let status = health(&channel).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "not now"));
    let served = backends.each_ref().map(Backend::served);
    assert_eq!(served.iter().sum::<usize>(), 2);
    assert!(served.iter().all(|count| *count <= 1), "{served:?}");
}

#[tokio::test]
async fn retries_stop_when_their_budget_is_spent() {
    let backends = [Backend::start().await, Backend::start().await];
    backends.iter().for_each(|b| b.answer(|_| Some(Status::unavailable("not now"))));
    let (_lists, list) = lists(backends.iter().map(|b| instance(b.address)));
    let retry = Retry { budget: 0.1, budget_floor: 0, ..Retry::idempotent(2) };
    let channel = Balancer::over(web().retry(retry), list, 8).unwrap().channel();
    for _ in 0..200 {
        health(&channel).await.unwrap_err();
    }
    let served: usize = backends.each_ref().map(Backend::served).iter().sum();
    assert!((215..=220).contains(&served), "{served} attempts of 200 calls");
}

#[tokio::test]
async fn what_the_endpoint_asks_for_is_done() {
    for (asked, attempts) in [("-1", 1), ("soon", 1), ("60000", 1), ("30", 2)] {
        let backend = Backend::start().await;
        backend.answer(move |_| {
            let mut status = Status::unavailable("not now");
            status.metadata_mut().insert("grpc-retry-pushback-ms", asked.parse().unwrap());
            Some(status)
        });
        let (_lists, list) = lists([instance(backend.address)]);
        let channel = Balancer::over(web().retry(Retry::idempotent(2)), list, 9).unwrap().channel();
        let begun = tokio::time::Instant::now();
        health(&channel).await.unwrap_err();
        assert_eq!(backend.served(), attempts, "{asked}");
        assert!(attempts == 1 || begun.elapsed() >= Duration::from_millis(30));
    }
}

#[tokio::test]
async fn a_retry_is_given_what_is_left_of_the_deadline() {
    let (bad, good) = (Backend::start().await, Backend::start().await);
    bad.answer(|_| Some(Status::unavailable("not now")));
    bad.delay(Duration::from_millis(60));
    let (_lists, list) = lists([bad.address, good.address].map(instance));
    let balance = web().policy(Policy::RoundRobin).timeout(Duration::from_secs(5));
    let channel = Balancer::over(balance, list, 10).unwrap().channel().idempotent();
    let left = |backend: &Backend| -> Vec<Duration> {
        let parse = |headers: http::HeaderMap| {
            let metadata = tonic::metadata::MetadataMap::from_headers(headers);
            Deadline::of(&metadata).unwrap().left()
        };
        backend.headers().into_iter().map(parse).collect()
    };
    for _ in 0..2 {
        health(&channel).await.unwrap();
    }
    let (first, second) = (left(&bad), left(&good));
    assert!(first[0] > Duration::from_millis(4_900), "{first:?}");
    assert!(second.iter().any(|left| *left < Duration::from_millis(4_945)), "{second:?}");
}

#[tokio::test]
async fn a_deadline_is_handed_on_to_the_calls_that_a_call_makes() {
    let backend = Backend::start().await;
    backend.delay(Duration::from_secs(60));
    let (_lists, list) = lists([instance(backend.address)]);
    let channel = Balancer::over(web(), list, 11).unwrap().channel();
    let mut arrived = tonic::Request::new(());
    arrived.set_timeout(Duration::from_millis(80));
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.extensions_mut().insert(Deadline::of(arrived.metadata()).unwrap());
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let timeout = backend.headers()[0].get("grpc-timeout").cloned().unwrap();
    assert!(timeout.to_str().unwrap().ends_with('u'), "{timeout:?}");
}

#[tokio::test]
async fn an_endpoint_at_its_limit_is_passed_over_and_none_left_is_said() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    one.delay(Duration::from_secs(60));
    two.delay(Duration::from_secs(60));
    let (_lists, list) = lists([one.address, two.address].map(instance));
    let balancer = Balancer::over(web().concurrency(2), list, 13).unwrap();
    let channel = balancer.channel();
    let held: Vec<_> = (0..4)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { health(&channel).await })
        })
        .collect();
    let full = || one.served() == 2 && two.served() == 2;
    until(full).await;
    let status = health(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("2 calls in flight"), "{status}");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    let idle = || balancer.endpoints().unwrap().iter().all(|e| e.in_flight() == 0);
    until(idle).await;
}

#[tokio::test]
async fn a_stream_counts_until_it_is_dropped() {
    let backend = Backend::start().await;
    let (_lists, list) = lists([instance(backend.address)]);
    let balancer = Balancer::over(web(), list, 14).unwrap();
    let mut client = HealthClient::new(balancer.channel());
    let stream = client.watch(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(balancer.endpoints().unwrap()[0].in_flight(), 1);
    drop(stream);
    assert_eq!(balancer.endpoints().unwrap()[0].in_flight(), 0);
}

#[tokio::test]
async fn status_details_that_nobody_can_read_end_no_task() {
    for at in [Spoil::Head, Spoil::Trailers] {
        let backend = Backend::spoiled(at).await;
        backend.answer(|_| Some(Status::invalid_argument("no")));
        let (_lists, list) = lists([instance(backend.address)]);
        let channel = Balancer::over(web(), list, 15).unwrap().channel();
        let call = tokio::spawn(async move { health(&channel).await });
        let status = call.await.expect("no panic").unwrap_err();
        assert_eq!((status.code(), status.details()), (Code::InvalidArgument, &b""[..]), "{at:?}");
    }
}

#[tokio::test]
async fn a_call_waits_for_the_first_list() {
    let backend = Backend::start().await;
    let (lists, list) = lists([]);
    let instances = vec![instance(backend.address)];
    let balancer = Balancer::over(web(), list, 16).unwrap();
    // The task that follows has not run yet: nothing is known, and the call waits.
    lists.send_replace(instances);
    health(&balancer.channel()).await.unwrap();
}

#[tokio::test]
async fn everybody_is_told_of_every_attempt() {
    let (bad, good) = (Backend::start().await, Backend::start().await);
    bad.answer(|_| Some(Status::unavailable("not now")));
    let (_lists, list) = lists([bad.address, good.address].map(instance));
    let told = Told::default();
    let balance = web().policy(Policy::RoundRobin).observer(told.clone());
    let channel = Balancer::over(balance, list, 17).unwrap().channel().idempotent();
    for _ in 0..2 {
        health(&channel).await.unwrap();
    }
    let mut told = told.0.lock().unwrap().clone();
    told.sort();
    let mut expected = vec![
        (bad.address, Why::First, Outcome::Failure),
        (good.address, Why::First, Outcome::Success),
        (good.address, Why::Retry, Outcome::Success),
    ];
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_although_its_head_came() {
    let backend = Backend::start().await;
    let (_lists, list) = lists([instance(backend.address)]);
    let told = Told::default();
    let balancer = Balancer::over(web().observer(told.clone()), list, 18).unwrap();
    let mut client = HealthClient::new(balancer.channel());
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.message()).await;
    let status = end.expect("an end").unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains(&backend.address.to_string()), "{status}");
    assert!(stream.message().await.unwrap().is_none());
    assert_eq!(told.outcomes(), [Outcome::Timeout]);
    assert_eq!(balancer.endpoints().unwrap()[0].in_flight(), 0);
}

#[tokio::test]
async fn a_retry_leaves_the_tier_and_the_zone_where_nobody_else_is_in_it() {
    let (near, far) = (Backend::nobody().await, Backend::start().await);
    for by_zone in [false, true] {
        let placed = |address: SocketAddr, first: bool| {
            let mut instance = instance(address);
            let spec = instance.spec.as_mut().unwrap();
            let zone = if first { "a" } else { "b" }.to_owned();
            spec.priority = u32::from(!first && !by_zone);
            spec.locality = Some(v1::Locality { zone, ..v1::Locality::default() });
            instance
        };
        let (_lists, list) = lists([placed(near, true), placed(far.address, false)]);
        let balance = web().zone("a").retry(Retry::idempotent(2)).ejection(Ejection::off());
        let channel = Balancer::over(balance, list, 19).unwrap().channel();
        for _ in 0..5 {
            health(&channel).await.unwrap();
        }
    }
    assert_eq!(far.served(), 10);
}

#[tokio::test]
async fn above_the_limit_calls_leave_the_zone_before_they_are_refused() {
    let backends = [Backend::start().await, Backend::start().await];
    let placed = |at: usize| {
        let mut instance = instance(backends[at].address);
        let zone = ["a", "b"][at].to_owned();
        let spec = instance.spec.as_mut().unwrap();
        spec.locality = Some(v1::Locality { zone, ..v1::Locality::default() });
        instance
    };
    backends[0].delay(Duration::from_secs(60));
    let (_lists, list) = lists([placed(0), placed(1)]);
    let balancer = Balancer::over(web().zone("a").concurrency(1), list, 20).unwrap();
    let channel = balancer.channel();
    let held = tokio::spawn({
        let channel = channel.clone();
        async move { health(&channel).await }
    });
    until(|| backends[0].served() == 1).await;
    health(&channel).await.unwrap();
    assert_eq!(backends[1].served(), 1);
    held.abort();
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_made_elsewhere() {
    let (hangs, good) = (Backend::start().await, Backend::start().await);
    hangs.delay(Duration::from_secs(60));
    let (_lists, list) = lists([hangs.address, good.address].map(instance));
    let told = Told::default();
    let balance = web().policy(Policy::RoundRobin).observer(told.clone());
    let balance = balance.attempt_timeout(Duration::from_millis(300));
    let channel = Balancer::over(balance, list, 21).unwrap().channel();
    let mut failed = Vec::new();
    for _ in 0..2 {
        failed.extend(health(&channel).await.err());
    }
    let [status] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("attempt timeout of 300ms"), "{status}");
    for _ in 0..2 {
        health(&channel.idempotent()).await.unwrap();
    }
    let timeouts = told.outcomes().into_iter().filter(|o| *o == Outcome::Timeout).count();
    assert_eq!((timeouts, hangs.served()), (2, 2));
}
