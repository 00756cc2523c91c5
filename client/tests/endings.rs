//! How answers end, and what that says of the endpoint: what is blamed on it, and what is not.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod backend;

use backend::{Backend, Spoil, health, instance, lists};
use rollcall_client::{Attempt, Balance, Balancer, Observer, Outcome, Policy, Standing};
use std::sync::{Arc, Mutex};

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
