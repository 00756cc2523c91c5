//! Eviction: from the end of a lease until everybody sees that the instance is gone.

use super::{Bench, place_load};
use crate::{
    load::{etcd, histogram, rollcall},
    outcome::Outcome,
    report::{Curve, Of},
    servers::{Size, etcd::Etcd, rollcall::Rollcall},
};
use hdrhistogram::Histogram;
use rollcall_proto::v1;
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Streaming, transport::Channel};

const WORKLOAD: &str = "evict";
const CONNECTIONS: usize = 8;
const PER_SERVICE: usize = 1_000;
/// A single instance falls silent so often after the one before.
const APART: Duration = Duration::from_millis(37);
/// Longest wait for the last one, after the end of its lease.
const LAST: Duration = Duration::from_secs(40);
/// Most handles in one message of ours.
const HANDLES: usize = 10_000;

/// How many fall silent, and how.
#[derive(Debug, Clone, Copy)]
struct Shape {
    count: usize,
    ttl: Duration,
    at_once: bool,
}

impl Shape {
    fn case(self) -> String {
        let how = if self.at_once { "at once" } else { "one after the other" };
        format!("{} {how}, TTL {} s", self.count, self.ttl.as_secs())
    }
}

/// The last beat of each instance: sent, acknowledged, and the length that was granted.
type Beaten = BTreeMap<String, (Instant, Instant, Duration)>;

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "evict: lateness is counted from the acknowledgement of the last beat plus the granted TTL until a watcher of \
         everything is told that the instance is gone; early would be before the beat was sent plus the TTL. Protection \
         against mass expiry is off (`protection.enabled=false`): with it on, a sudden loss of more than 15 % is held \
         back on purpose. etcd grants at least 2 s with its default timing, so its TTL of 1 s is one of 2 s.",
    );
    let many = bench.pick(2_000, 10_000);
    let singles = bench.pick(20, 50);
    let second = Duration::from_secs(1);
    let mut shapes = vec![
        Shape { count: singles, ttl: second, at_once: false },
        Shape { count: many, ttl: second * bench.pick(3, 10), at_once: true },
    ];
    if !bench.quick {
        shapes.push(Shape { count: singles, ttl: second * 10, at_once: false });
        shapes.push(Shape { count: many, ttl: second, at_once: true });
    }
    bench.steps(bench.repeats * shapes.len() * 2);
    place_load(Size::One)?;
    for repeat in 0..bench.repeats {
        for shape in shapes.iter().copied() {
            bench.step(&format!("evict, etcd, {}", shape.case()));
            // It takes longer than two seconds to grant it so many leases.
            if !shape.at_once || shape.ttl > Duration::from_secs(2) {
                let late = theirs(bench, shape).await;
                let outcome = late.map(|late| tell(bench, shape, "etcd", &late, repeat));
                bench.survive(outcome)?;
            }
            bench.step(&format!("evict, rollcall, {}", shape.case()));
            let late = ours(bench, shape).await;
            let outcome = late.map(|late| tell(bench, shape, "rollcall", &late, repeat));
            bench.survive(outcome)?;
        }
    }
    Ok(())
}

/// How late everyone was, and how many were early.
struct Late {
    waits: Histogram<u64>,
    early: usize,
}

fn tell(bench: &mut Bench, shape: Shape, subject: &str, late: &Late, repeat: usize) {
    let case = shape.case();
    let of = Of(WORKLOAD, &case, subject);
    let millis = |value: u64| value as f64 / 1e6;
    let waits = &late.waits;
    bench.report.add(of, "late, p50", "ms", millis(waits.value_at_quantile(0.5)));
    bench.report.add(of, "late, p99", "ms", millis(waits.value_at_quantile(0.99)));
    bench.report.add(of, "late, last", "ms", millis(waits.max()));
    bench.report.add(of, "gone too early", "instances", late.early as f64);
    if repeat == 0 && shape.at_once && shape.ttl > Duration::from_secs(2) {
        let percents = (1..=100_u32).map(f64::from);
        let points = percents
            .map(|percent| (millis(waits.value_at_quantile(percent / 100.0)).max(1.0), percent));
        bench.report.curve(Curve {
            plot: "evict-storm",
            x: "ms after the end of the lease",
            y: "percent gone",
            subject: subject.to_owned(),
            points: points.collect(),
        });
    }
}

fn service(number: usize) -> String {
    format!("silent-{:03}", number / PER_SERVICE)
}

async fn ours(bench: &Bench, shape: Shape) -> Outcome<Late> {
    let settings = ["protection.enabled=false"];
    let registry = Rollcall::start(&bench.lab, Size::One, &settings).await?;
    let channel = rollcall::channel(registry.nodes[0].api)?;
    let items = (0..shape.count).map(|n| rollcall::registration(&service(n), n, shape.ttl, 0));
    let items: Vec<v1::Registration> = items.collect();
    let pattern = v1::watch_request::ServicePattern {
        namespace: String::new(),
        name_prefix: "silent-".to_owned(),
    };
    let request = v1::WatchRequest {
        target: Some(v1::watch_request::Target::Pattern(pattern)),
        ..v1::WatchRequest::default()
    };
    let gone = tail(rollcall::discovery(&channel).watch(request).await?.into_inner(), gone_ours);
    let mut beaten = Beaten::new();
    let id = |item: &v1::Registration| {
        item.name.as_ref().map_or_else(String::new, |name| name.instance_id.clone())
    };
    if shape.at_once {
        // Registering takes a while: one message of beats for all is what they have in common.
        let ids: Vec<String> = items.iter().map(id).collect();
        let handles = rollcall::fill(&channel, items).await?;
        let mut beats = rollcall::Beats::open(&channel).await?;
        let sent = Instant::now();
        for handles in handles.chunks(HANDLES) {
            beats.send(handles).await?;
            beats.acknowledged().await?;
        }
        let acknowledged = Instant::now();
        beaten.extend(ids.into_iter().map(|id| (id, (sent, acknowledged, shape.ttl))));
        return see(gone, beaten).await;
    }
    let begin = Instant::now();
    for (at, item) in items.into_iter().enumerate() {
        sleep_until(begin + APART * u32::try_from(at)?).await;
        let (id, sent) = (id(&item), Instant::now());
        rollcall::register(&channel, vec![item]).await?;
        beaten.insert(id, (sent, Instant::now(), shape.ttl));
    }
    see(gone, beaten).await
}

fn gone_ours(answer: v1::WatchResponse) -> Vec<String> {
    match answer.event {
        Some(v1::watch_response::Event::Delta(delta)) => {
            delta.removed.into_iter().map(|removal| removal.instance_id).collect()
        }
        _ => Vec::new(),
    }
}

async fn theirs(bench: &Bench, shape: Shape) -> Outcome<Late> {
    let server = Etcd::start(&bench.lab, Size::One).await?;
    let channels = rollcall::channels(server.members[0].api, CONNECTIONS)?;
    let (_keep, mut watch) = etcd::watch(&channels[0], "silent-").await?;
    watch.message().await?.filter(|first| first.created).ok_or("etcd made no watch")?;
    let gone = tail(watch, gone_etcd);
    let mut beaten = Beaten::new();
    let key = |number: usize| etcd::key(&service(number), number);
    if shape.at_once {
        let items = (0..shape.count).map(|number| (service(number), number));
        let leases = etcd::fill(&channels, items, shape.ttl).await?;
        let (sent, acknowledged) = burst(&channels[0], &leases).await?;
        beaten.extend((0..shape.count).map(|n| (key(n), (sent, acknowledged, shape.ttl))));
        return see(gone, beaten).await;
    }
    let begin = Instant::now();
    for number in 0..shape.count {
        sleep_until(begin + APART * u32::try_from(number)?).await;
        let sent = Instant::now();
        let (lease, granted) = etcd::grant(&channels[0], shape.ttl).await?;
        let acknowledged = Instant::now();
        etcd::put(&channels[0], &service(number), number, lease).await?;
        beaten.insert(key(number), (sent, acknowledged, granted));
    }
    see(gone, beaten).await
}

/// One beat for every lease; when the first was sent and when the last was acknowledged.
async fn burst(channel: &Channel, leases: &[i64]) -> Outcome<(Instant, Instant)> {
    let first = *leases.first().ok_or("no leases")?;
    let mut beats = etcd::Beats::open(channel, first).await?;
    let sent = Instant::now();
    for leases in leases.chunks(256) {
        for lease in leases {
            beats.send(*lease).await?;
        }
        for _ in leases {
            beats.acknowledged().await?;
        }
    }
    Ok((sent, Instant::now()))
}

fn gone_etcd(answer: etcd::api::WatchResponse) -> Vec<String> {
    let deleted = answer.events.into_iter().filter(|event| event.r#type == 1);
    let keys = deleted.filter_map(|event| event.kv).map(|kv| kv.key);
    keys.map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
}

/// Who is gone, and the moment at which that was read.
type Gone = mpsc::UnboundedReceiver<(Vec<String>, Instant)>;

/// Reads a watch all the time, so that a removal is seen when it arrives.
fn tail<T: Send + 'static>(mut watch: Streaming<T>, of: fn(T) -> Vec<String>) -> Gone {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(answer)) = watch.message().await {
            let now = Instant::now();
            let gone = of(answer);
            if !gone.is_empty() && sender.send((gone, now)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Waits until all of them are gone.
async fn see(mut gone: Gone, mut beaten: Beaten) -> Outcome<Late> {
    let mut late = Late { waits: histogram()?, early: 0 };
    let end = beaten.values().map(|(_, acknowledged, ttl)| *acknowledged + *ttl).max();
    let end = end.ok_or("nobody to be silent")? + LAST;
    while !beaten.is_empty() {
        let next = timeout(end.saturating_duration_since(Instant::now()), gone.recv());
        let Ok(next) = next.await else {
            return Err(format!("{} are there still {LAST:?} after their TTL", beaten.len()).into());
        };
        let (ids, seen) = next.ok_or("the watch ended")?;
        for id in ids {
            let Some((sent, acknowledged, ttl)) = beaten.remove(&id) else { continue };
            late.early += usize::from(seen < sent + ttl);
            let wait = seen.saturating_duration_since(acknowledged + ttl);
            late.waits.saturating_record(u64::try_from(wait.as_nanos())?);
        }
    }
    Ok(late)
}
