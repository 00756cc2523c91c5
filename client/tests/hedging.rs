//! Hedges over real servers on loopback: what they save, what they may cost, and what they say of the endpoint.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use backend::{Backend, health, instance, lists, until};
use rollcall_client::{Balance, Balancer, Channel, Hedge, Policy, Retry, Standing};
use std::{net::SocketAddr, time::Duration};
use tokio::{task::JoinSet, time::Instant};

fn web() -> Balance {
    Balance::service("web").unwrap()
}

#[tokio::test]
async fn a_hedge_beats_a_backend_that_hangs_and_stays_within_its_budget() {
    let (slow, good) = (Backend::start().await, Backend::start().await);
    slow.delay(Duration::from_secs(60));
    let (_lists, list) = lists([slow.address, good.address].map(instance));
    let hedge = Hedge { after: Some(Duration::from_millis(20)), budget: 1.0 };
    let balance = web().policy(Policy::RoundRobin).hedge(hedge).retry(Retry::idempotent(2));
    let channel = Balancer::over(balance, list.clone(), 12).unwrap().channel();
    for _ in 0..10 {
        health(&channel).await.unwrap();
    }
    assert_eq!((slow.served(), good.served()), (5, 10));
    // No budget, no hedge.
    let hedge = Hedge { after: Some(Duration::from_millis(20)), budget: 0.0 };
    let balance = web().policy(Policy::RoundRobin).hedge(hedge).retry(Retry::idempotent(2));
    let balance = balance.timeout(Duration::from_millis(200));
    let channel = Balancer::over(balance, list, 12).unwrap().channel();
    let mut failed = 0;
    for _ in 0..4 {
        failed += usize::from(health(&channel).await.is_err());
    }
    assert_eq!(failed, 2);
}

#[tokio::test]
async fn a_hedge_that_finds_its_budget_empty_is_sent_once_there_is_some() {
    let (hangs, good) = (Backend::start().await, Backend::start().await);
    hangs.delay(Duration::from_secs(60));
    let (_lists, list) = lists([hangs.address, good.address].map(instance));
    let after = Duration::from_millis(20);
    let hedge = Hedge { after: Some(after), budget: 0.3 };
    let balance = web().policy(Policy::RoundRobin).hedge(hedge).retry(Retry::idempotent(2));
    let channel =
        Balancer::over(balance.timeout(Duration::from_secs(20)), list, 12).unwrap().channel();
    // The first or the second call hangs: three calls pay for a hedge, two do not.
    let held = tokio::spawn({
        let channel = channel.clone();
        async move {
            health(&channel).await.unwrap();
            health(&channel).await
        }
    });
    until(|| hangs.served() == 1).await;
    hangs.delay(Duration::ZERO);
    // Its first moment passes with an empty budget; later calls fill that.
    tokio::time::sleep(after * 3).await;
    for _ in 0..10 {
        health(&channel).await.unwrap();
    }
    held.await.unwrap().unwrap();
}

/// In turn, with a hedge for each call after 20 ms.
fn hedged(addresses: [SocketAddr; 3]) -> Channel {
    let (_, list) = lists(addresses.map(instance));
    let hedge = Hedge { after: Some(Duration::from_millis(20)), budget: 1.0 };
    let balance = web().policy(Policy::RoundRobin).hedge(hedge).retry(Retry::idempotent(2));
    Balancer::over(balance, list, 21).unwrap().channel()
}

fn standing(channel: &Channel, address: SocketAddr) -> Standing {
    let endpoints = channel.balancer().endpoints().unwrap();
    endpoints.iter().find(|e| e.address() == address).unwrap().standing()
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_ejected_although_hedges_save_its_calls() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    backends[0].delay(Duration::from_secs(60));
    let channel = hedged(backends.each_ref().map(|b| b.address));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        health(&channel).await.unwrap();
        if standing(&channel, backends[0].address) == Standing::Ejected {
            return;
        }
    }
    panic!("{} of its calls needed a hedge", backends[0].served());
}

#[tokio::test]
async fn a_pause_and_slow_answers_between_good_ones_eject_nobody() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let channel = hedged(backends.each_ref().map(|b| b.address));
    let slow = &backends[0];
    // All that arrive in a pause are beaten at once: that is one sign, not ten.
    health(&channel).await.unwrap();
    slow.delay(Duration::from_secs(60));
    let mut calls: JoinSet<_> = (0..30)
        .map(|_| {
            let channel = channel.clone();
            async move { health(&channel).await.unwrap() }
        })
        .collect();
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!(standing(&channel, slow.address), Standing::Active);
    // Each of these is beaten, at intervals, and then one is good.
    for _ in 0..6 {
        for delay in [Duration::from_secs(60), Duration::ZERO] {
            slow.delay(delay);
            let before = slow.served();
            let asked = async {
                while slow.served() == before {
                    health(&channel).await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(5), asked).await.expect("it is asked");
        }
        tokio::time::sleep(Duration::from_millis(210)).await;
    }
    assert_eq!(standing(&channel, slow.address), Standing::Active);
}

#[tokio::test]
async fn a_hedge_that_comes_too_late_says_nothing_of_its_endpoint() {
    let (near, far) = (Backend::start().await, Backend::start().await);
    near.delay(Duration::from_millis(60));
    far.delay(Duration::from_secs(60));
    let mut behind = instance(far.address);
    behind.spec.as_mut().unwrap().priority = 1;
    let (_lists, list) = lists([instance(near.address), behind]);
    let hedge = Hedge { after: Some(Duration::from_millis(20)), budget: 1.0 };
    let balance = web().hedge(hedge).retry(Retry::idempotent(2));
    let channel = Balancer::over(balance, list, 21).unwrap().channel();
    for _ in 0..6 {
        health(&channel).await.unwrap();
        tokio::time::sleep(Duration::from_millis(210)).await;
    }
    assert_eq!((near.served(), far.served()), (6, 6));
    assert_eq!(standing(&channel, far.address), Standing::Active);
}
