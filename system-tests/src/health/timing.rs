//! How long after its death an instance takes no more traffic, for each way to die.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SERVERS};
use super::fleet::{Check, Plan};
use super::observer::Observer;
use super::{FALL, INTERVAL, LISTED, MARGIN, TIMEOUT, TTL};
use crate::backend::get;
use crate::case::{Checked, check};
use crate::netns::{Namespace, network};
use crate::program::Program;
use crate::stage::Stage;

/// The ways to die.
const WAYS: [Way; 5] = [
    Way { name: "kill -9, TCP check", check: Check::Tcp },
    Way { name: "SIGSTOP, HTTP check", check: Check::Http },
    Way { name: "silence, TCP check", check: Check::Tcp },
    Way { name: "silence, no check", check: Check::None },
    Way { name: "failing HTTP code", check: Check::Http },
];
const KILL: usize = 0;
const STOP: usize = 1;
const SILENCE: usize = 2;
const BARE_SILENCE: usize = 3;
const CODE: usize = 4;
/// A crash is mostly seen by the break of its stream: longest median.
const CRASH: Duration = Duration::from_millis(1_500);
const BALLAST: u16 = 200;
/// Longest wait for one of them to be gone.
const GONE: Duration = Duration::from_secs(20);
/// What a phase is drawn from, ms: two primes that no interval here divides.
const PHASE: (u32, u32) = (137, 997);

struct Way {
    name: &'static str,
    check: Check,
}

impl Way {
    /// The shortest and the longest time to be gone.
    fn bound(at: usize) -> (Duration, Duration) {
        // An interval has a jitter of 5 %.
        let probes = INTERVAL.mul_f64(1.05) * FALL;
        match at {
            // Where the break of its stream is not seen, the probes find it.
            KILL => (Duration::ZERO, probes + MARGIN),
            // A beat may be as old as its jittered pace when it is the last one.
            BARE_SILENCE => (TTL - (TTL / 3).mul_f64(1.2), TTL + MARGIN),
            CODE => (INTERVAL, probes + MARGIN),
            _ => (INTERVAL, probes + TIMEOUT + MARGIN),
        }
    }
}

/// The servers, one machine for each way, and the onlooker's.
pub(crate) fn play(stage: &mut Stage) -> Checked {
    let machines = network(stage, SERVERS + WAYS.len() + 1)?;
    machines[SERVERS + WAYS.len()].enter()?;
    let cluster = Cluster::spread(stage, &machines)?;
    let observer = Observer::start(&cluster.grpc())?;
    cluster.until_formed(&observer)?;
    let homes = &machines[SERVERS..SERVERS + WAYS.len()];
    let _ballast = ballast(stage, &cluster, &machines[SERVERS + WAYS.len()])?;
    let mut times: [Vec<Duration>; WAYS.len()] = Default::default();
    for round in 0..stage.rounds {
        die(stage, &cluster, &observer, homes, round, &mut times)?;
    }
    let mut late = Vec::new();
    for (at, way) in WAYS.iter().enumerate() {
        let all = &mut times[at];
        all.sort_unstable();
        let (shortest, longest) = Way::bound(at);
        let (low, high) = (all[0], all[all.len() - 1]);
        stage.note(&format!(
            "{}: median {:.2?}, from {low:.2?} to {high:.2?}, allowed {shortest:.2?} to {longest:.2?}, {} rounds",
            way.name,
            all[all.len() / 2],
            all.len(),
        ));
        let is_slow = at == KILL && all[all.len() / 2] > CRASH;
        if low < shortest || high > longest || is_slow {
            late.push(format!("{}: {all:.2?}", way.name));
        }
    }
    check(late.is_empty(), || late.join("\n"))
}

/// Instances that live on: the few that die shall look neither like mass death, which is held back, nor like a checker
/// that sees nobody any more.
fn ballast(stage: &Stage, cluster: &Cluster, home: &Namespace) -> Checked<Program> {
    let ip = home.address.parse()?;
    let targets: Vec<_> = (0..BALLAST).map(|n| SocketAddr::new(ip, 20_000 + n)).collect();
    let mut plan = Plan::single(&cluster.grpc(), targets[0], Check::Tcp);
    plan.listen.clone_from(&targets);
    plan.targets = targets;
    plan.start(stage, "ballast", None)
}

/// All of them live, die at the same time each in its way, and are gone.
fn die(
    stage: &Stage,
    cluster: &Cluster,
    observer: &Observer,
    homes: &[Namespace],
    round: u32,
    times: &mut [Vec<Duration>; WAYS.len()],
) -> Checked {
    let port = 9_000 + u16::try_from(round)?;
    let mut living: Vec<Program> = Vec::new();
    let mut addresses = Vec::new();
    for (at, (way, home)) in WAYS.iter().zip(homes).enumerate() {
        let address = SocketAddr::new(home.address.parse()?, port);
        let plan = Plan::single(&cluster.grpc(), address, way.check);
        living.push(plan.start(stage, &format!("way{at}-{round}"), Some(home))?);
        addresses.push(address);
    }
    observer.until_routable(WAYS.len() + usize::from(BALLAST), LISTED)?;
    // Anywhere between two probes and two beats.
    let phase = (round + 1) * PHASE.0 % PHASE.1;
    std::thread::sleep(INTERVAL + Duration::from_millis(phase.into()));
    let mut begun = [Instant::now(); WAYS.len()];
    for (at, home) in homes.iter().enumerate() {
        begun[at] = Instant::now();
        match at {
            KILL => drop(living[at].kill()),
            STOP => living[at].pause()?,
            CODE => drop(get(addresses[at], "/fail")),
            _ => home.cut_off()?,
        }
    }
    for (at, address) in addresses.iter().enumerate() {
        let id = format!("{}-{}", address.ip(), address.port());
        let time = observer.until_gone(&id, begun[at], GONE)?;
        times[at].push(time);
        stage.note(&format!(
            "round {round}, {}: {time:.2?}, {}",
            WAYS[at].name,
            observer.last_word(&id)
        ));
    }
    drop(living);
    homes[SILENCE].heal()?;
    homes[BARE_SILENCE].heal()
}
