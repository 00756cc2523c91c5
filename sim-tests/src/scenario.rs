//! A seeded day in the life: services register and beat through the client library while machines lose power and
//! links break; then everything is healed, and the cluster must agree and serve.

use crate::{
    cluster::{Cluster, Timing},
    dns::Lookups,
    invariants::{Violation, Watchman, is_listed},
    net::connector,
    trace::Trace,
};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use rollcall_client::{Builder, Registration};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use turmoil::Sim;

/// Instances that register and beat.
const INSTANCES: usize = 6;
/// After the faults, everything must be well again within this.
const HEALING: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Revision that all nodes reached.
    pub revision: u64,
    /// Hash of the state at that revision.
    pub hash: u128,
    /// DNS answers, and how many of them said that they were stale.
    pub lookups: (u64, u64),
}

/// When the beats of each instance were last acknowledged, in simulated time.
type Acknowledged = Arc<Mutex<BTreeMap<String, Duration>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Power(usize),
    Link(usize),
}

/// Runs one seed for `length` of simulated time, then heals.
///
/// # Errors
/// When the simulation itself fails, which is a fault of a node: none may end by itself.
pub fn run(
    seed: u64,
    length: Duration,
    trace: &Trace,
) -> Result<Report, Box<dyn std::error::Error>> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(length + HEALING * 2)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(65_536)
        .udp_capacity(65_536)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .build();
    let count = [1, 3, 3, 5][dice.random_range(0..4)];
    let timing = Timing::default();
    let cluster = Cluster::start(&mut sim, count, dice.next_u64(), &timing);
    let acknowledged = Acknowledged::default();
    owners(&mut sim, &cluster, dice.next_u64(), &acknowledged);
    let lookups = Lookups::start(&mut sim, &cluster, dice.next_u64());
    let mut watchman = Watchman::default();
    let mut violations = Vec::new();
    let mut broken: Option<(Broken, Duration)> = None;
    let mut next_fault = Duration::from_secs(5);
    while sim.elapsed() < length {
        step(&mut sim, &cluster, &mut watchman, &acknowledged, &mut violations)?;
        violations.extend(lookups.judge().take());
        match broken {
            Some((what, until)) if sim.elapsed() >= until => {
                heal(&mut sim, &cluster, what, trace);
                broken = None;
                next_fault = sim.elapsed() + Duration::from_millis(dice.random_range(500..5_000));
            }
            None if sim.elapsed() >= next_fault => {
                let victim = dice.random_range(0..count);
                let what = match dice.random_range(0..2) {
                    0 => Broken::Power(victim),
                    _ => Broken::Link(victim),
                };
                break_it(&mut sim, &cluster, what, trace);
                let lasts = Duration::from_millis(dice.random_range(200..4_000));
                broken = Some((what, sim.elapsed() + lasts));
            }
            Some(_) | None => {}
        }
        if !violations.is_empty() {
            break;
        }
    }
    if let Some((what, _)) = broken {
        heal(&mut sim, &cluster, what, trace);
    }
    let end = sim.elapsed() + HEALING;
    while violations.is_empty() && !is_well(&cluster) {
        step(&mut sim, &cluster, &mut watchman, &acknowledged, &mut violations)?;
        violations.extend(lookups.judge().take());
        if sim.elapsed() > end {
            let seen = format!("not all nodes agree and list all instances after {HEALING:?}");
            violations.push(Violation { invariant: "well again after healing", seen });
        }
    }
    let views = cluster.views();
    let state = views.first().map(|(_, view)| view.seen());
    let lookups = lookups.judge().counts();
    Ok(Report {
        violations,
        lookups,
        revision: state.as_ref().map_or(0, |seen| seen.state.revision()),
        hash: state.as_ref().map_or(0, |seen| seen.state.hash()),
    })
}

fn step(
    sim: &mut Sim<'_>,
    cluster: &Cluster,
    watchman: &mut Watchman,
    acknowledged: &Acknowledged,
    violations: &mut Vec<Violation>,
) -> turmoil::Result {
    sim.step()?;
    let nodes: Vec<_> = cluster
        .views()
        .into_iter()
        .map(|(index, view)| (index, cluster.machines[index].boots(), view))
        .collect();
    let now = sim.elapsed();
    let silent = |id: &str| {
        let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.get(id).map(|at| now.saturating_sub(*at))
    };
    violations.extend(watchman.look(&nodes, &silent));
    Ok(())
}

/// All machines up, at one revision with one hash, and every instance listed with a running lease.
fn is_well(cluster: &Cluster) -> bool {
    let views = cluster.views();
    let states: Vec<(u64, u128)> = views
        .iter()
        .map(|(_, view)| {
            let seen = view.seen();
            (seen.state.revision(), seen.state.hash())
        })
        .collect();
    views.len() == cluster.machines.len()
        && states.iter().all(|state| *state == states[0])
        && (0..INSTANCES).all(|i| views.iter().all(|(_, view)| is_listed(view, &id_of(i))))
}

fn id_of(index: usize) -> String {
    format!("i{index}")
}

fn break_it(sim: &mut Sim<'_>, cluster: &Cluster, what: Broken, trace: &Trace) {
    trace.line("sim", &format!("break {what:?}"));
    match what {
        Broken::Power(index) => cluster.power_cut(sim, index),
        Broken::Link(index) => others(cluster, index, |one, other| sim.partition(one, other)),
    }
}

fn heal(sim: &mut Sim<'_>, cluster: &Cluster, what: Broken, trace: &Trace) {
    trace.line("sim", &format!("heal {what:?}"));
    match what {
        Broken::Power(index) => cluster.restart(sim, index),
        Broken::Link(index) => others(cluster, index, |one, other| sim.repair(one, other)),
    }
}

fn others(cluster: &Cluster, index: usize, mut act: impl FnMut(&str, &str)) {
    let one = &cluster.machines[index].name;
    for other in cluster.machines.iter().filter(|other| other.name != *one) {
        act(one, &other.name);
    }
}

/// One machine whose process owns all instances and beats for them on one stream.
fn owners(sim: &mut Sim<'_>, cluster: &Cluster, seed: u64, acknowledged: &Acknowledged) {
    let (addresses, acknowledged) = (cluster.addresses(), acknowledged.clone());
    sim.client("own", async move {
        let mut bytes = [0; 32];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let client = Builder::new(addresses).connector(connector()).seed(bytes).build()?;
        let mut guards = Vec::new();
        for index in 0..INSTANCES {
            let port = 8000 + u16::try_from(index)?;
            let registration = Registration::new("web")
                .id(id_of(index))
                .endpoint("http", ([10, 0, 0, 1], port).into())
                .ttl(Duration::from_secs(3 + index as u64));
            guards.push((id_of(index), client.keep_registered(registration)?));
        }
        let start = Instant::now();
        let offset = turmoil::sim_elapsed().unwrap_or_default();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut known = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, guard) in &guards {
                if let Some(last) = guard.acknowledged() {
                    // The lease is counted from the arrival, which is not before the beat was sent.
                    known.insert(id.clone(), offset + last.sent.saturating_duration_since(start));
                }
            }
        }
    });
}
