//! Active checks: how many TCP targets a core can probe, and what a usual rate of probes costs.

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, Counted, rollcall},
    outcome::{Doing, Outcome},
    process,
    report::Of,
    servers::{
        READY, Size,
        prober::{Prober, target},
        rollcall::Rollcall,
    },
};
use rollcall_proto::v1::{self, Consistency, health_check};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

const WORKLOAD: &str = "check";
const PER_SERVICE: u32 = 1_000;
/// Connections that may wait to be accepted: more than are opened at once.
const BACKLOG: u32 = 4_096;
/// Connections that are kept before they are closed: their prober has closed its end long before.
const KEPT: usize = 2_048;
/// How often it is looked whether all targets pass.
const LOOK: Duration = Duration::from_millis(200);

/// How often each target is due.
#[derive(Debug, Clone, Copy)]
struct Shape {
    targets: u32,
    interval: Duration,
}

impl Shape {
    /// More than a core can do: it takes one after the other without a pause.
    fn is_too_much(self) -> bool {
        self.interval < Duration::from_secs(1)
    }

    fn due(self) -> f64 {
        f64::from(self.targets) / self.interval.as_secs_f64()
    }

    fn case(self) -> String {
        if self.is_too_much() {
            format!("{} TCP targets, as fast as a core can", self.targets)
        } else {
            format!("{} TCP targets, {:.0} checks/s", self.targets, self.due())
        }
    }
}

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "check: TCP checks from one node on core 0; what is counted are connections that the targets have accepted, on \
         core 1. Every target is an address of 127/8 of its own, registered as an instance with one check. `As fast as a \
         core can`: each is due every 200 ms, far more than a core can do, so that the next begins when one of the 512 under \
         way has ended; an address is limited to 200 checks a second, but not where all is on loopback. The bare loop \
         connects to as many targets and closes at once (tokio, one thread, 512 under way; at the fixed rate as many as \
         are due each ms); it keeps no schedule, no verdicts and no outputs.",
    );
    let targets = bench.pick(10_000, 20_000);
    let shapes = [Duration::from_millis(200), Duration::from_secs(10)]
        .map(|interval| Shape { targets, interval });
    bench.steps(bench.repeats * shapes.len() * 2);
    place_load(Size::One)?;
    for _ in 0..bench.repeats {
        for shape in shapes {
            bench.step(&format!("check, bare loop, {}", shape.case()));
            let counted = bare(bench, shape).await;
            let outcome = counted.map(|counted| tell(bench, shape, "bare loop", counted));
            bench.survive(outcome)?;
            bench.step(&format!("check, rollcall, {}", shape.case()));
            let counted = ours(bench, shape).await;
            let outcome = counted.map(|counted| tell(bench, shape, "rollcall", counted));
            bench.survive(outcome)?;
        }
    }
    Ok(())
}

fn tell(bench: &mut Bench, shape: Shape, subject: &str, counted: Counted) {
    let case = shape.case();
    let of = Of(WORKLOAD, &case, subject);
    bench.report.counted(of, counted);
    bench.report.add(of, "checks a second of a whole core", "1/s", counted.rate / counted.servers);
}

async fn bare(bench: &Bench, shape: Shape) -> Outcome<Counted> {
    let targets = Targets::listen()?;
    let rate = if shape.is_too_much() { 0 } else { shape.due() as u32 };
    let mut prober = Prober::start(&bench.lab, targets.port, shape.targets, rate)?;
    let pids: Vec<u32> = prober.process.pid().into_iter().collect();
    let counted = load::counted(bench.window(), &pids, &targets.accepted).await?;
    prober.process.check()?;
    Ok(counted)
}

async fn ours(bench: &Bench, shape: Shape) -> Outcome<Counted> {
    let targets = Targets::listen()?;
    let mut registry = Rollcall::start(&bench.lab, Size::One, &[]).await.doing("start")?;
    let channel = rollcall::channel(registry.nodes[0].api)?;
    let items = (0..shape.targets).map(|number| registration(number, targets.port, shape));
    rollcall::fill(&channel, items.collect()).await?;
    let begin = Instant::now();
    while passing(&channel, shape).await? < shape.targets as usize {
        if begin.elapsed() > READY {
            return Err(format!("not all targets pass within {READY:?}").into());
        }
        sleep(LOOK).await;
    }
    let counted = load::counted(bench.window(), &registry.pids(), &targets.accepted).await?;
    registry.nodes[0].process.check()?;
    let passing = passing(&channel, shape).await?;
    if passing < shape.targets as usize {
        return Err(format!("{passing} of {} targets pass after the load", shape.targets).into());
    }
    Ok(counted)
}

fn service(number: u32) -> String {
    format!("checked-{:03}", number / PER_SERVICE)
}

fn registration(number: u32, port: u16, shape: Shape) -> v1::Registration {
    let address = target(number, port);
    let mut item = rollcall::registration(&service(number), number as usize, LONG, 0);
    if let Some(spec) = &mut item.spec {
        for endpoint in &mut spec.endpoints {
            endpoint.host = address.ip().to_string();
            endpoint.port = port.into();
        }
        spec.health_checks = vec![v1::HealthCheck {
            check_id: "tcp".to_owned(),
            interval: prost_types::Duration::try_from(shape.interval).ok(),
            probe: Some(health_check::Probe::Tcp(health_check::TcpProbe::default())),
            ..v1::HealthCheck::default()
        }];
    }
    item
}

/// How many are routable.
async fn passing(channel: &Channel, shape: Shape) -> Outcome<usize> {
    let mut passing = 0;
    for first in (0..shape.targets).step_by(PER_SERVICE as usize) {
        let request = rollcall::look_up(&service(first), Consistency::Stale);
        let answer = rollcall::discovery(channel).resolve(request).await.doing("look up")?;
        // A service of which nobody passes yet answers with all of them.
        let answer = answer.into_inner();
        passing += if answer.fail_open { 0 } else { answer.instances.len() };
    }
    Ok(passing)
}

/// A listener for all targets: it counts connections, and closes them from a thread.
struct Targets {
    port: u16,
    accepted: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Targets {
    fn listen() -> Outcome<Self> {
        let port = process::port()?;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        // On every address of loopback, and on no other.
        socket.bind_device(Some(b"lo")).doing("listen on loopback alone")?;
        // Accepted connections inherit it: closed last and without a farewell, they leave nothing behind for a minute.
        socket.set_zero_linger()?;
        socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        let listener = socket.listen(BACKLOG)?.into_std()?;
        listener.set_nonblocking(false)?;
        let (accepted, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let targets = Self { port, accepted: accepted.clone(), over: over.clone() };
        std::thread::spawn(move || accept(&listener, &accepted, &over));
        Ok(targets)
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        // Wakes the thread; one that has ended needs it no more.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(listener: &TcpListener, accepted: &AtomicU64, over: &AtomicBool) {
    let mut kept: Vec<Option<TcpStream>> = (0..KEPT).map(|_| None).collect();
    for turn in (0..KEPT).cycle() {
        // A prober that went away before it was accepted does not count.
        if let Ok((stream, _)) = listener.accept() {
            accepted.fetch_add(1, Relaxed);
            kept[turn] = Some(stream);
        }
        if over.load(Relaxed) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { targets: 20_000, interval: Duration::from_secs(10) };

    #[test]
    fn a_case_says_how_many_checks_are_due() {
        assert_eq!(SHAPE.case(), "20000 TCP targets, 2000 checks/s");
        let fast = Shape { interval: Duration::from_millis(200), ..SHAPE };
        assert_eq!(fast.case(), "20000 TCP targets, as fast as a core can");
    }

    #[test]
    fn every_target_has_an_address_of_loopback_of_its_own() {
        let all: std::collections::BTreeSet<SocketAddr> =
            (0..SHAPE.targets).map(|number| target(number, 80)).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(|target| target.ip().is_loopback()));
    }

    #[test]
    fn targets_count_who_connects_to_any_of_their_addresses() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let targets = Targets::listen().unwrap();
        for number in [0, 300, 19_999] {
            TcpStream::connect(target(number, targets.port)).unwrap();
        }
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while targets.accepted.load(Relaxed) < 3 {
            assert!(std::time::Instant::now() < until, "not accepted");
            std::thread::yield_now();
        }
    }
}
