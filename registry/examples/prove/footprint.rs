//! One node with many instances: memory, start-up, throughput beside a thousand registrations a second.

use crate::{
    load::{self, Beater},
    nodes::{Lab, Server},
    report::{Outcome, Report, Spread, rate},
};
use rollcall_proto::v1;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tonic::transport::Channel;

/// Instances of one service.
const PER_SERVICE: usize = 100;
const TTL: Duration = Duration::from_secs(30);
/// Registrations a second beside the measured calls.
const REGISTRATIONS: u64 = 1_000;
/// Changes between the snapshot and the kill: what start-up replays.
const TAIL: usize = 5_000;
/// Callers that each ask again as soon as they are answered, over so many connections.
const CALLERS: usize = 32;
const CONNECTIONS: usize = 2;

pub(crate) async fn run(
    lab: &mut Lab,
    report: &mut Report,
    rounds: u32,
    count: usize,
    length: Duration,
) -> Outcome {
    let mut server = lab.single(&["telemetry.log=warn"]).await?;
    let empty = server.memory()?.0;
    let channel = load::channel(&server.api)?;
    let items: Vec<_> = (0..count).map(|number| item(number, 0)).collect();
    let size = items.first().map_or(0, load::size);
    let begin = Instant::now();
    let handles = load::register_all(&channel, items, 250, 8).await?;
    let filled = begin.elapsed();
    let beater = Beater::start(&channel, handles.clone(), TTL / 3);
    sleep(Duration::from_secs(3)).await;
    let (full, _) = server.memory()?;
    load::admin(&channel).trigger_snapshot(v1::TriggerSnapshotRequest {}).await?;
    sleep(Duration::from_secs(1)).await;
    let (after, _) = server.memory()?;
    report.table(
        &format!("{count} instances of {size} bytes in one node: memory"),
        &[
            ("registered in batches of 250", rate(count as u64, filled)),
            ("resident, empty", mib(empty)),
            ("resident, full", mib(full)),
            ("per instance", format!("{} bytes", full.saturating_sub(empty) / count as u64)),
            (
                "per instance, after a snapshot",
                format!("{} bytes", after.saturating_sub(empty) / count as u64),
            ),
        ],
    );
    let per_instance = full.saturating_sub(empty) / count as u64;
    report.aim(per_instance <= 1_024, "at most 1,024 bytes of resident memory per instance");
    drop(beater);
    startup(report, &mut server, &channel, rounds, empty, count).await?;
    // Every lease is renewed before its length is over: the node has just granted them anew.
    let beater = Beater::start(&channel, handles.clone(), TTL / 3);
    throughput(report, &server, &handles, count, length).await?;
    let lost = beater.seen.lost.load(Ordering::Relaxed);
    report.promise(
        beater.is_running() && lost == 0,
        &format!("no beating lease was lost ({lost} were)"),
    );
    Ok(())
}

fn item(number: usize, change: usize) -> v1::Registration {
    load::registration(&service_of(number), number, TTL, change)
}

fn service_of(number: usize) -> String {
    format!("service-{:04}", number / PER_SERVICE)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// kill -9 and start: time to the first linearizable answer that is complete.
async fn startup(
    report: &mut Report,
    server: &mut Server,
    channel: &Channel,
    rounds: u32,
    empty: u64,
    count: usize,
) -> Outcome {
    let (mut times, mut busy) = (Vec::new(), Vec::new());
    let mut memory = Vec::new();
    for round in 1..=rounds as usize {
        load::admin(channel).trigger_snapshot(v1::TriggerSnapshotRequest {}).await?;
        // Those that come after the snapshot are replayed from the log, one entry each.
        let changed = (0..TAIL.min(count)).map(|number| item(number, round)).collect();
        load::register_all(channel, changed, 1, 64).await?;
        sleep(Duration::from_secs(1)).await;
        server.kill();
        let begin = Instant::now();
        server.start()?;
        let request = load::everything(&service_of(0), v1::Consistency::Linearizable);
        let answer = loop {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err("no linearizable read within 30 s of the start".into());
            }
            match load::discovery(&load::channel(&server.api)?).resolve(request.clone()).await {
                Ok(answer) => break answer.into_inner(),
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        times.push(begin.elapsed());
        busy.push(server.cpu()?);
        let last = format!("12:00:00.{round:06}Z");
        let current = |instance: &v1::Instance| {
            instance
                .spec
                .as_ref()
                .is_some_and(|spec| spec.metadata.values().any(|v| v.ends_with(&last)))
        };
        let complete = answer.instances.len() == PER_SERVICE.min(count);
        report.promise(
            complete && answer.instances.iter().all(current),
            "the first read is complete and current",
        );
        sleep(Duration::from_secs(1)).await;
        memory.push(server.memory()?.0);
    }
    let worst = memory.iter().max().copied().unwrap_or_default();
    let spread = Spread::of(times);
    report.table(
        &format!("start-up from a snapshot of {count} instances and {TAIL} log entries"),
        &[
            ("process start to first linearizable read", spread.to_string()),
            ("CPU time of the node until then", Spread::of(busy).to_string()),
            ("resident after it", mib(worst)),
            ("per instance", format!("{} bytes", worst.saturating_sub(empty) / count as u64)),
        ],
    );
    report.aim(
        spread.max <= Duration::from_millis(500),
        "at most 0.5 s to the first linearizable read",
    );
    Ok(())
}

async fn throughput(
    report: &mut Report,
    server: &Server,
    handles: &[u64],
    count: usize,
    length: Duration,
) -> Outcome {
    let mut rows = Vec::new();
    for (name, resolves, beats) in
        [("look-ups", true, false), ("heartbeats", false, true), ("both", true, true)]
    {
        let channel = load::channel(&server.api)?;
        let registered = Arc::new(AtomicU64::new(0));
        let late = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(register_steadily(channel, count, Arc::clone(&registered), Arc::clone(&late)));
        let answered = Arc::new(AtomicU64::new(0));
        if resolves {
            for _ in 0..CONNECTIONS {
                let channel = load::channel(&server.api)?;
                for caller in 0..CALLERS / CONNECTIONS {
                    tasks.spawn(resolve_on(channel.clone(), count, caller, Arc::clone(&answered)));
                }
            }
        }
        let channel = load::channel(&server.api)?;
        let beater = beats.then(|| Beater::start(&channel, handles.to_vec(), Duration::ZERO));
        let beaten =
            || beater.as_ref().map_or(0, |beater| beater.seen.acknowledged.load(Ordering::Relaxed));
        sleep(Duration::from_secs(1)).await;
        let all =
            || [answered.load(Ordering::Relaxed), beaten(), registered.load(Ordering::Relaxed)];
        let (before, cpu, begin) = (all(), server.cpu()?, Instant::now());
        sleep(length).await;
        let (after, spent, time) = (all(), server.cpu()? - cpu, begin.elapsed());
        let [resolve, beat, register] =
            std::array::from_fn(|at| rate(after[at] - before[at], time));
        let cores = spent.as_secs_f64() / time.as_secs_f64();
        let failed = late.load(Ordering::Relaxed);
        rows.push((
            name,
            format!("Resolve {resolve}, leases renewed {beat}, registrations {register} ({failed} failed or held up), node uses {cores:.2} cores"),
        ));
    }
    report.table(
        &format!("throughput with {count} instances beside {REGISTRATIONS} registrations a second; answers of {PER_SERVICE} instances; callers share the cores"),
        &rows,
    );
    Ok(())
}

async fn resolve_on(channel: Channel, count: usize, caller: usize, answered: Arc<AtomicU64>) {
    let mut discovery = load::discovery(&channel);
    let services = count.div_ceil(PER_SERVICE);
    // A stride without common divisor visits every service.
    let mut at = caller * 37;
    loop {
        at = (at + 7_919) % services.max(1);
        let request = v1::ResolveRequest {
            service: Some(load::service(&service_of(at * PER_SERVICE))),
            ..v1::ResolveRequest::default()
        };
        match discovery.resolve(request).await {
            Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
            Err(_) => return,
        };
    }
}

/// Registers at a steady pace whatever the answers take, at most 256 at once.
async fn register_steadily(
    channel: Channel,
    count: usize,
    registered: Arc<AtomicU64>,
    late: Arc<AtomicU64>,
) {
    let room = Arc::new(Semaphore::new(256));
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut change = 1_000;
    loop {
        tick.tick().await;
        for _ in 0..REGISTRATIONS / 100 {
            change += 1;
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                late.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let mut registry = load::registry(&channel);
            let items = vec![item(change * 7 % count, change)];
            let (registered, late) = (Arc::clone(&registered), Arc::clone(&late));
            tokio::spawn(async move {
                let request = v1::RegisterRequest { items, request_id: String::new() };
                let done = registry.register(request).await.is_ok();
                if done { registered } else { late }.fetch_add(1, Ordering::Relaxed);
                drop(permit);
            });
        }
    }
}
