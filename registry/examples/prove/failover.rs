//! kill -9 of the leader under load, again and again; then of all nodes at once.

use crate::{
    load,
    nodes::{Lab, Server, leader_of},
    report::{Outcome, Report, Spread, rate},
    witness::{self, Ledger, Stale, Told, Watched},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use rollcall_client::{Client, Guard, Selection, State};
use rollcall_proto::v1;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

const TTL: Duration = Duration::from_secs(10);
const PER_SERVICE: usize = 200;
const IN_FLIGHT: usize = 64;
/// Writers that change an instance of their own again and again, and so many changes until they take a new one.
const WRITERS: usize = 16;
const CHANGES: usize = 20;
/// Longest time without writes after the death of a leader: twice the longest election timeout and 0.3 s.
pub(crate) const OUTAGE: Duration = Duration::from_millis(1_500);

pub(crate) async fn run(lab: &mut Lab, report: &mut Report, rounds: u32, count: usize) -> Outcome {
    let mut servers = lab.three("n", &[]).await?;
    let nodes: Vec<SocketAddr> = servers.iter().map(|server| server.api).collect();
    let client = Client::new(nodes.iter().map(SocketAddr::to_string))?;
    let ledger = Ledger::default();
    let mut looking = JoinSet::new();
    let told = Arc::new(Mutex::new(Told::default()));
    looking.spawn(witness::tail(nodes.clone(), Arc::clone(&told)));
    let watched = Arc::new(Watched::default());
    let filter = v1::ResolveFilter { health: v1::HealthFilter::Any.into(), ..Default::default() };
    let selection = Selection::pattern("", "")?
        .filter(filter)
        .bookmarks(Duration::from_secs(1))
        .shrink_grace(Duration::ZERO);
    let (show, shown) = watch::channel(Arc::default());
    looking.spawn(witness::follow(client.watch(selection)?, Arc::clone(&watched), show));

    let begin = Instant::now();
    let guards = register(&client, &ledger, count).await?;
    let registered = rate(count as u64, begin.elapsed());
    let mut readers = Vec::new();
    for node in &nodes {
        let reader = Arc::new(Stale::default());
        reader.set_up(true);
        looking.spawn(Arc::clone(&reader).read(*node, service_of(0)));
        readers.push(reader);
    }
    let mut writers = JoinSet::new();
    let written = Arc::new(AtomicU64::new(0));
    for writer in 0..WRITERS {
        let client = Client::new(nodes.iter().map(SocketAddr::to_string))?;
        writers.spawn(write(client, writer, ledger.clone(), Arc::clone(&written)));
    }
    let load = Instant::now();
    let outages = lose_leaders(report, &mut servers, &readers, &ledger, rounds).await?;
    let writes = rate(written.load(Ordering::Relaxed), load.elapsed());
    writers.shutdown().await;
    let stale = witness::tell_stale(report, &readers);
    let services = services(count);
    settle(report, &servers, &told, &watched, &shown, &services).await?;
    alive(report, &told, &guards);
    let restart = lose_all(report, &mut servers, &readers, &ledger).await?;
    settle(report, &servers, &told, &watched, &shown, &services).await?;
    alive(report, &told, &guards);
    report.table(
        &format!("three nodes, {count} beating instances, {rounds} times kill -9 of the leader, then of all"),
        &[
            ("registered through the client library, 64 in flight", registered),
            ("time until writes succeed again", outages.to_string()),
            ("writes acknowledged meanwhile, outages included", writes),
            ("stale reads", stale),
            ("after kill -9 of all: start to first linearizable read", format!("{restart:?}")),
        ],
    );
    // The goodbye of ten thousand guards is not part of it.
    guards.into_iter().for_each(std::mem::forget);
    Ok(())
}

fn service_of(number: usize) -> String {
    format!("service-{:04}", number / PER_SERVICE)
}

fn load_of(writer: usize) -> String {
    format!("load-{writer:02}")
}

fn services(count: usize) -> Vec<String> {
    let mut services: Vec<String> = (0..count).step_by(PER_SERVICE).map(service_of).collect();
    services.extend((0..WRITERS).map(load_of));
    services.push("probe".to_owned());
    services
}

/// Registers through the client library, each by a call of its own.
async fn register(client: &Client, ledger: &Ledger, count: usize) -> Outcome<Vec<Guard>> {
    let registered = stream::iter(0..count).map(|number| {
        let (client, service) = (client.clone(), service_of(number));
        async move {
            let item = load::registration(&service, number, TTL, 0);
            let spec = item.spec.unwrap_or_default();
            let id = item.name.unwrap_or_default().instance_id;
            let registration = rollcall_client::Registration::new(&service).spec(spec).id(&id);
            let guard = client.register(registration).await?;
            let generation = guard.generation().ok_or("registered and gone again")?;
            ledger.write(&service, &id, generation, 0);
            Outcome::Ok(guard)
        }
    });
    registered.buffer_unordered(IN_FLIGHT).try_collect().await
}

/// Writes without end, one call after the other; what is acknowledged stands in the ledger.
async fn write(client: Client, writer: usize, ledger: Ledger, written: Arc<AtomicU64>) {
    let service = load_of(writer);
    for change in 1.. {
        let item = load::persistent(&service, change / CHANGES, change);
        let id = item.name.as_ref().map(|name| name.instance_id.clone()).unwrap_or_default();
        let request = v1::RegisterRequest { items: vec![item], request_id: String::new() };
        // A call that failed may have had its effect all the same: it stands in no ledger.
        if let Ok(answer) = client.register_once(request).await
            && let Some(result) = answer.items.first()
        {
            ledger.write(&service, &id, result.generation, change as u64);
            written.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn lose_leaders(
    report: &mut Report,
    servers: &mut [Server],
    readers: &[Arc<Stale>],
    ledger: &Ledger,
    rounds: u32,
) -> Outcome<Spread> {
    let mut outages = Vec::new();
    let mut gone = 0;
    for round in 0..rounds as usize {
        sleep(Duration::from_millis(1_500)).await;
        let (outage, lost) = lose_leader(servers, readers, ledger, round).await?;
        report.note(&format!(
            "round {}: writes again after {:.0} ms, {lost} acknowledged entries missing",
            round + 1,
            outage.as_secs_f64() * 1e3
        ));
        outages.push(outage);
        gone += lost;
    }
    let acknowledged = ledger.copy().len();
    report.promise(
        gone == 0,
        &format!(
            "every acknowledged registration is on every node ({gone} of {acknowledged} missing)"
        ),
    );
    let outages = Spread::of(outages);
    report.promise(
        outages.max <= OUTAGE,
        &format!("writes succeed again within {OUTAGE:?} (at most {:?})", outages.max),
    );
    Ok(outages)
}

/// One round: time until writes succeed again, and how much of what was acknowledged is missing on any node.
async fn lose_leader(
    servers: &mut [Server],
    readers: &[Arc<Stale>],
    ledger: &Ledger,
    round: usize,
) -> Outcome<(Duration, usize)> {
    let leader = leader_of(servers).await?;
    readers[leader].set_up(false);
    let begin = Instant::now();
    servers[leader].kill();
    let outage = witness::until_written(servers, begin, round).await?;
    tokio::time::sleep_until(begin + Duration::from_secs(2)).await;
    servers[leader].start()?;
    servers[leader].ready().await?;
    readers[leader].set_up(true);
    let entries = ledger.copy();
    let mut lost = 0;
    for server in &*servers {
        lost += witness::missing(&server.api, &entries).await?;
    }
    Ok((outage, lost))
}

async fn lose_all(
    report: &mut Report,
    servers: &mut [Server],
    readers: &[Arc<Stale>],
    ledger: &Ledger,
) -> Outcome<Duration> {
    readers.iter().for_each(|reader| reader.set_up(false));
    servers.iter_mut().for_each(Server::kill);
    let begin = Instant::now();
    for server in &mut *servers {
        server.start()?;
    }
    while witness::catalogue(&servers[0].api, &[service_of(0)]).await.is_err() {
        if begin.elapsed() > Duration::from_secs(30) {
            return Err("no linearizable read within 30 s of the start of all".into());
        }
        sleep(Duration::from_millis(2)).await;
    }
    let restart = begin.elapsed();
    let entries = ledger.copy();
    let mut lost = 0;
    for server in &mut *servers {
        server.ready().await?;
        lost += witness::missing(&server.api, &entries).await?;
    }
    report.promise(
        lost == 0,
        &format!(
            "after kill -9 of all three all acknowledged state is back ({lost} of {} missing)",
            entries.len()
        ),
    );
    // Longer than a lease: whoever did not come back would be expired by now.
    sleep(TTL + Duration::from_secs(3)).await;
    Ok(restart)
}

/// Journal and watch have come to the end, and hold what a read holds.
async fn settle(
    report: &mut Report,
    servers: &[Server],
    told: &Mutex<Told>,
    watched: &Watched,
    shown: &watch::Receiver<Arc<rollcall_client::Picture>>,
    services: &[String],
) -> Outcome {
    let mut hashes = Vec::new();
    let mut revision = 0;
    for server in servers {
        let status = load::status(&server.api).await?;
        revision = status.revision.max(revision);
        hashes.push((status.revision, status.state_hash));
    }
    hashes.dedup();
    report.promise(hashes.len() == 1, &format!("all nodes have one state: {hashes:?}"));
    witness::told_until(told, revision).await?;
    {
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = told.disordered == 0 && told.events == told.revision;
        report.promise(
            whole,
            &format!(
                "the journal tail saw each of {} events once and in order, over {} streams ({} out of order)",
                told.events, told.streams, told.disordered
            ),
        );
    }
    let different = witness::differences(shown, &servers[0].api, services, revision).await?;
    let backwards = watched.backwards.load(Ordering::Relaxed);
    let updates = watched.updates.load(Ordering::Relaxed);
    report.promise(
        different == 0 && backwards == 0,
        &format!("the watch equals `resolve` in {} services ({different} differ) and never went back in {updates} updates ({backwards} did)", services.len()),
    );
    Ok(())
}

fn alive(report: &mut Report, told: &Mutex<Told>, guards: &[Guard]) {
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let bad = ["LEASE_EXPIRED", "HEARTBEAT_LOST", "RESTORED", "EVICTED", "PROTECTION_ENTERED"];
    let expired: u64 = bad.iter().filter_map(|reason| told.reasons.get(*reason)).sum();
    let listed = guards.iter().filter(|guard| matches!(guard.state(), State::Registered { .. }));
    let listed = listed.count();
    report.promise(
        expired == 0 && listed == guards.len(),
        &format!(
            "no live instance expired: {:?}, {listed} of {} guards registered",
            told.reasons,
            guards.len()
        ),
    );
}
