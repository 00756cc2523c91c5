//! The gRPC channel over real servers on loopback: who answers, what is retried, what an error says.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use backend::{Backend, health, instance, lists};
use rollcall_client::{Balance, Balancer, Ejection, Retry};
use std::time::Duration;
use tonic::Code;

fn web() -> Balance {
    Balance::service("web").unwrap()
}

#[tokio::test]
async fn calls_spread_over_all_backends() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let (_lists, list) = lists(backends.iter().map(|b| instance(b.address)));
    let channel = Balancer::over(web(), list, 1).unwrap().channel();
    for _ in 0..300 {
        health(&channel).await.unwrap();
    }
    let served = backends.each_ref().map(Backend::served);
    assert_eq!(served.iter().sum::<usize>(), 300);
    assert!(served.iter().all(|count| *count > 30), "{served:?}");
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
