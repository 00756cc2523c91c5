//! Who gets how much. Each test draws 60,000 times: the deviation of a share p is sqrt(p (1-p) / 60000), for p = 1/12
//! 1.4 % of it, so that 5 % are more than three deviations; seeds are fixed.

use super::*;
use crate::balance::{Hint, Load, Policy};

const CALLS: u32 = 60_000;

fn weights() -> Vec<v1::Instance> {
    vec![weighing(1, 100), weighing(2, 200), weighing(3, 300), weighing(4, 600), weighing(5, 0)]
}

#[tokio::test(start_paused = true)]
async fn every_policy_keeps_weights_within_five_percent() {
    use Policy::*;
    for policy in [PeakEwma, LeastRequest, RoundRobin, WeightedRoundRobin, Random] {
        let (_lists, balancer) = over(web().policy(policy), weights(), 1).await;
        let expected = [(1, 1.0 / 12.0), (2, 2.0 / 12.0), (3, 3.0 / 12.0), (4, 6.0 / 12.0)];
        assert_close(&shares(&balancer, CALLS), &expected);
    }
}

#[tokio::test(start_paused = true)]
async fn round_robin_goes_round() {
    let (_lists, balancer) = over(web().policy(Policy::RoundRobin), instances(7), 3).await;
    let order: Vec<_> = (0..21).map(|_| number(&balancer.pick().unwrap())).collect();
    assert_eq!(order[..7], order[7..14]);
    assert_eq!(order[..7], order[14..]);
    assert_eq!(order[..7].iter().collect::<std::collections::BTreeSet<_>>().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn who_is_degraded_counts_half() {
    let degraded = with(1, |i, _| i.health_status = v1::HealthStatus::Degraded.into());
    let (_lists, balancer) = over(web(), vec![degraded, instance(2)], 1).await;
    assert_close(&shares(&balancer, CALLS), &[(1, 1.0 / 3.0), (2, 2.0 / 3.0)]);
}

#[tokio::test(start_paused = true)]
async fn reports_of_load_become_weights_after_the_blackout() {
    let (_lists, balancer) = over(web().policy(Policy::WeightedRoundRobin), instances(3), 1).await;
    let report = |utilization: &dyn Fn(u8) -> f64| {
        for _ in 0..30 {
            let pick = balancer.pick().unwrap();
            let utilization = utilization(number(&pick));
            let load = Load { utilization, calls_per_second: 100.0, errors_per_second: 0.0 };
            pick.report_load(load);
            pick.report(Outcome::Success);
        }
    };
    // 0 could take 100 a second, 1 twice and 2 four times that.
    let utilization = |number: u8| 1.0 / f64::from(1_u8 << number);
    report(&utilization);
    assert_close(&shares(&balancer, CALLS), &[(0, 1.0 / 3.0), (1, 1.0 / 3.0), (2, 1.0 / 3.0)]);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_close(&shares(&balancer, CALLS), &[(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 4.0 / 7.0)]);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_close(&shares(&balancer, CALLS), &[(0, 1.0 / 3.0), (1, 1.0 / 3.0), (2, 1.0 / 3.0)]);
}

#[tokio::test(start_paused = true)]
async fn told_load_that_follows_from_the_calls_comes_to_rest() {
    let (_lists, balancer) = over(web().policy(Policy::WeightedRoundRobin), instances(2), 1).await;
    let capacity = [1.0, 4.0];
    let mut rounds = Vec::new();
    for _ in 0..20 {
        let shares = shares(&balancer, 10_000);
        let busy = [0, 1].map(|at| (80.0 * shares[&at] / capacity[usize::from(at)]).round() as u8);
        for (endpoint, percent) in balancer.endpoints().unwrap().iter().zip(busy) {
            endpoint.state.set_utilization(Some(percent));
        }
        balancer.core.changed.notify_one();
        settle().await;
        rounds.push((busy, shares[&1] / shares[&0]));
    }
    // Who bears four times as much ends at the third root of four times the calls.
    let (last, before) = (rounds[19], rounds[18]);
    assert_eq!(last.0, before.0, "{rounds:?}");
    assert!((last.1 / 4.0_f64.cbrt() - 1.0).abs() < 0.05, "{rounds:?}");
}

#[tokio::test(start_paused = true)]
async fn zones_spill_over_by_the_formula() {
    // The own zone a has a sixth of the capacity for a third of the callers: 0.7 stays, and c has room for 0.3.
    let zones = [(1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "c"), (6, "c")];
    let list: Vec<_> = zones.iter().map(|(number, zone)| in_zone(*number, "", zone)).collect();
    let (_lists, balancer) = over(web().zone("a"), list.clone(), 1).await;
    assert_close(&shares(&balancer, CALLS), &[(1, 0.7), (4, 0.1), (5, 0.1), (6, 0.1)]);
    // Half of all callers are there: 1.4 / 6 / 0.5 stays; b and c have a third less a quarter, a half less a quarter.
    let (_lists, balancer) = over(web().zone("a").callers_in_zone(0.5), list.clone(), 1).await;
    let rest = 1.0 - 2.8 / 6.0;
    let (b, c) = (rest * 0.25 / 2.0, rest * 0.75 / 3.0);
    let expected = [(1, 2.8 / 6.0), (2, b), (3, b), (4, c), (5, c), (6, c)];
    assert_close(&shares(&balancer, CALLS), &expected);
    // A zone without endpoints of the service separates nothing.
    let (_lists, balancer) = over(web().zone("elsewhere"), list, 1).await;
    assert_eq!(shares(&balancer, CALLS).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn another_region_takes_only_what_the_own_one_cannot() {
    let mut list = vec![in_zone(1, "eu", "a"), in_zone(2, "eu", "b"), in_zone(3, "us", "a")];
    let (lists, balancer) = over(web().region("eu").zone("a"), list.clone(), 1).await;
    assert_close(&shares(&balancer, CALLS), &[(1, 1.0)]);
    // Half of the region is sick: it takes 0.7.
    list[0].health_status = v1::HealthStatus::Unhealthy.into();
    lists.send_replace(list);
    settle().await;
    assert_close(&shares(&balancer, CALLS), &[(2, 0.7), (3, 0.3)]);
}

#[tokio::test(start_paused = true)]
async fn a_tier_spills_over_when_less_than_five_sevenths_of_it_are_left() {
    let tiered = |number: u8, priority: u32, healthy: bool| {
        with(number, |instance, spec| {
            spec.priority = priority;
            if !healthy {
                instance.health_status = v1::HealthStatus::Unhealthy.into();
            }
        })
    };
    let list = |left: u8| -> Vec<_> {
        (0..4).map(|n| tiered(n, 0, n < left)).chain([tiered(9, 7, true)]).collect()
    };
    let (lists, balancer) = over(web(), list(3), 1).await;
    assert_eq!(shares(&balancer, CALLS).keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    lists.send_replace(list(2));
    settle().await;
    assert_close(&shares(&balancer, CALLS), &[(0, 0.35), (1, 0.35), (9, 0.3)]);
    lists.send_replace(list(0));
    settle().await;
    assert_close(&shares(&balancer, CALLS), &[(9, 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_starts_slowly() {
    let balance = web().policy(Policy::Random).slow_start(Duration::from_secs(30));
    let (lists, balancer) = over(balance, instances(3), 1).await;
    assert_close(&shares(&balancer, CALLS), &[(0, 1.0 / 3.0), (1, 1.0 / 3.0), (2, 1.0 / 3.0)]);
    lists.send_replace(instances(4));
    settle().await;
    // A tenth of its weight at first, half of it after half of the time.
    for (wait, weight) in [(0, 0.1), (15_500, 0.5), (16_000, 1.0)] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let share = shares(&balancer, CALLS)[&3];
        let expected = weight / (3.0 + weight);
        assert!((share / expected - 1.0).abs() < 0.08, "{share}, expected {expected}");
    }
}

/// Calls that each take as long as `latency` says for their instance, one after the other.
async fn timed(balancer: &Balancer, calls: u32, latency: impl Fn(u8) -> u64) -> BTreeMap<u8, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let pick = balancer.pick().unwrap();
        *counts.entry(number(&pick)).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(latency(number(&pick)))).await;
        pick.report(Outcome::Success);
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_is_left_alone() {
    let (_lists, balancer) = over(web(), instances(3), 1).await;
    let counts = timed(&balancer, 3_000, |number| if number == 0 { 60 } else { 2 }).await;
    assert!(counts[&0] <= 15, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_is_no_black_hole() {
    let balance = web().ejection(crate::balance::Ejection::off());
    let (_lists, balancer) = over(balance, instances(3), 1).await;
    let mut failed = 0;
    for _ in 0..3_000 {
        let pick = balancer.pick().unwrap();
        if number(&pick) == 0 {
            failed += 1;
            pick.report(Outcome::Failure);
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            pick.report(Outcome::Success);
        }
    }
    assert!(failed <= 10, "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_one_call_before_it_gets_more() {
    let (lists, balancer) = over(web(), instances(3), 1).await;
    timed(&balancer, 100, |_| 2).await;
    lists.send_replace(instances(4));
    settle().await;
    let held: Vec<_> = (0..200).map(|_| balancer.pick().unwrap()).collect();
    assert_eq!(held.iter().filter(|pick| number(pick) == 3).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_level_out() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let (_lists, balancer) = over(web().policy(policy), instances(10), 1).await;
        shares(&balancer, 100);
        let held: Vec<_> = (0..1_000).map(|_| balancer.pick().unwrap()).collect();
        let endpoints = balancer.endpoints().unwrap();
        let flying: Vec<_> = endpoints.iter().map(|e| e.in_flight()).collect();
        // Two choices keep the most loaded within log log n of the mean; by chance alone it would be about 130.
        assert!(flying.iter().all(|count| (85..=115).contains(count)), "{policy:?}: {flying:?}");
        drop(held);
        assert!(endpoints.iter().all(|e| e.in_flight() == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_its_endpoint_and_few_keys_move() {
    for policy in [Policy::RingHash, Policy::Maglev] {
        let (lists, balancer) = over(web().policy(policy), instances(10), 1).await;
        let owners = || -> Vec<u8> {
            let owner =
                |key: u32| number(&balancer.pick_for(Hint::key(key.to_be_bytes())).unwrap());
            (0..10_000).map(owner).collect()
        };
        let before = owners();
        assert_eq!(before, owners());
        lists.send_replace(instances(9));
        settle().await;
        let after = owners();
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!(moved <= 2_000, "{policy:?}: {moved} of 10000 keys moved");
        lists.send_replace(instances(10));
        settle().await;
        assert_eq!(before, owners(), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_process_keeps_to_its_subset_and_together_they_are_even() {
    let mut wanted = [0.0_f64; 40];
    for seed in 0..400 {
        let balance = web().policy(Policy::RoundRobin).subset(10);
        let (_lists, balancer) = over(balance, instances(40), seed * 7_919).await;
        let shares = shares(&balancer, 100);
        assert_eq!(shares.len(), 10);
        shares.keys().for_each(|number| wanted[usize::from(*number)] += 1.0);
    }
    // Each is wanted by a quarter of 400; a binomial deviates by 8.7, and this is four times that.
    assert!(wanted.iter().all(|count| (count - 100.0).abs() < 35.0), "{wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_over_for_good() {
    let balance = web().policy(Policy::Random).slow_start(Duration::from_secs(30));
    let (lists, balancer) = over(balance, instances(1), 1).await;
    lists.send_replace(instances(2));
    settle().await;
    // 32 bits of milliseconds and a bit: 49.7 days.
    tokio::time::advance(Duration::from_millis((1 << 32) + 5)).await;
    settle().await;
    assert_close(&shares(&balancer, 20_000), &[(0, 0.5), (1, 0.5)]);
}
