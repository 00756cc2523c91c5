//! 500 living instances while servers and the network suffer: nobody is taken out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SERVERS};
use super::fleet::{Check, Plan};
use super::observer::Observer;
use super::{ELECTION, INTERVAL, LISTED, MARGIN, SERVICE, TTL};
use crate::case::{Checked, check};
use crate::metrics::metric;
use crate::netns::{Namespace, network};
use crate::program::{Program, until};
use crate::stage::Stage;

/// The instances: on two machines, of several addresses each.
const HOMES: usize = 2;
const ADDRESSES: usize = 5;
const PORTS: u16 = 50;
const INSTANCES: usize = HOMES * ADDRESSES * PORTS as usize;
/// How long trouble lasts.
const TROUBLE: Duration = Duration::from_secs(30);
/// A lost SYN is sent again after a second, which is longer than the timeout of a probe: one in twenty fails, and of the
/// 15,000 in that time some two have two more failures behind them. Those are unhealthy until they pass again.
const LOSSY_MAX: usize = 12;
/// Longer than any verdict or lease takes.
const AFTERMATH: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_secs(5);
/// Time between two deaths of leaders, and the one that a dead one takes to come back.
const BETWEEN: Duration = Duration::from_secs(15);
const AWAY: Duration = Duration::from_secs(2);
/// Leaders killed in 20 rounds: three minutes.
const KILLS: u32 = 12;
const FAILED: &str = "rollcall_probes_failed_total";

/// The servers, the living, one machine more and the onlooker's.
struct Scene {
    machines: Vec<Namespace>,
    cluster: Cluster,
    observer: Observer,
    addresses: Vec<String>,
    _fleets: Vec<Program>,
}

impl Scene {
    const SPARE: usize = SERVERS + HOMES;

    fn open(stage: &Stage) -> Checked<Self> {
        let machines = network(stage, SERVERS + HOMES + 2)?;
        let (cluster, observer) = Cluster::formed(stage, &machines)?;
        let (mut addresses, mut fleets) = (Vec::new(), Vec::new());
        for home in 0..HOMES {
            let mut targets = Vec::new();
            for number in 0..ADDRESSES {
                let address = format!("10.77.0.{}", 100 + home * ADDRESSES + number);
                machines[SERVERS + home].add_address(&address)?;
                for port in 0..PORTS {
                    targets.push(SocketAddr::new(address.parse()?, 9_000 + port));
                }
                addresses.push(address);
            }
            addresses.push(machines[SERVERS + home].address.clone());
            let plan = Plan {
                registry: cluster.grpc(),
                service: SERVICE.to_owned(),
                listen: targets.clone(),
                targets,
                ttl: TTL,
                check: Check::Tcp,
                interval: INTERVAL,
            };
            let name = format!("fleet{home}");
            fleets.push(plan.start(stage, &name, Some(&machines[SERVERS + home]))?);
        }
        observer.until_routable(INSTANCES, LISTED)?;
        Ok(Self { machines, cluster, observer, addresses, _fleets: fleets })
    }

    /// Nobody but these was struck off, at most so many failed their checks for a while, and all others take traffic.
    fn close(&self, stage: &Stage, silenced: &BTreeSet<String>, unhealthy_max: usize) -> Checked {
        let struck_off = self.observer.struck_off(silenced);
        let unhealthy = self.observer.unhealthy(silenced);
        stage.note(&format!(
            "{INSTANCES} living instances, {} expired or evicted, {} unhealthy for a while, {} take traffic",
            struck_off.len(),
            unhealthy.len(),
            self.observer.routable(),
        ));
        let some = |all: &[String]| all.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        check(struck_off.is_empty(), || format!("struck off:\n{}", some(&struck_off)))?;
        check(unhealthy.len() <= unhealthy_max, || format!("unhealthy:\n{}", some(&unhealthy)))?;
        self.observer.until_routable(INSTANCES, LISTED)
    }
}

/// The third server loses all instances, and not its peers.
pub(crate) fn cut(stage: &mut Stage) -> Checked {
    let scene = Scene::open(stage)?;
    scene.machines[SERVERS - 1].cut_off_from(&scene.addresses)?;
    let end = Instant::now() + TROUBLE;
    let lonely = scene.cluster.servers[SERVERS - 1].http;
    until("the lonely server doubts what it sees", TROUBLE, || {
        let doubts = metric(lonely, "rollcall_checker_doubts")?;
        check(doubts > 0.0, || "it does not".to_owned())
    })?;
    sleep(end.saturating_duration_since(Instant::now()));
    scene.machines[SERVERS - 1].heal()?;
    sleep(AFTERMATH);
    scene.close(stage, &BTreeSet::new(), 0)
}

/// The leader hangs.
pub(crate) fn paused(stage: &mut Stage) -> Checked {
    let scene = Scene::open(stage)?;
    for _ in 0..stage.rounds.div_ceil(3) {
        let leader = scene.cluster.leader(&scene.observer, LISTED)?;
        scene.cluster.servers[leader].program()?.pause()?;
        let end = Instant::now() + PAUSE;
        until("another one leads", PAUSE, || {
            let now = scene.cluster.leader(&scene.observer, ELECTION)?;
            check(now != leader, || "the paused one does still".to_owned())
        })?;
        sleep(end.saturating_duration_since(Instant::now()));
        scene.cluster.servers[leader].program()?.resume()?;
        sleep(AFTERMATH);
    }
    scene.close(stage, &BTreeSet::new(), 0)
}

/// Leaders die again and again; each time one instance falls silent, and is gone in time.
pub(crate) fn killed(stage: &mut Stage) -> Checked {
    let mut scene = Scene::open(stage)?;
    let spare = scene.machines[Scene::SPARE].clone();
    let mut silenced = BTreeSet::new();
    let mut times = Vec::new();
    for kill in 0..(KILLS * stage.rounds).div_ceil(20) {
        let at = SocketAddr::new(spare.address.parse()?, 9_000 + u16::try_from(kill)?);
        let plan = Plan::single(&scene.cluster.grpc(), at, Check::None);
        let silent = plan.start(stage, &format!("silent{kill}"), Some(&spare))?;
        scene.observer.until_routable(INSTANCES + 1, LISTED)?;
        let id = format!("{}-{}", at.ip(), at.port());
        silenced.insert(id.clone());
        let leader = scene.cluster.leader(&scene.observer, LISTED)?;
        let term = scene.cluster.term(&scene.observer)?;
        spare.cut_off()?;
        let begin = Instant::now();
        scene.cluster.servers[leader].kill();
        sleep(AWAY);
        scene.cluster.servers[leader].start(stage)?;
        let time = scene.observer.until_gone(&id, begin, BETWEEN)?;
        let changes = scene.cluster.terms_since(&scene.observer, term)?;
        check(changes > 0, || "no leader was elected".to_owned())?;
        // One change of the leader: an election, and what a silent lease may be granted anew.
        let bound = TTL + (ELECTION + TTL) * changes + MARGIN;
        check(time <= bound, || {
            format!("{time:.2?} across {changes} changes, allowed {bound:.2?}")
        })?;
        times.push(time);
        drop(silent);
        spare.heal()?;
        sleep((begin + BETWEEN).saturating_duration_since(Instant::now()));
    }
    times.sort_unstable();
    let last = times.last().copied().unwrap_or_default();
    stage.note(&format!(
        "silent across {} deaths of leaders: gone after {:.2?} to {last:.2?}, allowed {:.2?}",
        times.len(),
        times[0],
        TTL + ELECTION + TTL + MARGIN,
    ));
    scene.close(stage, &silenced, 0)
}

/// Every twentieth packet to a server is lost.
pub(crate) fn lossy(stage: &mut Stage) -> Checked {
    let scene = Scene::open(stage)?;
    let before = scene.cluster.sum(FAILED)?;
    for server in &scene.machines[..SERVERS] {
        server.lose(5)?;
    }
    sleep(TROUBLE);
    for server in &scene.machines[..SERVERS] {
        server.heal()?;
    }
    let failed = scene.cluster.sum(FAILED)? - before;
    stage.note(&format!("{failed} probes failed meanwhile"));
    check(failed > 0.0, || "nothing was lost".to_owned())?;
    sleep(AFTERMATH);
    scene.close(stage, &BTreeSet::new(), LOSSY_MAX)
}
