//! Heartbeats: how many leases one core keeps alive.

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, Meter, Seen, etcd, rollcall},
    outcome::Outcome,
    report::Of,
    servers::{Size, bare::Bare, etcd::Etcd, rollcall::Rollcall},
};
use futures_util::future::try_join_all;
use rollcall_proto::v1;
use std::{collections::VecDeque, net::SocketAddr};
use tokio::{sync::Mutex, time::Instant};

const WORKLOAD: &str = "heartbeat";
const CONNECTIONS: usize = 8;
const STREAMS: usize = 64;
/// Beats a second of 100,000 instances that beat each 10 seconds.
const STEADY: f64 = 10_000.0;
const STEADY_CASE: &str = "10,000 beats/s, 1 lease a message";
/// Messages in flight on each stream, and leases in each.
const SHAPES: [Shape; 3] = [
    Shape { name: "64 streams, 1 lease a message, 1 in flight", flight: 1, leases: 1 },
    Shape { name: "64 streams, 1 lease a message, 16 in flight", flight: 16, leases: 1 },
    Shape { name: "64 streams, batches, 16 in flight", flight: 16, leases: 100 },
];

#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    flight: usize,
    leases: usize,
}

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "heartbeat: one node on core 0, load on core 1, 64 streams on 8 connections; throughput counts leases. etcd was \
         restarted after it had been filled, which is its faster state; its protocol has no batches, so `batches` (100 \
         leases a message) shows its messages of one lease in the same number of flights. `10,000 beats/s` is what 100,000 instances send that beat each 10 s.",
    );
    let leases = bench.pick(6_400, 19_200);
    bench.steps(bench.repeats * (SHAPES.len() + 1) * 3);
    place_load(Size::One)?;
    for _ in 0..bench.repeats {
        let outcome = peer(bench, leases).await;
        bench.survive(outcome)?;
        let outcome = ours(bench, leases).await;
        bench.survive(outcome)?;
        let outcome = ceiling(bench, leases).await;
        bench.survive(outcome)?;
    }
    Ok(())
}

/// What the machine allows.
async fn ceiling(bench: &mut Bench, leases: usize) -> Outcome {
    bench.step("heartbeat, bare tonic, steady");
    let bare = Bare::start(&bench.lab, &v1::ResolveResponse::default()).await?;
    let handles: Vec<u64> = (0..leases as u64).collect();
    let seen = steady(bench, bare.api, &bare.pids(), &handles).await?;
    tell(bench, "bare tonic", &seen);
    for shape in SHAPES {
        bench.step(&format!("heartbeat, bare tonic, {}", shape.name));
        let seen = beat(bench, bare.api, &bare.pids(), &handles, shape).await?;
        bench.report.rate(Of(WORKLOAD, shape.name, "bare tonic"), &seen);
    }
    Ok(())
}

async fn ours(bench: &mut Bench, leases: usize) -> Outcome {
    bench.step("heartbeat, rollcall, steady");
    let registry = Rollcall::start(&bench.lab, Size::One, &[]).await?;
    let api = registry.nodes[0].api;
    let items = (0..leases).map(|number| {
        rollcall::registration(&format!("service-{:04}", number / 100), number, LONG, 0)
    });
    let handles = rollcall::fill(&rollcall::channel(api)?, items.collect()).await?;
    let seen = steady(bench, api, &registry.pids(), &handles).await?;
    tell(bench, "rollcall", &seen);
    for shape in SHAPES {
        bench.step(&format!("heartbeat, rollcall, {}", shape.name));
        let seen = beat(bench, api, &registry.pids(), &handles, shape).await?;
        bench.report.rate(Of(WORKLOAD, shape.name, "rollcall"), &seen);
    }
    Ok(())
}

fn tell(bench: &mut Bench, subject: &str, seen: &Seen) {
    let of = Of(WORKLOAD, STEADY_CASE, subject);
    bench.report.add(of, "server CPU", "core", seen.servers);
    bench.report.latency(of, seen);
}

/// A fixed rate of beats, shared out over the streams.
async fn steady(bench: &Bench, api: SocketAddr, pids: &[u32], handles: &[u64]) -> Outcome<Seen> {
    let channels = rollcall::channels(api, CONNECTIONS)?;
    let mut streams = Vec::new();
    for at in 0..STREAMS {
        streams.push(Mutex::new(rollcall::Beats::open(&channels[at % CONNECTIONS]).await?));
    }
    let streams = &streams;
    load::paced(STEADY, bench.window(), pids, |number| async move {
        let number = usize::try_from(number)?;
        let mut stream = streams[number % STREAMS].lock().await;
        stream.send(&handles[number % handles.len()..][..1]).await?;
        stream.acknowledged().await.map(drop)
    })
    .await
}

/// The same of etcd.
async fn steady_etcd(
    bench: &Bench,
    api: SocketAddr,
    pids: &[u32],
    leases: &[i64],
) -> Outcome<Seen> {
    let channels = rollcall::channels(api, CONNECTIONS)?;
    let mut streams = Vec::new();
    for at in 0..STREAMS {
        let stream = etcd::Beats::open(&channels[at % CONNECTIONS], leases[at]).await?;
        streams.push(Mutex::new(stream));
    }
    let streams = &streams;
    load::paced(STEADY, bench.window(), pids, |number| async move {
        let number = usize::try_from(number)?;
        let mut stream = streams[number % STREAMS].lock().await;
        stream.send(leases[number % leases.len()]).await?;
        stream.acknowledged().await
    })
    .await
}

/// Our protocol, at any server that speaks it.
async fn beat(
    bench: &Bench,
    api: SocketAddr,
    pids: &[u32],
    handles: &[u64],
    shape: Shape,
) -> Outcome<Seen> {
    let channels = rollcall::channels(api, CONNECTIONS)?;
    let mut streams = Vec::new();
    for at in 0..STREAMS {
        streams.push(rollcall::Beats::open(&channels[at % CONNECTIONS]).await?);
    }
    let share = handles.len() / STREAMS;
    load::closed(bench.window(), pids, async |meter| {
        let loops = streams.into_iter().zip(handles.chunks(share)).map(|(stream, own)| {
            // The last chunk of a stream's own leases may be short; each message is as long as the shape says.
            let whole = own.len() / shape.leases * shape.leases;
            keep_beating(meter, stream, &own[..whole], shape)
        });
        try_join_all(loops).await
    })
    .await
}

async fn keep_beating(
    meter: &Meter,
    mut stream: rollcall::Beats,
    own: &[u64],
    shape: Shape,
) -> Outcome {
    let mut messages = own.chunks(shape.leases).cycle();
    let mut sent = VecDeque::new();
    while meter.is_open() {
        while sent.len() < shape.flight {
            let message = messages.next().ok_or("a stream without leases")?;
            stream.send(message).await?;
            sent.push_back(Instant::now());
        }
        for _ in 0..stream.acknowledged().await? {
            let began = sent.pop_front().ok_or("acknowledged what was not sent")?;
            meter.done(began, shape.leases as u64);
        }
    }
    Ok(())
}

async fn peer(bench: &mut Bench, leases: usize) -> Outcome {
    bench.step("heartbeat, etcd, steady");
    let mut etcd = Etcd::start(&bench.lab, Size::One).await?;
    let api = etcd.members[0].api;
    let channels = rollcall::channels(api, CONNECTIONS)?;
    let items = (0..leases).map(|number| (format!("service-{:04}", number / 100), number));
    let leases = etcd::fill(&channels, items, LONG).await?;
    etcd.restart().await?;
    let seen = steady_etcd(bench, api, &etcd.pids(), &leases).await?;
    tell(bench, "etcd", &seen);
    for shape in SHAPES {
        bench.step(&format!("heartbeat, etcd, {}", shape.name));
        let channels = rollcall::channels(api, CONNECTIONS)?;
        let share = leases.len() / STREAMS;
        let mut streams = Vec::new();
        for (at, own) in leases.chunks(share).take(STREAMS).enumerate() {
            streams.push((etcd::Beats::open(&channels[at % CONNECTIONS], own[0]).await?, own));
        }
        let pids = etcd.pids();
        let seen = load::closed(bench.window(), &pids, async |meter| {
            let loops =
                streams.into_iter().map(|(stream, own)| keep_alive(meter, stream, own, shape));
            try_join_all(loops).await
        });
        bench.report.rate(Of(WORKLOAD, shape.name, "etcd"), &seen.await?);
    }
    Ok(())
}

async fn keep_alive(meter: &Meter, mut stream: etcd::Beats, own: &[i64], shape: Shape) -> Outcome {
    let mut leases = own.iter().copied().cycle();
    let mut sent = VecDeque::new();
    while meter.is_open() {
        while sent.len() < shape.flight {
            stream.send(leases.next().ok_or("a stream without leases")?).await?;
            sent.push_back(Instant::now());
        }
        stream.acknowledged().await?;
        let began = sent.pop_front().ok_or("acknowledged what was not sent")?;
        meter.done(began, 1);
    }
    Ok(())
}
