//! A checker that is cut off from what it probes, but not from its peers: nothing that lives may go, and what dies
//! meanwhile must go all the same, although this checker can no longer tell the two apart.

use crate::{
    cluster::{Cluster, Timing},
    invariants::Violation,
    net::connector,
    scenario::Report,
    trace::Trace,
};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use rollcall_client::{Builder, Check, Registration};
use rollcall_core::{name::InstanceName, record::HealthStatus};
use rollcall_registry::view::View;
use std::time::Duration;
use turmoil::{Sim, net::TcpListener};

/// Instances that live, each with a port of its own.
const LIVING: u16 = 24;
/// Ports of the instances.
const FIRST_PORT: u16 = 9_000;
/// Everything must be listed and probed by three nodes within this.
const FORMING: Duration = Duration::from_secs(60);
/// The link is broken for so long; in the middle one instance dies.
const CUT: Duration = Duration::from_secs(30);
/// A dead instance is UNHEALTHY so long after its death: `fall` probes, and the word of another checker.
const SEEN: Duration = Duration::from_secs(8);

/// Runs one seed.
///
/// # Errors
/// When the simulation itself fails, which is a fault of a node: none may end by itself.
pub fn run(seed: u64, trace: &Trace) -> Result<Report, Box<dyn std::error::Error>> {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(FORMING * 3 + CUT)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(65_536)
        .udp_capacity(65_536)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
        .build();
    let cluster = Cluster::start(&mut sim, 3, dice.next_u64(), &Timing::default());
    for host in ["living", "dying"] {
        sim.host(host, listen_on_all);
    }
    owner(&mut sim, &cluster, dice.next_u64());
    let mut violations = Vec::new();
    let end = sim.elapsed() + FORMING;
    while !is_formed(&cluster) && violations.is_empty() {
        step(&mut sim, end, "all healthy, three checkers", &mut violations)?;
    }
    if violations.is_empty() {
        let offset = Duration::from_millis(dice.random_range(0..1_000));
        cut(&mut sim, &cluster, offset, trace, &mut violations)?;
    }
    let views = cluster.views();
    let state = views.first().map(|(_, view)| view.seen());
    Ok(Report {
        lookups: (0, 0),
        violations,
        revision: state.as_ref().map_or(0, |seen| seen.state.revision()),
        hash: state.as_ref().map_or(0, |seen| seen.state.hash()),
    })
}

/// Breaks the links of the checker of the instance that is to die, lets that one die, and heals.
fn cut(
    sim: &mut Sim<'_>,
    cluster: &Cluster,
    offset: Duration,
    trace: &Trace,
    violations: &mut Vec<Violation>,
) -> Result<(), Box<dyn std::error::Error>> {
    let victim = {
        let (_, view) = &cluster.views()[0];
        let checker = view.load().state.checkers().of(&name_of("dying"));
        cluster.machines.iter().find(|machine| machine.node_id() == checker).cloned()
    };
    let victim = victim.ok_or("nobody probes the instance that is to die")?;
    let hosts = ["living", "dying"];
    trace.line("sim", &format!("cut {} off from its targets", victim.name));
    hosts.iter().for_each(|host| sim.partition(victim.name.as_str(), *host));
    let (begun, death) = (sim.elapsed(), CUT / 2 + offset);
    let mut seen_dead = None;
    let mut is_dead = false;
    while sim.elapsed() < begun + CUT && violations.is_empty() {
        if !is_dead && sim.elapsed() >= begun + death {
            trace.line("sim", "one dies");
            sim.crash("dying");
            is_dead = true;
        }
        step(sim, begun + CUT * 2, "the time of the cut", violations)?;
        look(cluster, is_dead, violations);
        if is_dead && seen_dead.is_none() && all_see(cluster, "dying", HealthStatus::Unhealthy) {
            seen_dead = Some(sim.elapsed() - begun - death);
            trace.line("sim", &format!("seen after {seen_dead:?}"));
        }
    }
    if violations.is_empty() && seen_dead.is_none_or(|after| after > SEEN) {
        let seen = format!("it was seen after {seen_dead:?}, at most {SEEN:?} are allowed");
        violations.push(Violation { invariant: "a dead instance goes", seen });
    }
    trace.line("sim", "heal");
    hosts.iter().for_each(|host| sim.repair(victim.name.as_str(), *host));
    sim.bounce("dying");
    let end = sim.elapsed() + FORMING;
    while !is_formed(cluster) && violations.is_empty() {
        step(sim, end, "all healthy after healing", violations)?;
        look(cluster, true, violations);
    }
    Ok(())
}

fn step(
    sim: &mut Sim<'_>,
    end: Duration,
    what: &str,
    violations: &mut Vec<Violation>,
) -> Result<(), Box<dyn std::error::Error>> {
    sim.step()?;
    if sim.elapsed() > end {
        let seen = format!("{what}: not in time");
        violations.push(Violation { invariant: "it comes to an end", seen });
    }
    Ok(())
}

/// Nothing that lives may be anything but HEALTHY, on any node.
fn look(cluster: &Cluster, is_dead: bool, violations: &mut Vec<Violation>) {
    for (index, view) in cluster.views() {
        let living = (0..LIVING).map(id_of).chain((!is_dead).then(|| "dying".to_owned()));
        for id in living {
            let health = health(&view, &id);
            if health != Some(HealthStatus::Healthy) {
                let seen = format!("n{}: {id} is {health:?}", index + 1);
                violations.push(Violation { invariant: "what lives stays", seen });
                return;
            }
        }
    }
}

fn is_formed(cluster: &Cluster) -> bool {
    let all = (0..LIVING).map(id_of).chain(["dying".to_owned()]);
    cluster.views().len() == 3
        && cluster.views().iter().all(|(_, view)| view.load().state.checkers().nodes().len() == 3)
        && all.into_iter().all(|id| all_see(cluster, &id, HealthStatus::Healthy))
}

fn all_see(cluster: &Cluster, id: &str, wanted: HealthStatus) -> bool {
    cluster.views().iter().all(|(_, view)| health(view, id) == Some(wanted))
}

fn health(view: &View, id: &str) -> Option<HealthStatus> {
    view.load().state.instance(&name_of(id)).map(|record| record.health)
}

fn name_of(id: &str) -> InstanceName {
    InstanceName::parse("", "web", id).expect("a name of this file")
}

fn id_of(index: u16) -> String {
    format!("i{index}")
}

/// A machine whose ports accept connections and close them.
async fn listen_on_all() -> turmoil::Result {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..LIVING {
        let listener = TcpListener::bind(("0.0.0.0", FIRST_PORT + index)).await?;
        tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// One machine that registers all instances, persistent, each with a check of its port.
fn owner(sim: &mut Sim<'_>, cluster: &Cluster, seed: u64) {
    let addresses = cluster.addresses();
    sim.client("own", async move {
        let mut bytes = [0; 32];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let client = Builder::new(addresses).connector(connector()).seed(bytes).build()?;
        let (living, dying) = (turmoil::lookup("living"), turmoil::lookup("dying"));
        let all = (0..LIVING).map(|index| (id_of(index), living, FIRST_PORT + index));
        let mut guards = Vec::new();
        for (id, host, port) in all.chain([("dying".to_owned(), dying, FIRST_PORT)]) {
            let check = Check::tcp().interval(Duration::from_secs(1)).fall(3);
            let check = check.timeout(Duration::from_millis(500));
            let registration =
                Registration::new("web").id(id).endpoint("http", (host, port).into());
            guards.push(client.keep_registered(registration.persistent().check(check))?);
        }
        std::future::pending().await
    });
}
