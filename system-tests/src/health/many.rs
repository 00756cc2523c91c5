//! 20,000 instances on three servers of one machine: their probes keep their schedule.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::SERVICE;
use super::cluster::Cluster;
use super::fleet::{Check, Plan};
use super::observer::Observer;
use crate::case::{Checked, check};
use crate::metrics::Metrics;
use crate::netns::network;
use crate::stage::Stage;

const INSTANCES: u32 = 20_000;
const INTERVAL: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(10);
const LISTED: Duration = Duration::from_secs(120);
/// Measured for each round.
const QUIET: Duration = Duration::from_secs(10);
/// Share of the probes that may be missing, and part of its interval from which on a probe counts as late.
const LATE: f64 = 0.1;
/// Share of the probes that may be late.
const LATE_SHARE: f64 = 0.01;
/// Probes for each entry of the log, at least: it grows with verdicts and the clock of the cluster.
const PROBES_AN_ENTRY: f64 = 100.0;
const PORT: u16 = 7_000;

/// What the servers have done so far, together.
#[derive(Clone, Copy, Default)]
struct Done {
    probes: f64,
    late: f64,
    late_seconds: f64,
    cpu: Duration,
    log: f64,
}

pub(crate) fn play(stage: &mut Stage) -> Checked {
    // A loopback of its own.
    network(stage, 1)?[0].enter()?;
    let cluster = Cluster::local(stage)?;
    let observer = Observer::start(&cluster.grpc())?;
    cluster.until_formed(&observer)?;
    // Every address of 127/8 leads to the one listener.
    let target = |n: u32| SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + n), PORT));
    let plan = Plan {
        registry: cluster.grpc(),
        service: SERVICE.to_owned(),
        targets: (0..INSTANCES).map(target).collect(),
        listen: vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))],
        ttl: TTL,
        check: Check::Tcp,
        interval: INTERVAL,
    };
    let _fleet = plan.start(stage, "fleet", None)?;
    let begin = Instant::now();
    observer.until_routable(usize::try_from(INSTANCES)?, LISTED)?;
    stage.note(&format!("{INSTANCES} registered and probed once after {:.1?}", begin.elapsed()));
    // The first probes came in one burst; the schedule spreads the next ones.
    sleep(INTERVAL);
    let before = done(&cluster)?;
    let begin = Instant::now();
    sleep(QUIET * stage.rounds);
    let after = done(&cluster)?;
    let seconds = begin.elapsed().as_secs_f64();
    let probes = after.probes - before.probes;
    let rate = probes / seconds;
    let cpu = (after.cpu - before.cpu).as_secs_f64() / seconds;
    let late = (after.late_seconds - before.late_seconds) / probes;
    let share = (after.late - before.late) / probes;
    let entries = after.log - before.log;
    let due = f64::from(INSTANCES) / INTERVAL.as_secs_f64();
    stage.note(&format!(
        "{rate:.0} probes/s of {due:.0} due, late by {:.1} ms on average, {:.2} % by more than a tenth of the interval; {:.2} cores for 1,000 probes/s with all else; {entries} log entries",
        late * 1e3,
        share * 1e2,
        cpu / (rate / 1e3),
    ));
    check(rate >= due * (1.0 - LATE), || format!("only {rate:.0} probes/s"))?;
    check(share <= LATE_SHARE, || format!("a share of {share} is late"))?;
    check(entries <= probes / PROBES_AN_ENTRY, || format!("{entries} log entries"))?;
    let here = observer.routable();
    check(here == usize::try_from(INSTANCES)?, || format!("{here} take traffic"))
}

fn done(cluster: &Cluster) -> Checked<Done> {
    let mut all = Done::default();
    for server in &cluster.servers {
        let page = Metrics::of(server.http)?;
        all.probes += page.sum("rollcall_probes_total", "");
        all.late += page.sum("rollcall_probes_late_total", "");
        all.late_seconds += page.sum("rollcall_probe_lateness_seconds_total", "");
        all.cpu += cpu(server.program()?.id())?;
        all.log = all.log.max(page.sum("rollcall_raft_applied_index", ""));
    }
    Ok(all)
}

/// Processor time of a process so far.
fn cpu(id: u32) -> Checked<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after = stat.rsplit(')').next().ok_or("no stat")?;
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|tick| tick.parse::<u64>().ok()).sum();
    // A hundred ticks a second wherever Linux runs.
    Ok(Duration::from_millis(ticks * 10))
}
