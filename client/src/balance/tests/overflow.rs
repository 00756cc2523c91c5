//! Where calls go that the near endpoints do not take: to tiers and zones that have no share of the traffic.

use super::*;
use crate::balance::{Hint, PickError, Policy, Why};

const POLICIES: [Policy; 7] = [
    Policy::PeakEwma,
    Policy::LeastRequest,
    Policy::RoundRobin,
    Policy::WeightedRoundRobin,
    Policy::Random,
    Policy::RingHash,
    Policy::Maglev,
];

/// `i000` is the primary, the others are its backups.
fn primary_and_backups() -> Vec<v1::Instance> {
    let backup = |number| with(number, |_, spec| spec.priority = 1);
    vec![instance(0), backup(1), backup(2)]
}

/// One endpoint in each of three zones.
fn zones() -> Vec<v1::Instance> {
    vec![in_zone(0, "eu", "a"), in_zone(1, "eu", "b"), in_zone(2, "eu", "c")]
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_leaves_the_tier_and_the_zone_where_nobody_else_is_in_it() {
    for policy in POLICIES {
        for list in [primary_and_backups(), zones()] {
            let (_lists, balancer) = over(web().policy(policy).zone("a"), list.clone(), 1).await;
            let hashed = matches!(policy, Policy::RingHash | Policy::Maglev);
            for key in 0..50_u8 {
                let first = balancer.pick_for(Hint::key([key])).unwrap();
                if !hashed || list[1].spec.as_ref().unwrap().priority == 1 {
                    assert_eq!(number(&first), 0, "{policy:?}");
                }
                let tried = [Arc::clone(first.endpoint())];
                let second = balancer.core.pick(Hint::key([key]), Why::Retry, &tried).unwrap();
                assert_ne!(number(&second), number(&first), "{policy:?}");
                let tried = [&first, &second].map(|pick| Arc::clone(pick.endpoint()));
                let third = balancer.core.pick(Hint::key([key]), Why::Retry, &tried).unwrap();
                assert!(!tried.iter().any(|e| e.key() == third.endpoint().key()), "{policy:?}");
                for pick in [first, second, third] {
                    pick.report(Outcome::Success);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_calls_go_to_other_zones_and_tiers_before_they_are_refused() {
    for policy in POLICIES {
        for list in [primary_and_backups(), zones()] {
            let balance = web().policy(policy).zone("a").concurrency(2);
            let (_lists, balancer) = over(balance, list, 1).await;
            let held: Vec<_> = (0..6).map(|_| balancer.pick().unwrap()).collect();
            assert!(balancer.endpoints().unwrap().iter().all(|e| e.in_flight() == 2), "{policy:?}");
            let refused = balancer.pick().unwrap_err();
            assert!(matches!(refused, PickError::Full { limit: 2, .. }), "{refused}");
            drop(held);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_failure_nothing_leaves_the_tier_or_the_zone() {
    for list in [primary_and_backups(), zones()] {
        let (_lists, balancer) = over(web().zone("a"), list, 1).await;
        assert_close(&shares(&balancer, 500), &[(0, 1.0)]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_nearest_is_asked_first_among_those_without_a_share() {
    // The own zone, another one, and another region.
    let mut list = zones();
    list[2] = in_zone(2, "us", "a");
    let balance = web().region("eu").zone("a").concurrency(1);
    let (_lists, balancer) = over(balance, list, 1).await;
    let order = [(); 3].map(|()| balancer.pick().unwrap());
    assert_eq!(order.each_ref().map(number), [0, 1, 2]);
}
