//! Growth: what an instance costs when there are a thousand of them and when there are a million.

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, bytes::unread, etcd, rollcall},
    outcome::Outcome,
    report::{Curve, Of},
    servers::{Size, etcd::Etcd, rollcall::Rollcall},
};
use rollcall_proto::v1::Consistency;
use std::{cell::Cell, collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const WORKLOAD: &str = "scale";
const PER_SERVICE: usize = 10;
const CONNECTIONS: usize = 8;
/// A catalogue holds a million, and some more are registered while it is measured.
const MOST: usize = 998_000;
/// etcd takes minutes for more.
const MOST_ETCD: usize = 100_000;
const RESOLVE: &str = "/rollcall.v1.DiscoveryService/Resolve";
const RANGE: &str = "/etcdserverpb.KV/Range";
/// Calls each second where latency is measured: little, so that it is no queue that is measured.
const RATE: f64 = 500.0;

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "scale: instances of about 230 bytes with a lease each, ten to a service, one node on core 0. Start-up counts from \
         the start of the process to the first complete linearizable answer, after SIGKILL (ours: from its snapshot and \
         the log after it). Latencies at 500 calls a second. etcd stops at 100,000: a million leases take it minutes. \
         Once each, not repeated.",
    );
    let counts: &[usize] = bench.pick(&[1_000, 10_000], &[1_000, 10_000, 100_000, MOST]);
    bench.steps(counts.len() * 2);
    place_load(Size::One)?;
    let mut curves = Curves::new();
    for count in counts.iter().copied() {
        if count <= MOST_ETCD {
            bench.step(&format!("scale, etcd, {count}"));
            let points = theirs(bench, count).await;
            let outcome = points.map(|points| add(&mut curves, "etcd", count, points));
            bench.survive(outcome)?;
        }
        bench.step(&format!("scale, rollcall, {count}"));
        let points = ours(bench, count).await;
        let outcome = points.map(|points| add(&mut curves, "rollcall", count, points));
        bench.survive(outcome)?;
    }
    for ((plot, subject), points) in curves {
        let y = match plot {
            "scale-memory" => "bytes of memory an instance",
            "scale-start" => "ms from start to first answer",
            _ => "us of a look-up, p50",
        };
        bench.report.curve(Curve { plot, x: "instances", y, subject: subject.to_owned(), points });
    }
    Ok(())
}

/// Points by plot and subject.
type Curves = BTreeMap<(&'static str, &'static str), Vec<(f64, f64)>>;

fn add(curves: &mut Curves, subject: &'static str, count: usize, points: Points) {
    for (plot, value) in points {
        curves.entry((plot, subject)).or_default().push((count as f64, value));
    }
}

/// Points of the plots.
type Points = [(&'static str, f64); 3];

fn service(number: usize) -> String {
    format!("service-{:06}", number / PER_SERVICE)
}

fn case(count: usize) -> String {
    format!("{count} instances")
}

async fn ours(bench: &mut Bench, count: usize) -> Outcome<Points> {
    let mut registry = Rollcall::start(&bench.lab, Size::One, &[]).await?;
    let (api, case) = (registry.nodes[0].api, case(count));
    let of = Of(WORKLOAD, &case, "rollcall");
    let empty = registry.used()?.memory;
    let channel = rollcall::channel(api)?;
    let begin = Instant::now();
    // In pieces: a million registrations at once would be a gigabyte here.
    for first in (0..count).step_by(50_000) {
        let piece = first..count.min(first + 50_000);
        let items = piece.map(|n| rollcall::registration(&service(n), n, LONG, 0)).collect();
        rollcall::fill(&channel, items).await?;
    }
    bench.report.add(
        of,
        "filled, batches of 500",
        "1/s",
        count as f64 / begin.elapsed().as_secs_f64(),
    );
    let memory = registry.used()?.memory.saturating_sub(empty) as f64 / count as f64;
    bench.report.add(of, "memory an instance", "bytes", memory);
    let begin = Instant::now();
    rollcall::snapshot(api).await?;
    bench.report.add(of, "snapshot on demand, call", "ms", begin.elapsed().as_secs_f64() * 1e3);

    let (channels, pids, next) =
        (rollcall::channels(api, CONNECTIONS)?, registry.pids(), Cell::new(count));
    let channels = &channels;
    let services = count / PER_SERVICE;
    let seen = load::paced(RATE, bench.window(), &pids, |number| async move {
        let number = usize::try_from(number)?;
        let about = service(number * 7_919 % services * PER_SERVICE);
        let request = rollcall::look_up(&about, Consistency::Stale);
        unread(&channels[number % CONNECTIONS], RESOLVE, request).await.map(drop)
    });
    let look_up = seen.await?;
    latency(bench, of, "look-up", &look_up);
    let next = &next;
    let seen = load::paced(RATE, bench.window(), &pids, |number| async move {
        let instance = next.replace(next.get() + 1);
        let item = rollcall::registration(&service(instance), instance, LONG, 0);
        let channel = &channels[usize::try_from(number)? % CONNECTIONS];
        rollcall::register(channel, vec![item]).await.map(drop)
    });
    latency(bench, of, "register", &seen.await?);

    let node = &mut registry.nodes[0];
    node.process.kill();
    let begin = Instant::now();
    node.process.start()?;
    let asked = rollcall::look_up(&service(0), Consistency::Linearizable);
    loop {
        node.process.check()?;
        let channel = rollcall::channel(api)?;
        let answer = rollcall::discovery(&channel).resolve(asked.clone()).await;
        if answer.is_ok_and(|answer| answer.get_ref().instances.len() == PER_SERVICE) {
            break;
        }
        give_up(begin)?;
    }
    let start = begin.elapsed().as_secs_f64() * 1e3;
    bench.report.add(of, "start to first linearizable answer", "ms", start);
    Ok([("scale-memory", memory), ("scale-start", start), ("scale-look-up", look_up.micros(0.5))])
}

async fn theirs(bench: &mut Bench, count: usize) -> Outcome<Points> {
    let mut etcd = Etcd::start(&bench.lab, Size::One).await?;
    let (api, case) = (etcd.members[0].api, case(count));
    let of = Of(WORKLOAD, &case, "etcd");
    let empty = etcd.used()?.memory;
    let begin = Instant::now();
    let items = (0..count).map(|number| (service(number), number));
    etcd::fill(&rollcall::channels(api, CONNECTIONS)?, items, LONG).await?;
    bench.report.add(
        of,
        "filled, 256 in flight",
        "1/s",
        count as f64 / begin.elapsed().as_secs_f64(),
    );
    let memory = etcd.used()?.memory.saturating_sub(empty) as f64 / count as f64;
    bench.report.add(of, "memory an instance", "bytes", memory);

    let member = &mut etcd.members[0];
    member.process.kill();
    let begin = Instant::now();
    member.process.start()?;
    loop {
        member.process.check()?;
        let mut kv = etcd::api::kv_client::KvClient::new(rollcall::channel(api)?);
        let answer = kv.range(etcd::look_up(&service(0), false)).await;
        if answer.is_ok_and(|answer| answer.get_ref().kvs.len() == PER_SERVICE) {
            break;
        }
        give_up(begin)?;
    }
    let start = begin.elapsed().as_secs_f64() * 1e3;
    bench.report.add(of, "start to first linearizable answer", "ms", start);

    let (channels, pids, next) =
        (rollcall::channels(api, CONNECTIONS)?, etcd.pids(), Cell::new(count));
    let (channels, next, services) = (&channels, &next, count / PER_SERVICE);
    let seen = load::paced(RATE, bench.window(), &pids, |number| async move {
        let number = usize::try_from(number)?;
        let about = service(number * 7_919 % services * PER_SERVICE);
        unread(&channels[number % CONNECTIONS], RANGE, etcd::look_up(&about, true)).await.map(drop)
    });
    let look_up = seen.await?;
    latency(bench, of, "look-up", &look_up);
    let seen = load::paced(RATE, bench.window(), &pids, |number| async move {
        let instance = next.replace(next.get() + 1);
        let channel = &channels[usize::try_from(number)? % CONNECTIONS];
        etcd::register(channel, &service(instance), instance, LONG).await.map(drop)
    });
    latency(bench, of, "register", &seen.await?);
    Ok([("scale-memory", memory), ("scale-start", start), ("scale-look-up", look_up.micros(0.5))])
}

fn latency(bench: &mut Bench, of: Of<'_>, what: &str, seen: &load::Seen) {
    bench.report.add(of, &format!("{what} p50, 500/s"), "us", seen.micros(0.5));
    bench.report.add(of, &format!("{what} p99, 500/s"), "us", seen.micros(0.99));
}

fn give_up(begin: Instant) -> Outcome {
    if begin.elapsed() > Duration::from_secs(120) {
        return Err("no complete answer within two minutes of the start".into());
    }
    Ok(())
}
