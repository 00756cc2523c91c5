//! What one pick costs, and its report: `cargo bench -p rollcall-client --bench pick`.
//!
//! Rows are policies by number of endpoints; columns are nanoseconds for each call of one thread, and of two threads at
//! a time (time of a thread by its own calls). Below stands tower's p2c with peak EWMA on services that answer at once:
//! alone, which is the least it can cost, and behind the buffer without which two threads cannot share it.
#![expect(clippy::print_stdout, reason = "a benchmark shows what it measured")]

use rollcall_client::{Balance, Balancer, Hint, Outcome, Policy, v1};
use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::watch, time::Instant};
use tower::{
    Service, ServiceExt as _,
    balance::p2c,
    buffer::Buffer,
    discover::ServiceList,
    load::{CompleteOnResponse, PeakEwma},
};

const PICKS: u32 = 10_000;
/// Short runs, of which the best counts: some are not interrupted even where the machine does other things.
const RUNS: u32 = 200;
const COUNTS: [u32; 3] = [10, 1_000, 10_000];

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    println!("{:<24}{:>10}{:>12}{:>12}", "policy", "endpoints", "1 thread", "2 threads");
    for policy in [
        Policy::PeakEwma,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Random,
        Policy::RingHash,
        Policy::Maglev,
    ] {
        for count in COUNTS {
            let balancer = runtime.block_on(balancer(policy, count));
            // Every endpoint has a latency before anything is measured.
            picks(&balancer, count * 20);
            let [one, two] = [1, 2].map(|threads| on_threads(threads, || picks(&balancer, PICKS)));
            row(&format!("{policy:?}"), count, one, two);
        }
    }
    for count in COUNTS {
        let alone = runtime.block_on(tower_alone(count));
        let shared = runtime.block_on(tower_shared(count));
        row("tower p2c", count, alone, f64::NAN);
        row("tower p2c in a buffer", count, f64::NAN, shared);
    }
}

fn row(name: &str, count: u32, one: f64, two: f64) {
    let cell = |ns: f64| if ns.is_nan() { "-".to_owned() } else { format!("{ns:.0} ns") };
    println!("{name:<24}{count:>10}{:>12}{:>12}", cell(one), cell(two));
}

async fn balancer(policy: Policy, count: u32) -> Balancer {
    let instances: Vec<_> = (0..count).map(instance).collect();
    let (_, lists) = watch::channel(instances);
    let balance = Balance::service("bench").expect("a name").policy(policy);
    let balancer = Balancer::over(balance, lists, 1).expect("valid settings");
    balancer.ready(Duration::from_secs(10)).await.expect("a list");
    balancer
}

fn instance(number: u32) -> v1::Instance {
    let [_, a, b, c] = number.to_be_bytes();
    let endpoint =
        v1::Endpoint { host: format!("10.{a}.{b}.{c}"), port: 80, ..v1::Endpoint::default() };
    v1::Instance {
        instance_id: format!("i{number}"),
        spec: Some(v1::InstanceSpec { endpoints: vec![endpoint], ..v1::InstanceSpec::default() }),
        health_status: v1::HealthStatus::Healthy.into(),
        ..v1::Instance::default()
    }
}

fn picks(balancer: &Balancer, count: u32) {
    for i in 0..count {
        let pick = balancer.pick_for(Hint::key(i.to_be_bytes())).expect("an endpoint");
        black_box(pick.address());
        pick.report(Outcome::Success);
    }
}

/// Nanoseconds for each of [`PICKS`] that `work` makes on so many threads at a time; the best run.
fn on_threads(threads: usize, work: impl Fn() + Sync) -> f64 {
    let run = || {
        let begun = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(&work))));
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS)
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Answers at once.
#[derive(Clone)]
struct AtOnce;

impl Service<()> for AtOnce {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

type Tower = p2c::Balance<ServiceList<Vec<PeakEwma<AtOnce>>>, ()>;

fn tower(count: u32) -> Tower {
    let (rtt, decay) = (Duration::from_millis(1), 10e9);
    let endpoint = |_| PeakEwma::new(AtOnce, rtt, decay, CompleteOnResponse::default());
    p2c::Balance::new(ServiceList::new::<()>((0..count).map(endpoint).collect::<Vec<_>>()))
}

async fn tower_alone(count: u32) -> f64 {
    let mut tower = tower(count);
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        for _ in 0..PICKS {
            let answer = tower.ready().await.expect("ready").call(());
            answer.await.expect("an answer");
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
    }
    best
}

async fn tower_shared(count: u32) -> f64 {
    let buffer = Buffer::new(tower(count), 1_024);
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        let callers = [(); 2].map(|()| tokio::spawn(calls(buffer.clone(), PICKS)));
        for caller in callers {
            caller.await.expect("no panic");
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
    }
    best
}

async fn calls(mut buffer: impl Service<(), Error: Debug>, count: u32) {
    for _ in 0..count {
        let answer = buffer.ready().await.expect("ready").call(());
        answer.await.expect("an answer");
    }
}
