//! Tests of the balancer as a whole, on lists of their own and a clock that stands still.

mod ejection;
mod lists;
mod overflow;
mod races;
mod shares;

use super::{Balance, Balancer, Change, Observer, Outcome, Pick};
use rollcall_core::name::ServiceName;
use rollcall_proto::v1;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

type Lists = watch::Sender<Vec<v1::Instance>>;

/// What an observer was told of changes.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Change>>>);

impl Told {
    fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Told {
    fn change(&self, _: &ServiceName, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

fn web() -> Balance {
    // Nobody is a newcomer unless a test says so.
    Balance::service("web").unwrap().slow_start(Duration::ZERO)
}

/// Instance `i{number}`, healthy, with weight 100.
fn instance(number: u8) -> v1::Instance {
    let endpoint = v1::Endpoint {
        name: "grpc".into(),
        host: format!("10.0.0.{number}"),
        port: 80,
        ..v1::Endpoint::default()
    };
    v1::Instance {
        instance_id: format!("i{number:03}"),
        spec: Some(v1::InstanceSpec { endpoints: vec![endpoint], ..v1::InstanceSpec::default() }),
        health_status: v1::HealthStatus::Healthy.into(),
        admin_state: v1::AdminState::Enabled.into(),
        generation: 1,
        ..v1::Instance::default()
    }
}

fn instances(count: u8) -> Vec<v1::Instance> {
    (0..count).map(instance).collect()
}

fn with(number: u8, change: impl FnOnce(&mut v1::Instance, &mut v1::InstanceSpec)) -> v1::Instance {
    let mut changed = instance(number);
    let mut spec = changed.spec.take().unwrap();
    change(&mut changed, &mut spec);
    v1::Instance { spec: Some(spec), ..changed }
}

fn weighing(number: u8, weight: u32) -> v1::Instance {
    with(number, |_, spec| spec.weight = Some(weight))
}

fn in_zone(number: u8, region: &str, zone: &str) -> v1::Instance {
    with(number, |_, spec| {
        let (region, zone) = (region.to_owned(), zone.to_owned());
        spec.locality = Some(v1::Locality { region, zone, ..v1::Locality::default() });
    })
}

async fn over(balance: Balance, list: Vec<v1::Instance>, seed: u64) -> (Lists, Balancer) {
    let (lists, receiver) = watch::channel(list);
    let balancer = Balancer::over(balance, receiver, seed).unwrap();
    balancer.ready(Duration::from_secs(1)).await.unwrap();
    (lists, balancer)
}

/// Lets the following task catch up with what was just done; the clock moves by a millisecond.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn number(pick: &Pick) -> u8 {
    pick.endpoint().key().instance_id[1..].parse().unwrap()
}

/// Makes so many calls that succeed at once, and returns the share of each instance.
fn shares(balancer: &Balancer, calls: u32) -> BTreeMap<u8, f64> {
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        let pick = balancer.pick().unwrap();
        *shares.entry(number(&pick)).or_default() += 1.0 / f64::from(calls);
        pick.report(Outcome::Success);
    }
    shares
}

/// Whether each share is within 5 % of what is expected, and nobody else has one.
fn assert_close(shares: &BTreeMap<u8, f64>, expected: &[(u8, f64)]) {
    for (number, share) in expected {
        let given = shares.get(number).copied().unwrap_or(0.0);
        assert!((given / share - 1.0).abs() < 0.05, "{number}: {given}, expected {share}");
    }
    assert_eq!(shares.len(), expected.len(), "{shares:?}");
}

/// Lets calls to one instance fail until `count` of them have; the others succeed.
fn fail(balancer: &Balancer, victim: u8, count: u32) {
    let mut failed = 0;
    for _ in 0..100_000 {
        let pick = balancer.pick().unwrap();
        if number(&pick) != victim {
            pick.report(Outcome::Success);
            continue;
        }
        pick.report(Outcome::Failure);
        failed += 1;
        if failed == count {
            return;
        }
    }
    panic!("{victim} was asked {failed} times only");
}
