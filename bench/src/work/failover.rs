//! The leader is killed: how long nobody can write, or read what is certainly true; and whether anybody who asks a
//! living node for what it knows, by gRPC or by DNS, is told nothing meanwhile.

use super::{Bench, LONG, place_load};
use crate::{
    load::{etcd, rollcall},
    outcome::Outcome,
    process::Process,
    report::Of,
    servers::{Size, etcd::Etcd, rollcall::Rollcall},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rollcall_proto::v1::Consistency;
use rustix::process::Signal;
use std::{
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::transport::Channel;

const WORKLOAD: &str = "failover";
/// A try begins so often at each living node, whatever became of the one before.
const PACE: Duration = Duration::from_millis(5);
/// Longest wait for one try; for a whole recovery.
const TRY: Duration = Duration::from_secs(1);
const WHOLE: Duration = Duration::from_secs(30);
/// Tries go on so long after the leader has ended, and until they have succeeded again.
const AFTER: Duration = Duration::from_secs(3);
const RECENT: Duration = Duration::from_millis(200);
const SERVICE: &str = "standing";
const INSTANCES: usize = 3;

/// How a leader goes, and what that is called.
const ENDS: [(&str, Signal); 2] = [
    ("SIGKILL of the leader of 3, default timing", Signal::KILL),
    ("SIGTERM of the leader of 3, default timing", Signal::TERM),
];

pub(crate) async fn run(bench: &mut Bench) -> Outcome {
    bench.report.note(
        "failover: writes and linearizable reads are tried at both other members, at each every 5 ms; what counts is the \
         longest time without an acknowledged one from the signal until 3 s after the leader has ended. Stale reads, and \
         DNS queries with ours, go to both as well, one after the other. Servers and load share both cores.",
    );
    let rounds = bench.pick(2, 5).max(bench.repeats);
    place_load(Size::Three)?;
    bench.steps(rounds * ENDS.len() * 2);
    let mut theirs = Etcd::start(&bench.lab, Size::Three).await?;
    let mut ours = Rollcall::start(&bench.lab, Size::Three, &[]).await?;
    let first = rollcall::channel(ours.nodes[0].api)?;
    let items = (0..INSTANCES).map(|number| rollcall::registration(SERVICE, number, LONG, 0));
    rollcall::fill(&first, items.collect()).await?;
    etcd::put(&rollcall::channel(theirs.members[0].api)?, SERVICE, 0, 0).await?;
    for round in 0..rounds {
        for (case, signal) in ENDS {
            bench.step(&format!("failover, etcd, {case}"));
            peer(bench, &mut theirs, round, Of(WORKLOAD, case, "etcd"), signal).await?;
            sleep(Duration::from_secs(1)).await;
            bench.step(&format!("failover, rollcall, {case}"));
            our_round(bench, &mut ours, round, Of(WORKLOAD, case, "rollcall"), signal).await?;
            sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

async fn peer(
    bench: &mut Bench,
    etcd: &mut Etcd,
    round: usize,
    of: Of<'_>,
    signal: Signal,
) -> Outcome {
    let leader = etcd.leader().await?;
    let (mut tries, (tell, told)) = (JoinSet::new(), mpsc::unbounded_channel());
    let stale = Readers::default();
    for (_, member) in etcd.members.iter().enumerate().filter(|(at, _)| *at != leader) {
        let channel = connected(member.api).await?;
        tries.spawn(stale.clone().keep_asking(channel.clone(), range_stale));
        let write = move |channel| put(channel, round);
        tries.spawn(repeat(channel.clone(), What::Write, tell.clone(), write));
        tries.spawn(repeat(channel, What::Read, tell.clone(), range_linearizable));
    }
    let leader = &mut etcd.members[leader];
    recover(bench, of, &mut leader.process, signal, told).await?;
    tries.shutdown().await;
    stale.tell(bench, of, "stale reads");
    leader.process.start()?;
    leader.ready().await
}

async fn our_round(
    bench: &mut Bench,
    registry: &mut Rollcall,
    round: usize,
    of: Of<'_>,
    signal: Signal,
) -> Outcome {
    let leader = registry.leader().await?;
    let (mut tries, (tell, told)) = (JoinSet::new(), mpsc::unbounded_channel());
    let (stale, dns) = (Readers::default(), Readers::default());
    for (_, node) in registry.nodes.iter().enumerate().filter(|(at, _)| *at != leader) {
        let channel = connected(node.api).await?;
        tries.spawn(stale.clone().keep_asking(channel.clone(), resolve_stale));
        tries.spawn(dns.clone().keep_querying(node.dns));
        let write = move |channel| register(channel, round);
        tries.spawn(repeat(channel.clone(), What::Write, tell.clone(), write));
        tries.spawn(repeat(channel, What::Read, tell.clone(), resolve_linearizable));
    }
    let leader = &mut registry.nodes[leader];
    recover(bench, of, &mut leader.process, signal, told).await?;
    tries.shutdown().await;
    stale.tell(bench, of, "stale reads");
    dns.tell(bench, of, "DNS queries");
    leader.process.start()?;
    leader.ready().await
}

/// Sends the signal, and waits until the process has ended and both others have worked for a while since.
async fn recover(
    bench: &mut Bench,
    of: Of<'_>,
    leader: &mut Process,
    signal: Signal,
    mut told: mpsc::UnboundedReceiver<(What, Instant)>,
) -> Outcome {
    // All connections have been made and used by then.
    sleep(Duration::from_millis(300)).await;
    while told.try_recv().is_ok() {}
    let asked = Instant::now();
    leader.signal(signal)?;
    let (mut write, mut read, mut ended) = (Gap::new(asked), Gap::new(asked), None);
    loop {
        if let Ok(Some((what, done))) = timeout(PACE, told.recv()).await {
            match what {
                What::Write => write.done(done),
                What::Read => read.done(done),
            }
        }
        let now = Instant::now();
        if ended.is_none() && leader.has_ended()? {
            ended = Some(now);
        }
        let works = now - write.last < RECENT && now - read.last < RECENT;
        if works && ended.is_some_and(|ended| now - ended > AFTER) {
            break;
        }
        if now - asked > WHOLE {
            return Err(format!("no recovery within {WHOLE:?} of the end of a leader").into());
        }
    }
    for (gap, metric) in [(write, "no write for"), (read, "no linearizable read for")] {
        bench.report.add(of, metric, "ms", gap.longest.as_secs_f64() * 1e3);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum What {
    Write,
    Read,
}

/// The longest time between two that succeeded.
struct Gap {
    last: Instant,
    longest: Duration,
}

impl Gap {
    fn new(begin: Instant) -> Self {
        Self { last: begin, longest: Duration::ZERO }
    }

    fn done(&mut self, at: Instant) {
        self.longest = self.longest.max(at.saturating_duration_since(self.last));
        self.last = self.last.max(at);
    }
}

/// Begins a try each [`PACE`], and tells when one has succeeded.
async fn repeat<F>(
    channel: Channel,
    what: What,
    tell: mpsc::UnboundedSender<(What, Instant)>,
    call: impl Fn(Channel) -> F,
) where
    F: Future<Output = Outcome> + Send + 'static,
{
    let (mut tries, mut pace) = (JoinSet::new(), interval(PACE));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(tried) = tries.join_next() => {
                if matches!(tried, Ok(Ok(Ok(())))) && tell.send((what, Instant::now())).is_err() {
                    return;
                }
            }
            _ = pace.tick() => {
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
struct Readers {
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Readers {
    async fn keep_asking<F>(self, channel: Channel, ask: fn(Channel) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        loop {
            self.count(timeout(TRY, ask(channel.clone())).await.is_ok_and(|asked| asked.is_ok()));
            sleep(PACE).await;
        }
    }

    async fn keep_querying(self, server: SocketAddr) {
        loop {
            self.count(timeout(TRY, query(server)).await.is_ok_and(|asked| asked.is_ok()));
            sleep(PACE).await;
        }
    }

    fn count(&self, answered: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!answered), Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    fn tell(&self, bench: &mut Bench, of: Of<'_>, what: &str) {
        let (asked, failed) =
            (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        bench.report.add(of, &format!("{what} meanwhile"), "", asked as f64);
        bench.report.add(of, &format!("{what} failed"), "", failed as f64);
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
