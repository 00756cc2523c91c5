//! DNS: answers a second of one core, and latency at a fixed rate.

use super::{Bench, place_load};
use crate::{
    dns::{
        data::Data,
        load::{self, Pressure, Report},
        servers::{self, Kind, Server},
        tcp, visible,
    },
    load::{histogram, pace, rollcall},
    outcome::{Doing, Outcome, told},
    process,
    report::{LOAD, Of, SERVERS, THROUGHPUT},
    servers::Size,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{net::SocketAddr, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tonic::transport::Channel;

const WORKLOAD: &str = "dns";
const QUESTIONS: [&str; 5] = ["a", "srv", "random", "mix", "echo"];
/// Those of them for a first look.
const QUICK: [&str; 3] = ["a", "srv", "echo"];
const WINDOW: u16 = 64;
/// Queries under way at most where they are paced.
const PACED_WINDOW: u16 = 512;
/// Changes a second beside queries.
const CHANGES: f64 = 2_000.0;
/// Most calls that change something under way.
const WRITING: usize = 1_024;

/// Instances of a service where nothing else is asked for.
pub(crate) const INSTANCES: u8 = 3;

pub(crate) async fn run(bench: &mut Bench, instances: u8) -> Outcome {
    let instances = usize::from(instances);
    bench.report.note(&format!(
        "dns: server on core 0 with one thread that answers, load on core 1 with 64 queries under way over 8 sockets; \
         10,000 services of {instances} instances (dnsmasq: 1,000, addresses alone). Ours is the whole node, with the other \
         servers' names registered over gRPC. `random` are names that do not exist; `mix` is 60 % A, 10 % AAAA, 25 % SRV, \
         5 % random. Every answer is checked for its code and its number of records; wrong and lost ones are counted."
    ));
    bench.steps(bench.repeats * Kind::ALL.len());
    place_load(Size::One)?;
    let length = bench.pick(Duration::from_millis(700), Duration::from_secs(2));
    let closed = Pressure { window: WINDOW, rate: 0.0, length };
    for _ in 0..bench.repeats {
        // Half of what knot answers in this repeat is the rate for all.
        let mut half = [0.0; QUESTIONS.len()];
        for kind in Kind::ALL {
            bench.step(&format!("dns, {}", kind.name()));
            let outcome = one(bench, kind, instances, &mut half, closed).await;
            bench.survive(outcome)?;
        }
    }
    Ok(())
}

/// Starts a server, asks it everything that it knows, and ends it.
async fn one(
    bench: &mut Bench,
    kind: Kind,
    instances: usize,
    half: &mut [f64],
    closed: Pressure,
) -> Outcome {
    let started = servers::start(&bench.lab, kind, instances).await;
    let mut server = started.doing("start and fill")?;
    let asked = ask(bench, &server, (kind, kind.data(instances)), half, closed).await;
    // Where it has ended by itself, its last words are the reason.
    match (asked, server.check()) {
        (Err(problem), Err(ended)) => Err(ended).doing(told(&*problem)),
        (asked, ended) => asked.and(ended),
    }
}

async fn ask(
    bench: &mut Bench,
    server: &Server,
    (kind, data): (Kind, Data),
    half: &mut [f64],
    closed: Pressure,
) -> Outcome {
    for (question, half) in QUESTIONS.into_iter().zip(half) {
        if !kind.knows(question) || bench.quick && !QUICK.contains(&question) {
            continue;
        }
        peak(bench, server, (kind, data), question, closed).doing(case(question))?;
        if kind == Kind::Knot {
            let of = (&*case(question), "knot");
            *half = bench.report.median(Of(WORKLOAD, of.0, of.1), THROUGHPUT).unwrap_or(0.0) / 2.0;
        }
        if matches!(question, "a" | "srv") && matches!(kind, Kind::Knot | Kind::Rollcall) {
            at_rate(bench, server, (kind, data), question, Pressure { rate: *half, ..closed })?;
        }
    }
    if matches!(kind, Kind::Knot | Kind::Rollcall) {
        let report = tcp::load(server.address, "a", data, closed.length).await?;
        note(bench, Of(WORKLOAD, "TCP, a", kind.name()), &report);
    }
    if let Some(api) = server.api {
        // One by one, as services come; and as many in each call as a deployment brings.
        for in_a_call in [1, 100] {
            let outcome = changing(bench, (server.address, api), data, closed, in_a_call).await;
            outcome.doing(beside(in_a_call))?;
        }
    }
    Ok(())
}

/// Latency at half of knot's rate.
fn at_rate(
    bench: &mut Bench,
    server: &Server,
    (kind, data): (Kind, Data),
    question: &str,
    pressure: Pressure,
) -> Outcome {
    let case = format!("{}, half of knot's rate", case(question));
    // Knot has failed in this repeat, which was told.
    if pressure.rate == 0.0 {
        return Ok(());
    }
    let paced = Pressure { window: PACED_WINDOW, ..pressure };
    let report = load::load(server.address, question, data, paced).doing(&case)?;
    let of = Of(WORKLOAD, &case, kind.name());
    bench.report.add(of, "latency p50", "us", report.p50 as f64);
    bench.report.add(of, "latency p99", "us", report.p99 as f64);
    Ok(())
}

fn beside(in_a_call: usize) -> String {
    format!("UDP, a, beside 2,000 changes/s, {in_a_call} in a call")
}

fn case(question: &str) -> String {
    // The echo stands beside both, as what the machine allows.
    format!("UDP, {question}")
}

fn peak(
    bench: &mut Bench,
    server: &Server,
    (kind, data): (Kind, Data),
    question: &str,
    pressure: Pressure,
) -> Outcome {
    let (before, begin) = (process::used(&server.pids())?.cpu, std::time::Instant::now());
    let report = load::load(server.address, question, data, pressure)?;
    let used = process::used(&server.pids())?.cpu.saturating_sub(before);
    // The echo stands beside all of them.
    let asked = |about: &&str| !bench.quick || QUICK.contains(about);
    let cases: Vec<&str> = match question {
        "echo" => QUESTIONS.into_iter().filter(|about| *about != "echo").filter(asked).collect(),
        question => vec![question],
    };
    for question in cases {
        let case = case(question);
        let of = Of(WORKLOAD, &case, kind.name());
        note(bench, of, &report);
        bench.report.add(of, SERVERS, "cores", used.as_secs_f64() / begin.elapsed().as_secs_f64());
        // The load never sleeps: it was busy where it found answers each time that it looked.
        bench.report.add(of, LOAD, "cores", 1.0 - report.idle);
    }
    Ok(())
}

fn note(bench: &mut Bench, of: Of<'_>, report: &Report) {
    bench.report.add(of, THROUGHPUT, "1/s", report.answers);
    let bad = report.lost + report.wrong;
    if bad > 0 {
        bench.report.add(of, "lost or wrong", "answers", bad as f64);
    }
}

/// The same questions while the registry changes, and how soon a new service is in DNS meanwhile. Changes come from a
/// thread beside the load, on its core.
async fn changing(
    bench: &mut Bench,
    (address, api): (SocketAddr, SocketAddr),
    data: Data,
    pressure: Pressure,
    in_a_call: usize,
) -> Outcome {
    let load = std::thread::spawn(move || load::load(address, "a", data, pressure));
    let channel = rollcall::channel(api)?;
    let (tell, mut seen) = mpsc::unbounded_channel();
    let mut watch = JoinSet::new();
    watch.spawn(visible::watch(address, channel.clone(), data, tell));
    let made = change(&channel, data, in_a_call, || load.is_finished()).await;
    // Not before the load has ended: it would disturb what comes next.
    let report = load.join().map_err(|_| "the load panicked")??;
    let case = beside(in_a_call);
    let of = Of(WORKLOAD, &case, "rollcall");
    note(bench, of, &report);
    bench.report.add(of, "changes made", "1/s", made?);
    if let Some(ended) = watch.try_join_next() {
        ended?.doing("how soon a service is in DNS")?;
    }
    let mut waits = histogram()?;
    while let Ok(wait) = seen.try_recv() {
        waits.saturating_record(u64::try_from(wait.as_nanos())?);
    }
    bench.report.add(of, "services seen to appear", "", waits.len() as f64);
    if waits.is_empty() {
        return Err("no new service was seen in DNS".into());
    }
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let micros = waits.value_at_quantile(quantile) as f64 / 1e3;
        bench.report.add(of, &format!("acknowledged to visible {metric}"), "us", micros);
    }
    Ok(())
}

/// Makes changes until it is told to stop; how many a second.
async fn change(
    channel: &Channel,
    data: Data,
    in_a_call: usize,
    is_over: impl Fn() -> bool,
) -> Outcome<f64> {
    let mut pace = pace(CHANGES / in_a_call as f64, Duration::from_secs(60));
    let (mut dice, mut made, begin) = (SmallRng::seed_from_u64(9), 0, Instant::now());
    let mut writes = JoinSet::new();
    while !is_over() && pace.recv().await.is_some() {
        // Each of another service: a call may not name an instance twice.
        let first = dice.random_range(0..data.services);
        let items = (first..first + in_a_call).map(|service| {
            let instance = dice.random_range(0..data.instances);
            data.registration(service % data.services, instance, dice.random())
        });
        let items = items.collect();
        let channel = channel.clone();
        writes.spawn(async move { rollcall::register(&channel, items).await });
        // A node that is behind is not sent ever more: it would refuse from its limit on. That they are fewer than meant
        // is told.
        let full = writes.len() >= WRITING;
        let waited = if full { writes.join_next().await } else { None };
        for written in waited.into_iter().chain(std::iter::from_fn(|| writes.try_join_next())) {
            written??;
            made += in_a_call;
        }
    }
    Ok(made as f64 / begin.elapsed().as_secs_f64())
}
