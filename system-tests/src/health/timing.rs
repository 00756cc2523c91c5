//! How long after its death an instance takes no more traffic, for each way to die.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SERVERS};
use super::fleet::{Check, Plan};
use super::observer::Observer;
use super::{ELECTION, FALL, INTERVAL, LISTED, MARGIN, TIMEOUT, TTL};
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
/// Pauses of a server that were added to the leases, seconds.
const PAUSES: &str = "rollcall_lease_pause_seconds";
/// A crash is mostly seen by the break of its stream.
const CRASH: Duration = Duration::from_millis(1_500);
/// Dead by every signal: at most so long after the end of the lease.
const PROBED: Duration = Duration::from_millis(4_500);
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
    /// The promise, which this case holds the registry to.
    fn promised(at: usize) -> Duration {
        if at == BARE_SILENCE { TTL + MARGIN } else { TTL + PROBED }
    }

    /// What a quiet machine shows; told, and no more, where it is missed.
    fn aimed(at: usize) -> Duration {
        // An interval has a jitter of 5 %.
        let probes = INTERVAL.mul_f64(1.05) * FALL;
        match at {
            KILL => CRASH,
            BARE_SILENCE => TTL + MARGIN,
            CODE => probes + MARGIN,
            _ => probes + TIMEOUT + MARGIN,
        }
    }
}

/// One death: how long after it the instance was gone, and what may have come between.
#[derive(Clone, Copy)]
struct Death {
    took: Duration,
    /// What the promise is longer by: pauses of servers, which are added to leases, and changes of the leader.
    excused: Duration,
}

/// The servers, one machine for each way, and the onlooker's.
pub(crate) fn play(stage: &mut Stage) -> Checked {
    let machines = network(stage, SERVERS + WAYS.len() + 1)?;
    let (cluster, observer) = Cluster::formed(stage, &machines)?;
    let homes = &machines[SERVERS..SERVERS + WAYS.len()];
    let _ballast = ballast(stage, &cluster, &machines[SERVERS + WAYS.len()])?;
    let mut deaths: [Vec<Death>; WAYS.len()] = Default::default();
    for round in 0..stage.rounds {
        die(stage, &cluster, &observer, homes, round, &mut deaths)?;
    }
    let mut late = Vec::new();
    for (at, way) in WAYS.iter().enumerate() {
        let all = &mut deaths[at];
        all.sort_unstable_by_key(|death| death.took);
        let (promised, aimed) = (Way::promised(at), Way::aimed(at));
        let (middle, last) = (all[all.len() / 2].took, all[all.len() - 1].took);
        let above = all.iter().filter(|death| death.took > aimed).count();
        stage.note(&format!(
            "{}: {} rounds, median {middle:.2?}, max {last:.2?}; aim {aimed:.2?}, {above} above; promised {promised:.2?}",
            way.name,
            all.len(),
        ));
        let broken = all.iter().filter(|death| death.took > promised + death.excused);
        late.extend(broken.map(|death| format!("{}: {:.2?}", way.name, death.took)));
        if at == KILL && middle > CRASH {
            late.push(format!("{}: a median of {middle:.2?}: are breaks seen?", way.name));
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
    deaths: &mut [Vec<Death>; WAYS.len()],
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
    let (paused, term) = (cluster.sum(PAUSES)?, cluster.term(observer)?);
    let mut dead = [Instant::now(); WAYS.len()];
    for (at, home) in homes.iter().enumerate() {
        match at {
            KILL => drop(living[at].kill()),
            STOP => living[at].pause()?,
            // Its own answer is a failure already.
            CODE => check(get(addresses[at], "/fail").is_err(), || "it does not fail".to_owned())?,
            _ => home.cut_off()?,
        }
        dead[at] = Instant::now();
    }
    for (at, address) in addresses.iter().enumerate() {
        let id = format!("{}-{}", address.ip(), address.port());
        let took = observer.until_gone(&id, dead[at], GONE)?;
        let paused = Duration::from_secs_f64((cluster.sum(PAUSES)? - paused).max(0.0));
        let changes = cluster.terms_since(observer, term)?;
        // What one change of the leader costs at this TTL is an election and a lease.
        let excused = paused + (ELECTION + TTL) * changes;
        deaths[at].push(Death { took, excused });
        let (reason, evidence) = observer.last_word(&id);
        stage.note(&format!("round {round}, {}: {took:.2?}, {reason}", WAYS[at].name));
        if at == BARE_SILENCE {
            let silent =
                evidence.strip_prefix("no beat for ").and_then(|rest| rest.strip_suffix(" s"));
            let silent = silent.and_then(|text| text.parse().ok()).map(Duration::from_secs_f64);
            check(silent.is_some_and(|silent| silent >= TTL), || {
                format!("it expired too early, or for another reason: {reason}: {evidence}")
            })?;
        }
    }
    drop(living);
    homes[SILENCE].heal()?;
    homes[BARE_SILENCE].heal()
}
