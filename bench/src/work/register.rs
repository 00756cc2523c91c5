//! Registering: durable when acknowledged, one instance to a call.

use super::{Bench, LONG, place_load};
use crate::{
    load::{self, Seen, etcd, rollcall},
    outcome::Outcome,
    report::Of,
    servers::{Size, etcd::Etcd, rollcall::Rollcall},
};
use std::cell::Cell;
use tonic::transport::Channel;

const WORKLOAD: &str = "register";
const CONNECTIONS: usize = 8;
/// Instances of one service.
const PER_SERVICE: usize = 100;
/// The rate of arrival, as a share of what etcd reaches at its best.
const SHARE: f64 = 0.5;
/// Calls in flight.
const DEPTHS: [(Size, &[usize]); 2] = [(Size::Three, &[1, 64, 512]), (Size::One, &[1, 256])];

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "register: every instance has a lease of its own; etcd needs two calls for that (LeaseGrant, Put), `etcd, put \
         alone` puts without a lease. etcd starts anew for each of the two, and for the fixed rate. All calls go to the leader over 8 connections. One node: server on \
         core 0, load on core 1; three nodes: servers and load share both cores.",
    );
    let calls: usize = DEPTHS.iter().map(|(_, depths)| depths.len()).sum();
    bench.steps(bench.repeats * (calls * 3 + 2 * DEPTHS.len()));
    for _ in 0..bench.repeats {
        for (size, depths) in DEPTHS {
            place_load(size)?;
            let outcome = side_by_side(bench, size, depths).await;
            bench.survive(outcome)?;
        }
    }
    Ok(())
}

async fn side_by_side(bench: &mut Bench, size: Size, depths: &[usize]) -> Outcome {
    let rate = peer(bench, size, depths).await?;
    ours(bench, size, depths, rate).await
}

fn case(size: Size, depth: usize) -> String {
    format!("{}, {depth} in flight", nodes(size))
}

fn paced(size: Size) -> String {
    format!("{}, half of etcd's rate", nodes(size))
}

fn nodes(size: Size) -> &'static str {
    match size {
        Size::One => "1 node",
        Size::Three => "3 nodes",
    }
}

fn service(number: usize) -> String {
    format!("service-{:05}", number / PER_SERVICE)
}

/// etcd; the rate at which calls begin where latency is measured, for both. Each kind of load finds a fresh cluster: after
/// many writes it is several times slower.
async fn peer(bench: &mut Bench, size: Size, depths: &[usize]) -> Outcome<f64> {
    let next = Cell::new(0);
    let next = &next;
    let (etcd, channels) = fresh(bench, size).await?;
    let (channels, pids) = (&channels, etcd.pids());
    for depth in depths.iter().copied() {
        let case = case(size, depth);
        bench.step(&format!("register, etcd, put alone, {case}"));
        let seen = load::callers(depth, bench.window(), &pids, |caller, _| async move {
            let (channel, number) = turn(channels, caller, next);
            etcd::put(channel, &service(number), number, 0).await
        });
        bench.report.rate(Of(WORKLOAD, &case, "etcd, put alone"), &seen.await?);
    }
    drop(etcd);
    let (etcd, channels) = fresh(bench, size).await?;
    let (channels, pids) = (&channels, etcd.pids());
    let mut best = 0.0_f64;
    for depth in depths.iter().copied() {
        let case = case(size, depth);
        bench.step(&format!("register, etcd, {case}"));
        let seen = load::callers(depth, bench.window(), &pids, |caller, _| async move {
            let (channel, number) = turn(channels, caller, next);
            etcd::register(channel, &service(number), number, LONG).await.map(drop)
        });
        let seen = seen.await?;
        best = best.max(seen.rate);
        bench.report.rate(Of(WORKLOAD, &case, "etcd"), &seen);
    }
    drop(etcd);
    let (etcd, channels) = fresh(bench, size).await?;
    let (channels, pids, rate) = (&channels, etcd.pids(), best * SHARE);
    bench.step("register, etcd, fixed rate");
    let seen: Seen = load::paced(rate, bench.window(), &pids, |number| async move {
        let (channel, number) = turn(channels, usize::try_from(number)?, next);
        etcd::register(channel, &service(number), number, LONG).await.map(drop)
    })
    .await?;
    bench.report.latency(Of(WORKLOAD, &paced(size), "etcd"), &seen);
    Ok(rate)
}

async fn fresh(bench: &Bench, size: Size) -> Outcome<(Etcd, Vec<Channel>)> {
    let etcd = Etcd::start(&bench.lab, size).await?;
    let leader = etcd.members[etcd.leader().await?].api;
    Ok((etcd, rollcall::channels(leader, CONNECTIONS)?))
}

async fn ours(bench: &mut Bench, size: Size, depths: &[usize], rate: f64) -> Outcome {
    let registry = Rollcall::start(&bench.lab, size, &[]).await?;
    let leader = registry.nodes[registry.leader().await?].api;
    let channels = rollcall::channels(leader, CONNECTIONS)?;
    let next = Cell::new(0);
    let (channels, next, pids) = (&channels, &next, registry.pids());
    for depth in depths.iter().copied() {
        let case = case(size, depth);
        bench.step(&format!("register, rollcall, {case}"));
        let seen = load::callers(depth, bench.window(), &pids, |caller, _| async move {
            let (channel, number) = turn(channels, caller, next);
            one(channel, number).await
        });
        bench.report.rate(Of(WORKLOAD, &case, "rollcall"), &seen.await?);
    }
    bench.step("register, rollcall, fixed rate");
    let seen = load::paced(rate, bench.window(), &pids, |number| async move {
        let (channel, number) = turn(channels, usize::try_from(number)?, next);
        one(channel, number).await
    })
    .await?;
    bench.report.latency(Of(WORKLOAD, &paced(size), "rollcall"), &seen);
    Ok(())
}

/// The connection of a caller, and an instance that nobody has registered.
fn turn<'a>(channels: &'a [Channel], caller: usize, next: &Cell<usize>) -> (&'a Channel, usize) {
    let number = next.get();
    next.set(number + 1);
    (&channels[caller % channels.len()], number)
}

async fn one(channel: &Channel, number: usize) -> Outcome {
    let item = rollcall::registration(&service(number), number, LONG, 0);
    rollcall::register(channel, vec![item]).await.map(drop)
}
