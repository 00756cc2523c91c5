//! Look-ups of a service of ten instances: from what the node has, and linearizable.

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, bytes::unread, etcd, rollcall},
    outcome::Outcome,
    report::Of,
    servers::{
        Size,
        bare::{Bare, opaque},
        etcd::Etcd,
        rollcall::Rollcall,
    },
};
use rollcall_proto::v1::{self, Consistency};
use std::net::SocketAddr;
use tonic::transport::Channel;

const WORKLOAD: &str = "resolve";
const CONNECTIONS: usize = 8;
const CALLERS: usize = 64;
const INSTANCES: usize = 10;
const RESOLVE: &str = "/rollcall.v1.DiscoveryService/Resolve";
const RANGE: &str = "/etcdserverpb.KV/Range";
/// How reads are asked for, by us and by etcd.
const WAYS: [(&str, Consistency, bool); 2] =
    [("stale", Consistency::Stale, true), ("linearizable", Consistency::Linearizable, false)];

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "resolve: 10 instances an answer, 64 callers on 8 connections; answers are received and not taken apart. One node \
         on core 0, load on core 1. etcd was restarted after it had been filled, which is its faster state; stale is \
         `serializable` there. `tonic, ready bytes` answers with one text of the same size (the ceiling), `tonic, \
         encoding` encodes the ten instances for each call.",
    );
    let services = bench.pick(100, 1_000);
    bench.steps(bench.repeats * 8);
    place_load(Size::One)?;
    for _ in 0..bench.repeats {
        let outcome = side_by_side(bench, services).await;
        bench.survive(outcome)?;
    }
    Ok(())
}

async fn side_by_side(bench: &mut Bench, services: usize) -> Outcome {
    bench.step("resolve, etcd, start and fill");
    let rate = peer(bench, services).await?;
    bench.step("resolve, rollcall, start and fill");
    let reply = ours(bench, services, rate).await?;
    for (subject, reply) in [("tonic, ready bytes", opaque(&reply)), ("tonic, encoding", reply)] {
        bench.step(&format!("resolve, {subject}"));
        let bare = Bare::start(&bench.lab, &reply).await?;
        let seen = ask(bench, bare.api, &bare.pids(), 1, Consistency::Stale).await?;
        let channels = rollcall::channels(bare.api, CONNECTIONS)?;
        let slow = paced(bench, rate, &channels, &bare.pids(), 1, Consistency::Stale).await?;
        for (case, ..) in WAYS {
            bench.report.rate(Of(WORKLOAD, case, subject), &seen);
            bench.report.latency(Of(WORKLOAD, &at_half(case), subject), &slow);
        }
    }
    Ok(())
}

fn service(number: usize) -> String {
    format!("service-{number:04}")
}

async fn ask(
    bench: &Bench,
    api: SocketAddr,
    pids: &[u32],
    services: usize,
    consistency: Consistency,
) -> Outcome<load::Seen> {
    let channels = rollcall::channels(api, CONNECTIONS)?;
    let channels = &channels;
    load::callers(CALLERS, bench.window(), pids, |caller, turn| async move {
        let about = (usize::try_from(turn)? * CALLERS + caller) % services;
        let request = rollcall::look_up(&service(about), consistency);
        unread(&channels[caller % CONNECTIONS], RESOLVE, request).await.map(drop)
    })
    .await
}

async fn paced(
    bench: &Bench,
    rate: f64,
    channels: &[Channel],
    pids: &[u32],
    services: usize,
    consistency: Consistency,
) -> Outcome<load::Seen> {
    load::paced(rate, bench.window(), pids, |number| async move {
        let number = usize::try_from(number)?;
        let request = rollcall::look_up(&service(number % services), consistency);
        unread(&channels[number % CONNECTIONS], RESOLVE, request).await.map(drop)
    })
    .await
}

/// The reply, for the bare servers.
async fn ours(bench: &mut Bench, services: usize, rate: f64) -> Outcome<v1::ResolveResponse> {
    let registry = Rollcall::start(&bench.lab, Size::One, &[]).await?;
    let (api, pids) = (registry.nodes[0].api, registry.pids());
    let items = (0..services * INSTANCES)
        .map(|number| rollcall::registration(&service(number / INSTANCES), number, LONG, 0));
    let channel = rollcall::channel(api)?;
    rollcall::fill(&channel, items.collect()).await?;
    for (case, consistency, _) in WAYS {
        bench.step(&format!("resolve, rollcall, {case}"));
        let seen = ask(bench, api, &pids, services, consistency).await?;
        bench.report.rate(Of(WORKLOAD, case, "rollcall"), &seen);
        let channels = rollcall::channels(api, CONNECTIONS)?;
        let seen = paced(bench, rate, &channels, &pids, services, consistency).await?;
        bench.report.latency(Of(WORKLOAD, &at_half(case), "rollcall"), &seen);
    }
    let request = rollcall::look_up(&service(0), Consistency::Stale);
    let reply = rollcall::discovery(&channel).resolve(request).await?.into_inner();
    if reply.instances.len() != INSTANCES {
        return Err(
            format!("{} instances in a reply, not {INSTANCES}", reply.instances.len()).into()
        );
    }
    Ok(reply)
}

fn at_half(case: &str) -> String {
    format!("{case}, half of etcd's stale rate")
}

/// etcd; half of what it reaches with stale reads.
async fn peer(bench: &mut Bench, services: usize) -> Outcome<f64> {
    let mut etcd = Etcd::start(&bench.lab, Size::One).await?;
    let api = etcd.members[0].api;
    let items = (0..services * INSTANCES).map(|number| (service(number / INSTANCES), number));
    etcd::fill(&rollcall::channels(api, CONNECTIONS)?, items, LONG).await?;
    etcd.restart().await?;
    let (channels, pids) = (rollcall::channels(api, CONNECTIONS)?, etcd.pids());
    let channels = &channels;
    let mut rate = 0.0;
    for (case, _, serializable) in WAYS {
        bench.step(&format!("resolve, etcd, {case}"));
        let seen = load::callers(CALLERS, bench.window(), &pids, |caller, turn| async move {
            let about = (usize::try_from(turn)? * CALLERS + caller) % services;
            let request = etcd::look_up(&service(about), serializable);
            unread(&channels[caller % CONNECTIONS], RANGE, request).await.map(drop)
        });
        let seen = seen.await?;
        if serializable {
            rate = seen.rate / 2.0;
        }
        bench.report.rate(Of(WORKLOAD, case, "etcd"), &seen);
        let seen = load::paced(rate, bench.window(), &pids, |number| async move {
            let number = usize::try_from(number)?;
            let request = etcd::look_up(&service(number % services), serializable);
            unread(&channels[number % CONNECTIONS], RANGE, request).await.map(drop)
        });
        bench.report.latency(Of(WORKLOAD, &at_half(case), "etcd"), &seen.await?);
    }
    Ok(rate)
}
