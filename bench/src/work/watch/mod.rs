//! Watching: how soon a change is with everybody who watches, what a watcher costs, and how many changes a second can be
//! told to all.

mod closed;

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, etcd, histogram, rollcall},
    outcome::{Doing, Outcome},
    process,
    report::{Curve, Of},
    servers::{Size, bare::Bare, etcd::Etcd, rollcall::Rollcall},
};
use futures_util::{StreamExt, stream};
use hdrhistogram::Histogram;
use rollcall_proto::v1;
use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::transport::Channel;

const WORKLOAD: &str = "watch";
/// Watches on one connection where they share; a node allows 256 streams.
const SHARED: usize = 100;
/// Watchers that may be opened at once.
const OPENING: usize = 50;
/// Longest wait for the last delivery.
const LAST: Duration = Duration::from_secs(20);
const SUBJECTS: [&str; 3] = ["etcd", "rollcall", "bare tonic"];

/// Who watches what, and how often it changes.
#[derive(Debug, Clone, Copy)]
struct Shape {
    watchers: usize,
    services: usize,
    /// Changes each second, over all services.
    rate: f64,
    per_connection: usize,
}

impl Shape {
    fn case(self) -> String {
        format!(
            "{} watchers of {} on {}, {}/s changes, {:.0}/s deliveries",
            self.watchers,
            counted(self.services, "service"),
            counted(self.watchers / self.per_connection, "connection"),
            self.rate,
            self.rate * self.each() as f64,
        )
    }

    /// Watchers of one service.
    fn each(self) -> usize {
        self.watchers / self.services
    }
}

/// What is changed, and who is told.
#[derive(Debug, Clone, Copy)]
enum Side {
    Ours(SocketAddr),
    Etcd(SocketAddr),
}

impl Side {
    fn api(self) -> SocketAddr {
        match self {
            Self::Ours(api) | Self::Etcd(api) => api,
        }
    }
}

/// When each change of each service was sent, in order.
type Sent = Rc<RefCell<Vec<Vec<Instant>>>>;
/// A delivery: service, number of the change, moment.
type Delivery = (usize, usize, Instant);

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "watch: from the moment at which a writer sends a change until a watcher has taken its message apart, over all \
         watchers, so the write itself is part of it. One node on core 0; writer and \
         all watchers on core 1. Memory is the resident growth of the server while \
         the watches were opened, by their number.",
    );
    bench.report.note(
        "watch, closed loop: one writer makes a change as soon as the one before is acknowledged and the slowest watcher is \
         at most 4 behind. Throughput counts what has arrived: messages of ours with the changed instance, events of etcd. A \
         watcher of ours that is behind is told the newest state alone; the changes between are not counted as deliveries, \
         and `changes seen by all` counts them as seen with the newer one. Of each message watchers read the number of \
         the change and skip the rest.",
    );
    let watchers = bench.pick(1_000, 5_000);
    let mut shapes = vec![
        Shape { watchers, services: 50, rate: 100.0, per_connection: SHARED },
        Shape { watchers: 1_000, services: 1, rate: 20.0, per_connection: SHARED },
        Shape { watchers: 1_000, services: 1, rate: 20.0, per_connection: 1 },
    ];
    if !bench.quick {
        shapes.insert(0, Shape { watchers, services: 1, rate: 1.0, per_connection: SHARED });
    }
    // The last is the closed loop.
    let loads: Vec<Option<Shape>> = shapes.into_iter().map(Some).chain([None]).collect();
    bench.steps(bench.repeats * loads.len() * SUBJECTS.len());
    place_load(Size::One)?;
    for repeat in 0..bench.repeats {
        for load in loads.iter().copied() {
            for subject in SUBJECTS {
                let case = load.map_or_else(closed::case, Shape::case);
                bench.step(&format!("watch, {subject}, {case}"));
                let outcome = beside(bench, load, subject, repeat).await;
                bench.survive(outcome)?;
            }
        }
    }
    Ok(())
}

/// One load on one server that is started for it.
async fn beside(bench: &mut Bench, load: Option<Shape>, subject: &str, repeat: usize) -> Outcome {
    let (etcd, ours, bare);
    let (side, pids) = match subject {
        "etcd" => {
            etcd = Etcd::start(&bench.lab, Size::One).await.doing("start")?;
            (Side::Etcd(etcd.members[0].api), etcd.pids())
        }
        "rollcall" => {
            ours = Rollcall::start(&bench.lab, Size::One, &[]).await.doing("start")?;
            (Side::Ours(ours.nodes[0].api), ours.pids())
        }
        _ => {
            bare = Bare::start(&bench.lab, &v1::ResolveResponse::default()).await.doing("start")?;
            (Side::Ours(bare.api), bare.pids())
        }
    };
    match load {
        Some(shape) => measure(bench, shape, side, &pids, subject, repeat).await,
        None => closed::measure(bench, side, &pids, subject).await,
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn service(number: usize) -> String {
    format!("watched-{number:02}")
}

async fn measure(
    bench: &mut Bench,
    shape: Shape,
    side: Side,
    pids: &[u32],
    subject: &str,
    repeat: usize,
) -> Outcome {
    let writer = rollcall::channel(side.api())?;
    let lease = prepare(&writer, shape.services, side).await?;
    let before = process::used(pids)?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let watching = open(shape, side, &tell).await?;
    let memory = process::used(pids)?.memory.saturating_sub(before.memory);
    let case = shape.case();
    let of = Of(WORKLOAD, &case, subject);
    bench.report.add(of, "memory a watcher", "bytes", memory as f64 / shape.watchers as f64);

    let length = bench.pick(Duration::from_secs(2), Duration::from_secs(4));
    let sent: Sent = Rc::new(RefCell::new(vec![Vec::new(); shape.services]));
    let cpu = process::used(pids)?.cpu;
    let write = write(&writer, shape, side, lease, length, &sent);
    let collect = collect(&sent, &mut told, shape, length);
    let ((), waits) = tokio::try_join!(write, collect)?;
    let used = process::used(pids)?.cpu.saturating_sub(cpu);
    drop(watching);
    let micros = |quantile: f64| waits.value_at_quantile(quantile) as f64 / 1e3;
    for (metric, quantile) in [("sent to seen p50", 0.5), ("sent to seen p99", 0.99)] {
        bench.report.add(of, metric, "us", micros(quantile));
    }
    bench.report.add(
        of,
        "server CPU a delivery",
        "us",
        used.as_secs_f64() * 1e6 / waits.len() as f64,
    );
    if repeat == 0 && shape.rate == 20.0 && shape.per_connection == SHARED {
        let quantiles = (1..100_u32).map(f64::from);
        let points = quantiles.map(|percent| (micros(percent / 100.0) / 1e3, percent)).collect();
        bench.report.curve(Curve {
            plot: "watch-1000",
            x: "ms from sent to seen, 1,000 watchers, 20 changes/s",
            y: "percent of deliveries within",
            subject: subject.to_owned(),
            points,
        });
    }
    Ok(())
}

/// The instances that will be changed; the lease that etcd's share.
async fn prepare(writer: &Channel, services: usize, side: Side) -> Outcome<i64> {
    let lease = match side {
        Side::Ours(_) => 0,
        Side::Etcd(_) => etcd::grant(writer, LONG).await?.0,
    };
    for number in 0..services {
        change(writer, side, number, 0, lease).await.doing("register what is watched")?;
    }
    Ok(lease)
}

/// Makes a change. Ours carries its number as its weight less one, etcd's as the version of the key.
async fn change(writer: &Channel, side: Side, at: usize, number: usize, lease: i64) -> Outcome {
    match side {
        Side::Ours(_) => {
            let item = rollcall::registration(&service(at), 0, LONG, number);
            rollcall::register(writer, vec![item]).await.map(drop)
        }
        Side::Etcd(_) => etcd::put(writer, &service(at), 0, lease).await,
    }
}

/// Opens all watches; they tell what they see until the set is dropped.
async fn open(
    shape: Shape,
    side: Side,
    tell: &mpsc::UnboundedSender<Delivery>,
) -> Outcome<JoinSet<()>> {
    let channels = rollcall::channels(side.api(), shape.watchers.div_ceil(shape.per_connection))?;
    let opening = stream::iter(0..shape.watchers).map(|watcher| {
        let (channel, at) =
            (channels[watcher / shape.per_connection].clone(), watcher % shape.services);
        let tell = tell.clone();
        async move {
            Outcome::Ok(match side {
                Side::Ours(_) => ours(&channel, at, tell).await?,
                Side::Etcd(_) => theirs(&channel, at, tell).await?,
            })
        }
    });
    let mut set = JoinSet::new();
    let mut opened = opening.buffer_unordered(OPENING);
    while let Some(watch) = opened.next().await {
        set.spawn(watch?);
    }
    Ok(set)
}

type Watching = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn ours(
    channel: &Channel,
    at: usize,
    tell: mpsc::UnboundedSender<Delivery>,
) -> Outcome<Watching> {
    let names = vec![rollcall::service(&service(at))];
    let list = v1::watch_request::ServiceList { names };
    let request = v1::WatchRequest {
        target: Some(v1::watch_request::Target::Services(list)),
        ..v1::WatchRequest::default()
    };
    let mut answers = rollcall::discovery(channel).watch(request).await?.into_inner();
    Ok(Box::pin(async move {
        while let Ok(Some(answer)) = answers.message().await {
            let Some(v1::watch_response::Event::Delta(delta)) = answer.event else { continue };
            for instance in delta.upserted {
                let weight = instance.spec.and_then(|spec| spec.weight).unwrap_or(1);
                let number = usize::try_from(weight).unwrap_or(1).saturating_sub(1);
                if tell.send((at, number, Instant::now())).is_err() {
                    return;
                }
            }
        }
    }))
}

async fn theirs(
    channel: &Channel,
    at: usize,
    tell: mpsc::UnboundedSender<Delivery>,
) -> Outcome<Watching> {
    let (keep, mut answers) = etcd::watch(channel, &format!("{}/", service(at))).await?;
    answers.message().await?.filter(|first| first.created).ok_or("etcd made no watch")?;
    Ok(Box::pin(async move {
        let _keep = keep;
        while let Ok(Some(answer)) = answers.message().await {
            for event in answer.events {
                let version = event.kv.map_or(1, |kv| kv.version);
                let number = usize::try_from(version).unwrap_or(1).saturating_sub(1);
                if tell.send((at, number, Instant::now())).is_err() {
                    return;
                }
            }
        }
    }))
}

/// Changes the services in turn at the rate of the shape, without waiting for one before the next.
async fn write(
    writer: &Channel,
    shape: Shape,
    side: Side,
    lease: i64,
    length: Duration,
    sent: &Sent,
) -> Outcome {
    let mut pace = load::pace(shape.rate, length);
    let (mut number, mut writes) = (0, JoinSet::new());
    while pace.recv().await.is_some() {
        let at = number % shape.services;
        number += 1;
        let change_number = {
            let mut sent = sent.borrow_mut();
            sent[at].push(Instant::now());
            sent[at].len()
        };
        let writer = writer.clone();
        writes.spawn(async move { change(&writer, side, at, change_number, lease).await });
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    // Changes that were under way together may have changed places, and a watcher that is behind is told the newest state
    // alone. This one everybody is told of.
    for at in 0..shape.services {
        let number = {
            let mut sent = sent.borrow_mut();
            if sent[at].is_empty() {
                continue;
            }
            sent[at].push(Instant::now());
            sent[at].len()
        };
        change(writer, side, at, number, lease).await?;
    }
    Ok(())
}

/// Takes deliveries until everybody has seen the last change of every service, which is after those of the pace and does
/// not count.
async fn collect(
    sent: &Sent,
    told: &mut mpsc::UnboundedReceiver<Delivery>,
    shape: Shape,
    length: Duration,
) -> Outcome<Histogram<u64>> {
    let begin = Instant::now();
    let mut waits = histogram()?;
    let mut finals = 0;
    // As many changes as the pace makes, shared out in turn.
    let all = (length.as_secs_f64() * shape.rate).floor();
    let paced = |at: usize| {
        let all = all as usize;
        all / shape.services + usize::from(at < all % shape.services)
    };
    let changed = (0..shape.services).filter(|at| paced(*at) > 0).count();
    while finals < changed * shape.each() {
        let left = (length + LAST).saturating_sub(begin.elapsed());
        let delivery = timeout(left, told.recv()).await;
        let Ok(Some((at, number, seen))) = delivery else {
            return Err(format!(
                "{finals} of {} watchers saw the last change",
                changed * shape.each()
            )
            .into());
        };
        // Zero is what was there before.
        let Some(number) = number.checked_sub(1) else { continue };
        let began = sent.borrow().get(at).and_then(|sent| sent.get(number)).copied();
        let began = began.ok_or("a change was seen that nobody made")?;
        if number < paced(at) {
            waits.saturating_record(u64::try_from((seen - began).as_nanos())?);
        } else {
            finals += 1;
        }
    }
    Ok(waits)
}
