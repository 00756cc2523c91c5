//! A silent instance across three leader changes in a row is gone within the bound; a beating one stays.

use crate::{
    failover::OUTAGE,
    load,
    nodes::{Lab, Server, leader_of},
    report::{Outcome, Report, Spread},
};
use futures_util::future::join_all;
use rollcall_client::{Client, Guard, Registration, State};
use rollcall_core::{instance::Ttl, lease::expiry_bound};
use rollcall_proto::v1;
use rollcall_registry::host::Random;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const TTL: Duration = Duration::from_secs(3);
/// Silent instances of a round, silenced one after the other over a beat interval.
const SILENT: usize = 5;
const APART: Duration = Duration::from_millis(200);
/// Enough for five silent ones to be no mass expiry.
const BEATING: usize = 200;
const CHANGES: usize = 3;
/// All are of one service: most of it beats, so that its silent ones are no mass expiry.
const SERVICE: &str = "crowd";

/// A silent instance: its last beat, and when it was seen to be gone.
#[derive(Debug, Clone, Copy)]
struct Silent {
    sent: Instant,
    acknowledged: Instant,
    /// Gone on some node.
    first: Option<Instant>,
    /// Gone on every node that is in step.
    last: Option<Instant>,
}

pub(crate) async fn run(lab: &mut Lab, report: &mut Report, rounds: u32) -> Outcome {
    let mut servers = lab.three("n", &[]).await?;
    let nodes: Vec<SocketAddr> = servers.iter().map(|server| server.api).collect();
    let client = Client::new(nodes.iter().map(SocketAddr::to_string))?;
    let guards = beating(&client).await?;
    let random = Random::new(rounds.into());
    let ttl = Ttl::parse(TTL)?;
    let mut silences = Vec::new();
    let mut shares = Vec::new();
    let (mut early, mut late) = (0, 0);
    for round in 0..rounds {
        let (silent, changes) = lead_away(&mut servers, &nodes, &random, round).await?;
        for one in silent {
            let (Some(first), Some(last)) = (one.first, one.last) else {
                return Err("a silent instance was never gone".into());
            };
            let before = changes.iter().filter(|change| **change < last).count();
            let bound = expiry_bound(ttl, u32::try_from(before)?, OUTAGE);
            let silence = last - one.acknowledged;
            early += usize::from(first - one.sent < TTL);
            late += usize::from(silence > bound);
            silences.push(silence);
            shares.push((
                silence.as_secs_f64() / bound.as_secs_f64() * 100.0,
                before,
                silence,
                bound,
            ));
        }
        let worst = shares.iter().rev().take(SILENT).max_by(|a, b| a.0.total_cmp(&b.0));
        report.note(&format!(
            "round {}: {worst:.2?} (share of the bound in %, changes, silence, bound)",
            round + 1
        ));
    }
    let expired = expiries_of_beating(&client).await?;
    let listed = guards.iter().filter(|guard| matches!(guard.state(), State::Registered { .. }));
    let listed = listed.count();
    let worst = shares.iter().map(|share| share.0).fold(0.0, f64::max);
    let by_changes = |count: usize| shares.iter().filter(|share| share.1 == count).count();
    report.table(
        &format!("{rounds} rounds of {CHANGES} leaders killed in a row, {SILENT} silent and {BEATING} beating instances, TTL {TTL:?}"),
        &[
            ("silence until gone on every node", Spread::of(silences).to_string()),
            ("largest share of the bound", format!("{worst:.0} %")),
            ("gone after 0, 1, 2, 3 changes", format!("{:?}", (0..=CHANGES).map(by_changes).collect::<Vec<_>>())),
            ("bound after 3 changes", format!("{:?}", expiry_bound(ttl, 3, OUTAGE))),
        ],
    );
    report.promise(early == 0, &format!("none was gone before its TTL ({early} were)"));
    report.promise(late == 0, &format!("each was gone within the bound ({late} were not)"));
    report.promise(
        expired == 0 && listed == BEATING,
        &format!(
            "no beating instance expired ({expired} did), {listed} of {BEATING} are registered"
        ),
    );
    Ok(())
}

async fn beating(client: &Client) -> Outcome<Vec<Guard>> {
    let registrations = (0..BEATING).map(|number| {
        let address = SocketAddr::from(([10, 0, 0, 1], 1_000 + u16::try_from(number).unwrap_or(0)));
        Registration::new(SERVICE).endpoint("http", address).ttl(TTL)
    });
    Ok(client.register_all(registrations.collect()).await?)
}

async fn expiries_of_beating(client: &Client) -> Outcome<usize> {
    let request = v1::HistoryRequest {
        subject: Some(v1::history_request::Subject::Service(load::service(SERVICE))),
        limit: 1_000,
        ..v1::HistoryRequest::default()
    };
    let answer = client.history(request).await?;
    if answer.next_before_revision != 0 {
        return Err("the history of the service is longer than a page".into());
    }
    let lost = |event: &&v1::Event| {
        let beating = match &event.subject {
            Some(v1::event::Subject::Instance(name)) => !name.instance_id.starts_with("silent-"),
            _ => true,
        };
        beating && event.reason() != v1::EventReason::Registered
    };
    Ok(answer.events.iter().filter(lost).count())
}

/// One round: the silent instances, and when each leader was killed.
async fn lead_away(
    servers: &mut [Server],
    nodes: &[SocketAddr],
    random: &Random,
    round: u32,
) -> Outcome<(Vec<Silent>, Vec<Instant>)> {
    let prefix = format!("silent-{round}");
    let leader = leader_of(servers).await?;
    let channel = load::channel(&nodes[leader])?;
    let items = (0..SILENT).map(|number| {
        let mut item = load::registration(&prefix, number, TTL, 0);
        if let Some(name) = &mut item.name {
            name.service = SERVICE.to_owned();
        }
        item
    });
    let handles = load::register_all(&channel, items.collect(), SILENT, 1).await?;
    let mut silent = Vec::new();
    for handle in handles {
        let (sent, acknowledged) = load::beat_once(&channel, &[handle]).await?;
        silent.push(Silent { sent, acknowledged, first: None, last: None });
        sleep(APART).await;
    }
    let silent = Arc::new(Mutex::new(silent));
    let mut looking = JoinSet::new();
    looking.spawn(look(nodes.to_vec(), prefix, Arc::clone(&silent)));
    let mut changes = Vec::new();
    for _ in 0..CHANGES {
        sleep(Duration::from_millis(random.between(0, 2_500))).await;
        let leader = leader_of(servers).await?;
        changes.push(Instant::now());
        servers[leader].kill();
        sleep(Duration::from_millis(300)).await;
        servers[leader].start()?;
        servers[leader].ready().await?;
    }
    // Longer than the bound after three changes.
    timeout(Duration::from_secs(25), looking.join_next())
        .await
        .map_err(|_| "a silent instance is there still")?;
    let silent = silent.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((silent, changes))
}

/// Looks every few milliseconds on every node, until all are gone.
async fn look(nodes: Vec<SocketAddr>, prefix: String, silent: Arc<Mutex<Vec<Silent>>>) {
    let Ok(channels) = nodes.iter().map(load::channel).collect::<Outcome<Vec<_>>>() else { return };
    loop {
        let answers = join_all(channels.iter().map(|channel| {
            let mut discovery = load::discovery(channel);
            let request = v1::ResolveRequest {
                service: Some(load::service(SERVICE)),
                ..v1::ResolveRequest::default()
            };
            async move { timeout(Duration::from_millis(200), discovery.resolve(request)).await }
        }));
        let answers = answers.await;
        let now = Instant::now();
        let listed: Vec<BTreeSet<String>> =
            answers.into_iter().flatten().flatten().filter_map(in_step).collect();
        {
            let mut silent = silent.lock().unwrap_or_else(PoisonError::into_inner);
            for (number, one) in silent.iter_mut().enumerate() {
                let id = format!("{prefix}-{number:06}");
                if listed.iter().any(|ids| !ids.contains(&id)) {
                    one.first.get_or_insert(now);
                }
                if !listed.is_empty() && listed.iter().all(|ids| !ids.contains(&id)) {
                    one.last.get_or_insert(now);
                }
            }
            if silent.iter().all(|one| one.last.is_some()) {
                return;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// What a node lists that hears a stable leader: it knows one and was in step with it a moment ago.
fn in_step(answer: tonic::Response<v1::ResolveResponse>) -> Option<BTreeSet<String>> {
    let answer = answer.into_inner();
    let metadata = answer.read_metadata?;
    let staleness = Duration::try_from(metadata.staleness?).ok()?;
    let hears = metadata.leader_known && staleness < Duration::from_secs(1);
    hears.then(|| answer.instances.into_iter().map(|instance| instance.instance_id).collect())
}
