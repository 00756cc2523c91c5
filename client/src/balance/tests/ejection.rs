//! Who is taken out, how it comes back, and what stops that.

use super::*;
use crate::balance::{Attempt, Cause, Ejection, Hint, PickError, Policy, Standing, Why};

fn standing(balancer: &Balancer, number: usize) -> Standing {
    balancer.endpoints().unwrap()[number].standing()
}

/// Random picks: every instance is asked, whatever it costs.
fn random() -> Balance {
    web().policy(Policy::Random)
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_and_four_do_not() {
    let told = Told::default();
    let (_lists, balancer) = over(random().observer(told.clone()), instances(4), 1).await;
    fail(&balancer, 2, 4);
    shares(&balancer, 100);
    fail(&balancer, 2, 4);
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Active);
    fail(&balancer, 2, 1);
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Ejected);
    assert_eq!(shares(&balancer, 300).len(), 3);
    let changes = told.changes();
    assert!(
        matches!(&changes[..], [Change::Ejected { cause: Cause::Consecutive, length, .. }]
            if (5_000..=5_500).contains(&length.as_millis())),
        "{changes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn after_its_time_one_call_decides() {
    let told = Told::default();
    let (_lists, balancer) = over(random().observer(told.clone()), instances(4), 1).await;
    fail(&balancer, 2, 5);
    tokio::time::sleep(Duration::from_millis(4_900)).await;
    assert_eq!(standing(&balancer, 2), Standing::Ejected);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let trial = balancer.pick().unwrap();
    assert_eq!((number(&trial), trial.why()), (2, Why::Probe));
    // While it is tried nobody else goes there.
    assert_eq!(shares(&balancer, 300).len(), 3);
    trial.report(Outcome::Failure);
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Ejected);
    // The second ejection lasts twice as long.
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(shares(&balancer, 300).len(), 3);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let trial = balancer.pick().unwrap();
    assert_eq!(trial.why(), Why::Probe);
    trial.report(Outcome::Success);
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Active);
    assert_eq!(shares(&balancer, 300).len(), 4);
    let readmitted = |change: &Change| matches!(change, Change::Readmitted { .. });
    assert!(told.changes().last().is_some_and(readmitted), "{:?}", told.changes());
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_is_given_up_does_not_readmit() {
    let (_lists, balancer) = over(random(), instances(4), 1).await;
    fail(&balancer, 2, 5);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let trial = balancer.pick().unwrap();
    assert_eq!(trial.why(), Why::Probe);
    drop(trial);
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Ejected);
    // A good head is enough, though: a stream may last for days.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut trial = balancer.pick().unwrap();
    assert_eq!(trial.why(), Why::Probe);
    trial.answered();
    settle().await;
    assert_eq!(standing(&balancer, 2), Standing::Active);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_share_is_ejected() {
    let told = Told::default();
    let (_lists, balancer) = over(random().observer(told.clone()), instances(10), 1).await;
    for victim in 0..10 {
        if victim < 5 {
            fail(&balancer, victim, 5);
        } else {
            fail(&balancer, victim, 50);
        }
        settle().await;
    }
    let out = balancer.endpoints().unwrap();
    let out = out.iter().filter(|e| e.standing() != Standing::Active).count();
    assert_eq!((out, told.changes().len()), (5, 5));
    assert!(!balancer.is_panicking());
}

#[tokio::test(start_paused = true)]
async fn those_that_the_registry_took_out_leave_the_others_their_ejections() {
    let (lists, balancer) = over(random(), instances(6), 1).await;
    fail(&balancer, 0, 5);
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::Ejected);
    let mut list = instances(6);
    list[0].health_status = v1::HealthStatus::Expired.into();
    lists.send_replace(list);
    settle().await;
    // Five are left, of which two may be out; the expired one is none of them.
    for victim in 1..4 {
        fail(&balancer, victim, 5);
        settle().await;
    }
    let ejected = [1, 2, 3].map(|number| standing(&balancer, number) == Standing::Ejected);
    assert_eq!(ejected, [true, true, false]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_stops_nothing() {
    struct Panics;
    impl Observer for Panics {
        fn attempt(&self, _: &Attempt<'_>) {
            panic!("an observer that cannot count");
        }
        fn change(&self, _: &ServiceName, _: &Change) {
            panic!("an observer that cannot count");
        }
    }
    let ejection = Ejection { share: 1.0, ..Ejection::default() };
    let (lists, balancer) =
        over(random().ejection(ejection).observer(Panics), instances(4), 1).await;
    for victim in 0..3 {
        fail(&balancer, victim, 5);
        settle().await;
    }
    // The task that follows told of it, and follows on.
    assert!(balancer.is_panicking());
    lists.send_replace(instances(2));
    settle().await;
    assert_eq!(balancer.endpoints().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_only_endpoint_is_called_although_it_fails() {
    let (_lists, balancer) = over(web(), instances(1), 1).await;
    for _ in 0..20 {
        balancer.pick().unwrap().report(Outcome::Failure);
        settle().await;
    }
    assert_eq!(standing(&balancer, 0), Standing::Ejected);
    assert!(balancer.is_panicking());
    tokio::time::sleep(Duration::from_secs(6)).await;
    balancer.pick().unwrap().report(Outcome::Success);
    settle().await;
    assert_eq!(standing(&balancer, 0), Standing::Active);
    assert!(!balancer.is_panicking());
}

#[tokio::test(start_paused = true)]
async fn below_the_panic_threshold_ejections_are_ignored() {
    let told = Told::default();
    let ejection = Ejection { share: 1.0, ..Ejection::default() };
    let balance = random().ejection(ejection).observer(told.clone());
    let (_lists, balancer) = over(balance, instances(4), 1).await;
    for victim in 0..2 {
        fail(&balancer, victim, 5);
        settle().await;
    }
    assert!(!balancer.is_panicking());
    assert_eq!(shares(&balancer, 300).len(), 2);
    fail(&balancer, 2, 5);
    settle().await;
    assert!(balancer.is_panicking());
    assert_eq!(shares(&balancer, 300).len(), 4);
    assert!(told.changes().contains(&Change::PanicBegan { routable: 4 }));
    // Trials go on, and end it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    shares(&balancer, 300);
    settle().await;
    assert!(!balancer.is_panicking());
    assert!(told.changes().contains(&Change::PanicEnded));
}

#[tokio::test(start_paused = true)]
async fn an_outlier_by_success_rate_is_ejected_at_the_end_of_the_interval() {
    let told = Told::default();
    let (_lists, balancer) = over(random().observer(told.clone()), instances(10), 1).await;
    let mut calls = 0_u32;
    for _ in 0..4_000 {
        let pick = balancer.pick().unwrap();
        // Every other call to one of them fails: never five in a row.
        let bad = number(&pick) == 7 && {
            calls += 1;
            calls.is_multiple_of(2)
        };
        pick.report(if bad { Outcome::Failure } else { Outcome::Success });
    }
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(standing(&balancer, 7), Standing::Active);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(standing(&balancer, 7), Standing::Ejected);
    let changes = told.changes();
    assert!(
        matches!(&changes[..], [Change::Ejected { cause: Cause::SuccessRate, .. }]),
        "{changes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_and_cancellations_eject_nobody_and_overload_only_by_its_rate() {
    let (_lists, balancer) = over(random(), instances(3), 1).await;
    for outcome in [Outcome::Cancelled, Outcome::Overloaded, Outcome::Success] {
        for _ in 0..300 {
            balancer.pick().unwrap().report(outcome);
        }
        settle().await;
        assert_eq!(shares(&balancer, 300).len(), 3, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_of_an_ejected_endpoint_come_back_to_it_and_others_stay() {
    for policy in [Policy::RingHash, Policy::Maglev] {
        let (_lists, balancer) = over(web().policy(policy), instances(5), 1).await;
        let owners = || -> Vec<u8> {
            let owner = |key: u32| {
                let pick = balancer.pick_for(Hint::key(key.to_be_bytes())).unwrap();
                let owner = number(&pick);
                pick.report(Outcome::Success);
                owner
            };
            (0..1_000).map(owner).collect()
        };
        let before = owners();
        fail(&balancer, 2, 5);
        settle().await;
        let meanwhile = owners();
        for (old, new) in before.iter().zip(&meanwhile) {
            assert!(if *old == 2 { *new != 2 } else { old == new }, "{policy:?}: {old} {new}");
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        balancer.pick().unwrap().report(Outcome::Success);
        settle().await;
        assert_eq!(before, owners());
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_calls_in_flight_is_kept_and_what_is_above_is_refused() {
    for policy in [Policy::PeakEwma, Policy::RoundRobin, Policy::RingHash, Policy::Maglev] {
        let (_lists, balancer) = over(web().policy(policy).concurrency(3), instances(4), 1).await;
        let mut held: Vec<_> = (0..12).map(|_| balancer.pick().unwrap()).collect();
        assert!(balancer.endpoints().unwrap().iter().all(|e| e.in_flight() == 3));
        let refused = balancer.pick().unwrap_err();
        assert!(matches!(refused, PickError::Full { limit: 3, .. }), "{refused}");
        let freed = number(&held.pop().unwrap());
        assert_eq!(number(&balancer.pick().unwrap()), freed);
    }
}
