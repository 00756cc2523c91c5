//! Many threads at once: what must hold whatever they do. Bounded by its number of calls.

use super::*;
use crate::balance::{Ejection, Policy, Standing};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const LIMIT: u32 = 8;
const CALLS: u32 = 20_000;

/// Makes calls that hold up to 20 places at a time and end in all ways, for whichever endpoint.
fn hammer(balancer: &Balancer, thread: u32) {
    let mut held = Vec::new();
    for call in 0..CALLS {
        match balancer.pick() {
            Ok(pick) => held.push(pick),
            Err(_) => held.clear(),
        }
        if held.len() > 20 {
            for (at, mut pick) in held.drain(..).enumerate() {
                let fails = number(&pick).is_multiple_of(3) && !call.is_multiple_of(5);
                match (at + thread as usize) % 4 {
                    0 if fails => pick.report(Outcome::Timeout),
                    0 => drop(pick),
                    1 => pick.answered(),
                    _ if fails => pick.report(Outcome::Failure),
                    _ => pick.report(Outcome::Success),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_limit_is_exceeded_and_no_place_is_lost_between_threads() {
    for policy in [Policy::PeakEwma, Policy::RoundRobin, Policy::Maglev] {
        let base = Duration::from_millis(5);
        let ejection = Ejection { base, ..Ejection::default() };
        let balance = web().policy(policy).concurrency(LIMIT).ejection(ejection);
        let (lists, balancer) = over(balance, instances(9), 1).await;
        let (most, done) = (Mutex::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let balancer = &balancer;
                    scope.spawn(move || hammer(balancer, thread))
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let endpoints = balancer.endpoints().unwrap();
                    let now = endpoints.iter().map(|e| e.in_flight()).max().unwrap();
                    let mut most = most.lock().unwrap();
                    *most = now.max(*most);
                    // Owners change, endpoints come and go.
                    let mut list = instances(9);
                    list[4].generation = u64::from(now);
                    list.truncate(7 + now as usize % 3);
                    lists.send_replace(list);
                    std::thread::yield_now();
                }
            });
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Relaxed);
        });
        let most = *most.lock().unwrap();
        // A trial is let in above the limit: who was ejected may still hold calls that hang.
        assert!((LIMIT / 2..=LIMIT + 1).contains(&most), "{policy:?}: {most}");
        let endpoints = balancer.endpoints().unwrap();
        assert!(endpoints.iter().all(|e| e.in_flight() == 0), "{policy:?}: {endpoints:?}");
        let recovered = async {
            let out = |e: &Arc<crate::balance::Endpoint>| e.standing() != Standing::Active;
            while balancer.endpoints().unwrap().iter().any(out) {
                balancer.pick().unwrap().report(Outcome::Success);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), recovered).await.unwrap();
    }
}
