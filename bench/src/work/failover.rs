//! The leader is killed: how long nobody can write, or read what is certainly true; and whether anybody who asks a
//! living node for what it knows, by gRPC or by DNS, is told nothing meanwhile.

use super::{Bench, LONG, place_load};
use crate::{
    load::{etcd, rollcall},
    outcome::Outcome,
    report::Of,
    servers::{Size, etcd::Etcd, rollcall::Rollcall},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rollcall_proto::v1::Consistency;
use std::{
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

const WORKLOAD: &str = "failover";
const CASE: &str = "SIGKILL of the leader of 3, default timing";
/// A try begins so often at each living node, whatever became of the one before.
const PACE: Duration = Duration::from_millis(5);
/// Longest wait for one try; for a whole recovery.
const TRY: Duration = Duration::from_secs(1);
const WHOLE: Duration = Duration::from_secs(30);
/// Reads go on so long after writes succeed again.
const AFTER: Duration = Duration::from_millis(500);
const SERVICE: &str = "standing";
const INSTANCES: usize = 3;

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "failover: writes, linearizable reads and stale reads are tried at both living members every 5 ms from the \
         moment of the kill; the first success counts. Servers and load share both cores. DNS is asked at both living \
         nodes of ours.",
    );
    let rounds = bench.pick(2, 5);
    place_load(Size::Three)?;
    bench.steps(rounds * 2);
    let mut theirs = Etcd::start(&bench.lab, Size::Three).await?;
    let mut ours = Rollcall::start(&bench.lab, Size::Three, &[]).await?;
    let first = rollcall::channel(ours.nodes[0].api)?;
    let items = (0..INSTANCES).map(|number| rollcall::registration(SERVICE, number, LONG, 0));
    rollcall::fill(&first, items.collect()).await?;
    etcd::put(&rollcall::channel(theirs.members[0].api)?, SERVICE, 0, 0).await?;
    for round in 0..rounds {
        bench.step("failover, etcd");
        peer(bench, &mut theirs, round).await?;
        sleep(Duration::from_secs(1)).await;
        bench.step("failover, rollcall");
        our_round(bench, &mut ours, round).await?;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn peer(bench: &mut Bench, etcd: &mut Etcd, round: usize) -> Outcome {
    let leader = etcd.leader().await?;
    let living: Vec<SocketAddr> = etcd
        .members
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != leader)
        .map(|(_, m)| m.api)
        .collect();
    let mut tries = JoinSet::new();
    let stale = Stale::default();
    for api in living {
        let channel = connected(api).await?;
        tries.spawn(stale.clone().keep_asking(channel.clone(), range_stale));
        tries.spawn(repeat(channel.clone(), "write", move |channel| put(channel, round)));
        tries.spawn(repeat(channel, "read", range_linearizable));
    }
    sleep(Duration::from_millis(200)).await;
    etcd.members[leader].process.kill();
    let of = Of(WORKLOAD, CASE, "etcd");
    recover(bench, of, &stale, &mut tries).await?;
    etcd.members[leader].process.start()?;
    etcd.members[leader].ready().await
}

async fn our_round(bench: &mut Bench, registry: &mut Rollcall, round: usize) -> Outcome {
    let leader = registry.leader().await?;
    let mut tries = JoinSet::new();
    let (stale, dns) = (Stale::default(), Stale::default());
    for (_, node) in registry.nodes.iter().enumerate().filter(|(at, _)| *at != leader) {
        let channel = connected(node.api).await?;
        tries.spawn(stale.clone().keep_asking(channel.clone(), resolve_stale));
        tries.spawn(dns.clone().keep_querying(node.dns));
        tries.spawn(repeat(channel.clone(), "write", move |channel| register(channel, round)));
        tries.spawn(repeat(channel, "read", resolve_linearizable));
    }
    sleep(Duration::from_millis(200)).await;
    registry.nodes[leader].process.kill();
    let of = Of(WORKLOAD, CASE, "rollcall");
    recover(bench, of, &stale, &mut tries).await?;
    bench.report.add(of, "DNS queries meanwhile", "", dns.asked.load(Ordering::Relaxed) as f64);
    bench.report.add(
        of,
        "DNS queries unanswered or wrong",
        "",
        dns.failed.load(Ordering::Relaxed) as f64,
    );
    registry.nodes[leader].process.start()?;
    registry.nodes[leader].ready().await
}

/// Waits for the first write and the first linearizable read that began after the kill, from now.
async fn recover(
    bench: &mut Bench,
    of: Of<'_>,
    stale: &Stale,
    tries: &mut JoinSet<Tried>,
) -> Outcome {
    let killed = Instant::now();
    GATE.store(true, Ordering::Relaxed);
    let (mut written, mut read) = (None, None);
    while written.is_none() || read.is_none() {
        let tried = timeout(WHOLE, tries.join_next()).await;
        let (what, done) =
            tried.map_err(|_| format!("no recovery within {WHOLE:?}"))?.ok_or("no tries")??;
        let slot = if what == "write" { &mut written } else { &mut read };
        slot.get_or_insert(done - killed);
    }
    sleep(AFTER).await;
    GATE.store(false, Ordering::Relaxed);
    tries.shutdown().await;
    let millis = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
    bench.report.add(of, "kill to first write", "ms", millis(written));
    bench.report.add(of, "kill to first linearizable read", "ms", millis(read));
    bench.report.add(of, "stale reads meanwhile", "", stale.asked.load(Ordering::Relaxed) as f64);
    bench.report.add(of, "stale reads failed", "", stale.failed.load(Ordering::Relaxed) as f64);
    Ok(())
}

/// Open from a kill on: only what begins then counts.
static GATE: AtomicBool = AtomicBool::new(false);

type Tried = (&'static str, Instant);

/// Begins a try each [`PACE`] from the kill on; when the first one succeeded.
async fn repeat<F>(channel: Channel, what: &'static str, call: impl Fn(Channel) -> F) -> Tried
where
    F: Future<Output = Outcome> + Send + 'static,
{
    while !GATE.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(1)).await;
    }
    let mut tries = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(tried) = tries.join_next() => {
                if matches!(tried, Ok(Ok(Ok(())))) {
                    return (what, Instant::now());
                }
            }
            () = sleep(PACE) => {
                tries.spawn(timeout(TRY, call(channel.clone())));
            }
        }
    }
}

async fn put(channel: Channel, round: usize) -> Outcome {
    etcd::put(&channel, "writes", round, 0).await
}

async fn range_linearizable(channel: Channel) -> Outcome {
    range(channel, false).await
}

async fn range_stale(channel: Channel) -> Outcome {
    range(channel, true).await
}

async fn range(channel: Channel, serializable: bool) -> Outcome {
    let mut kv = etcd::api::kv_client::KvClient::new(channel);
    let answer = kv.range(etcd::look_up(SERVICE, serializable)).await?.into_inner();
    if answer.kvs.is_empty() { Err("an empty answer".into()) } else { Ok(()) }
}

async fn register(channel: Channel, round: usize) -> Outcome {
    let item = rollcall::registration("writes", round, LONG, round);
    rollcall::register(&channel, vec![item]).await.map(drop)
}

async fn resolve_linearizable(channel: Channel) -> Outcome {
    resolve(channel, Consistency::Linearizable).await
}

async fn resolve_stale(channel: Channel) -> Outcome {
    resolve(channel, Consistency::Stale).await
}

async fn resolve(channel: Channel, consistency: Consistency) -> Outcome {
    let request = rollcall::look_up(SERVICE, consistency);
    let answer = rollcall::discovery(&channel).resolve(request).await?.into_inner();
    if answer.instances.len() == INSTANCES { Ok(()) } else { Err("an incomplete answer".into()) }
}

async fn connected(api: SocketAddr) -> Outcome<Channel> {
    let channel = rollcall::channel(api)?;
    // Either API answers something, be it that it does not know the other's calls.
    let _ =
        rollcall::discovery(&channel).resolve(rollcall::look_up(SERVICE, Consistency::Stale)).await;
    Ok(channel)
}

/// Readers that must be answered all the time.
#[derive(Debug, Clone, Default)]
struct Stale {
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Stale {
    fn count(&self, answered: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!answered), Ordering::Relaxed);
    }

    async fn keep_asking<F>(self, channel: Channel, ask: fn(Channel) -> F) -> Tried
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        loop {
            let answered = timeout(TRY, ask(channel.clone())).await;
            if GATE.load(Ordering::Relaxed) {
                self.count(matches!(answered, Ok(Ok(()))));
            }
            sleep(PACE).await;
        }
    }

    async fn keep_querying(self, server: SocketAddr) -> Tried {
        loop {
            let answered = timeout(TRY, query(server)).await;
            if GATE.load(Ordering::Relaxed) {
                self.count(matches!(answered, Ok(Ok(()))));
            }
            sleep(PACE).await;
        }
    }
}

async fn query(server: SocketAddr) -> Outcome {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(server).await?;
    let name = Name::from_str(&format!("{SERVICE}.service.rollcall.internal."))?;
    let mut question = Message::query();
    question.add_query(Query::query(name, RecordType::A));
    socket.send(&question.to_vec()?).await?;
    let mut reply = [0; 2_048];
    let length = socket.recv(&mut reply).await?;
    let reply = Message::from_vec(&reply[..length])?;
    let complete =
        reply.metadata.response_code == ResponseCode::NoError && reply.answers.len() == INSTANCES;
    if complete { Ok(()) } else { Err("an incomplete answer".into()) }
}
