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
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rollcall_proto::v1;
use std::{net::SocketAddr, time::Duration};
use tokio::{task::JoinSet, time::Instant};
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
/// One of so many changes registers a service that is new, or one of each call.
const NEW_EVERY: usize = 40;
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
    let changes = Changes { api: rollcall::channel(api)?, dns: address, data, in_a_call };
    let changed = changes.make(|| load.is_finished()).await;
    // Not before the load has ended: it would disturb what comes next.
    let report = load.join().map_err(|_| "the load panicked")??;
    let case = beside(in_a_call);
    let of = Of(WORKLOAD, &case, "rollcall");
    note(bench, of, &report);
    let (rate, waits) = changed?;
    bench.report.add(of, "changes made", "1/s", rate);
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

/// What is changed beside queries, and where it is to be seen.
struct Changes {
    api: Channel,
    dns: SocketAddr,
    data: Data,
    in_a_call: usize,
}

impl Changes {
    /// Makes changes until it is told to stop; how many a second, and how long those of them that are new took to be in
    /// DNS.
    async fn make(&self, is_over: impl Fn() -> bool) -> Outcome<(f64, Histogram<u64>)> {
        let (begin, mut made, mut waits) = (Instant::now(), 0, histogram()?);
        let mut pace = pace(CHANGES / self.in_a_call as f64, Duration::from_secs(60));
        let (mut dice, mut calls, mut writes) = (SmallRng::seed_from_u64(9), 0, JoinSet::new());
        while !is_over() && pace.recv().await.is_some() {
            let is_new = calls * self.in_a_call % NEW_EVERY < self.in_a_call;
            let new = is_new.then_some(self.data.services + calls);
            calls += 1;
            writes.spawn(write(
                self.api.clone(),
                self.items(new, &mut dice),
                self.dns,
                self.data,
                new,
            ));
            // A node that is behind is not sent ever more: it would refuse from its limit on. That they are fewer than
            // meant is told.
            let full = writes.len() >= WRITING;
            let waited = if full { writes.join_next().await } else { None };
            for written in waited.into_iter().chain(std::iter::from_fn(|| writes.try_join_next())) {
                made += self.in_a_call;
                record(&mut waits, written??)?;
            }
        }
        let rate = made as f64 / begin.elapsed().as_secs_f64();
        // Those that are still waiting are the slowest.
        while let Some(written) = writes.join_next().await {
            record(&mut waits, written??)?;
        }
        Ok((rate, waits))
    }

    /// Instances that are there already, registered by another owner; the first one is of a new service where asked for.
    fn items(&self, new: Option<usize>, dice: &mut SmallRng) -> Vec<v1::Registration> {
        let data = self.data;
        // Each of another service: a call may not name an instance twice.
        let first = dice.random_range(0..data.services);
        let mut items: Vec<v1::Registration> = (first..first + self.in_a_call)
            .map(|service| {
                let instance = dice.random_range(0..data.instances);
                data.registration(service % data.services, instance, dice.random())
            })
            .collect();
        if let (Some(new), Some(item)) = (new, items.first_mut()) {
            *item = data.registration(new, 0, 1);
        }
        items
    }
}

fn record(waits: &mut Histogram<u64>, wait: Option<Duration>) -> Outcome<()> {
    if let Some(wait) = wait {
        waits.saturating_record(u64::try_from(wait.as_nanos())?);
    }
    Ok(())
}

/// One call; where it brings a new service, how long that took to be in DNS.
async fn write(
    api: Channel,
    items: Vec<v1::Registration>,
    dns: SocketAddr,
    data: Data,
    new: Option<usize>,
) -> Outcome<Option<Duration>> {
    rollcall::register(&api, items).await?;
    match new {
        Some(service) => visible::appears(dns, data, service).await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_call_names_no_instance_twice_and_brings_one_new_service_where_asked_for() {
        let (data, here) = (Data { services: 120, instances: 3 }, ([127, 0, 0, 1], 9).into());
        let api = rollcall::channel(here).unwrap();
        let changes = Changes { api, dns: here, data, in_a_call: 100 };
        let mut dice = SmallRng::seed_from_u64(1);
        for new in [None, Some(500)] {
            let items = changes.items(new, &mut dice);
            let names: BTreeSet<String> =
                items.into_iter().filter_map(|item| item.name).map(|name| name.service).collect();
            assert_eq!((names.len(), names.contains("svc00500")), (100, new.is_some()));
        }
    }
}
