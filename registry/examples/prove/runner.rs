//! kill -9 of `rollcall run`: how long is the instance listed after its last beat?

use crate::{
    load,
    nodes::{Lab, Running},
    report::{Outcome, Report, Spread},
};
use rollcall_proto::v1::{self, journal_service_client::JournalServiceClient};
use rollcall_registry::{
    clock::{Clock, SystemClock},
    host::Random,
};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

const TTL: Duration = Duration::from_secs(3);
const MARGIN: Duration = Duration::from_millis(300);
const SERVICE: &str = "web";

pub(crate) async fn run(lab: &mut Lab, report: &mut Report, rounds: u32) -> Outcome {
    let (_registry, api) = dev(lab).await?;
    let channel = load::channel(&api)?;
    let (first, second) = (lab.port()?, lab.port()?);
    let _other = start(lab, &api, first)?;
    let random = Random::new(rounds.into());
    let (mut told, mut seen, mut commands) = (Vec::new(), Vec::new(), String::new());
    for round in 0..rounds {
        let mut runner = start(lab, &api, second)?;
        until_listed(&channel, 2).await?;
        if round == 0 {
            commands.push_str(&lab.output(&["resolve", SERVICE, "--addr", &api.to_string()])?);
        }
        // Long enough for some beats, and ended anywhere between two of them.
        sleep(Duration::from_millis(random.between(1_500, 2_800))).await;
        runner.kill();
        let gone = until_gone(&channel).await?;
        let (silent, expired_ms) = expiry(&channel, second, round as usize + 1).await?;
        told.push(silent);
        // Wall clocks of one machine: when the last beat arrived, and when an outsider saw the instance gone.
        let outside = gone.saturating_sub(Duration::from_millis(expired_ms)) + silent;
        seen.push(outside);
        report.note(&format!(
            "round {}: expired {:.0} ms and seen gone {:.0} ms after the last beat",
            round + 1,
            silent.as_secs_f64() * 1e3,
            outside.as_secs_f64() * 1e3
        ));
    }
    let id = id_of(&channel, second).await?;
    commands.push_str(&lab.output(&["why", &id, "--addr", &api.to_string()])?);
    report.note(&format!("\n```\n{commands}```"));
    let (told, seen) = (Spread::of(told), Spread::of(seen));
    report.table(
        &format!("`rollcall run --ttl 3s -- python3 -m http.server`, {rounds} times kill -9"),
        &[
            ("last beat to expiry, by the journal", told.to_string()),
            ("last beat to invisible, seen from outside", seen.to_string()),
        ],
    );
    report.promise(told.min >= TTL, &format!("never below the TTL: {:?} at least", told.min));
    report.promise(
        told.max <= TTL + MARGIN,
        &format!("never above TTL + 0.3 s: {:?} at most, by the journal", told.max),
    );
    report.promise(
        seen.max <= TTL + MARGIN,
        &format!("never above TTL + 0.3 s: {:?} at most, from outside", seen.max),
    );
    Ok(())
}

/// A registry of one node, and where it answers.
async fn dev(lab: &Lab) -> Outcome<(Running, SocketAddr)> {
    let mut command = lab.command();
    command.args(["dev", "--port-base", "0", "-o", "json"]).stdout(Stdio::piped());
    let mut registry = Running::start(command)?;
    let output = registry.stdout().ok_or("no output")?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map(|_| line)
    });
    let line = tokio::time::timeout(Duration::from_secs(20), line).await???;
    let ready: serde_json::Value = serde_json::from_str(&line)?;
    let api = ready["nodes"][0]["grpc"].as_str().ok_or("no address")?.parse()?;
    Ok((registry, api))
}

/// A web server as an instance.
fn start(lab: &Lab, api: &SocketAddr, port: u16) -> Outcome<Running> {
    let port = port.to_string();
    let mut command = lab.command();
    command.current_dir(lab.dir()).args(["--addr", &api.to_string()]);
    command.args(["run", "--service", SERVICE, "--port", &port, "--ttl", "3s", "--"]);
    command.args(["python3", "-m", "http.server", &port, "--bind", "127.0.0.1"]);
    Running::start(command)
}

async fn listed(channel: &Channel) -> Outcome<Vec<v1::Instance>> {
    let request = v1::ResolveRequest {
        service: Some(load::service(SERVICE)),
        ..v1::ResolveRequest::default()
    };
    Ok(load::discovery(channel).resolve(request).await?.into_inner().instances)
}

async fn until_listed(channel: &Channel, count: usize) -> Outcome {
    let until = Instant::now() + Duration::from_secs(20);
    while listed(channel).await?.len() != count {
        if Instant::now() > until {
            return Err(format!("{count} instances: not within 20 s").into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Time since 1970 at which one of two was seen to be gone.
async fn until_gone(channel: &Channel) -> Outcome<Duration> {
    let clock = SystemClock::new();
    let begin = Instant::now();
    while listed(channel).await?.len() == 2 {
        if begin.elapsed() > TTL * 3 {
            return Err("the instance is listed still after three times the TTL".into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(Duration::from_millis(clock.wall_ms()))
}

async fn events(channel: &Channel) -> Outcome<Vec<v1::Event>> {
    let request = v1::HistoryRequest {
        subject: Some(v1::history_request::Subject::Service(load::service(SERVICE))),
        limit: 1_000,
        ..v1::HistoryRequest::default()
    };
    Ok(JournalServiceClient::new(channel.clone()).history(request).await?.into_inner().events)
}

/// The newest of so many expiries: silence since the last beat by its evidence, and its time since 1970 in ms.
async fn expiry(channel: &Channel, port: u16, count: usize) -> Outcome<(Duration, u64)> {
    let events = events(channel).await?;
    let expired = events.iter().filter(|event| event.reason() == v1::EventReason::LeaseExpired);
    if expired.clone().count() != count {
        return Err(format!("{count} expiries expected: {events:?}").into());
    }
    let event = expired.max_by_key(|event| event.revision);
    let event = event.ok_or("the journal tells of no expiry")?;
    match &event.subject {
        Some(v1::event::Subject::Instance(name))
            if name.instance_id.ends_with(&port.to_string()) => {}
        other => return Err(format!("another one expired: {other:?}").into()),
    }
    let seconds =
        event.evidence.strip_prefix("no beat for ").and_then(|text| text.strip_suffix(" s"));
    let seconds = seconds.ok_or_else(|| format!("evidence without time: {}", event.evidence))?;
    let time = event.time.ok_or("an event without time")?;
    let ms = u64::try_from(time.seconds)? * 1_000 + u64::try_from(time.nanos)? / 1_000_000;
    Ok((Duration::from_secs_f64(seconds.parse()?), ms))
}

async fn id_of(channel: &Channel, port: u16) -> Outcome<String> {
    let ids = events(channel).await?.into_iter().filter_map(|event| match event.subject {
        Some(v1::event::Subject::Instance(name)) => Some(name.instance_id),
        _ => None,
    });
    let mut ids = ids.filter(|id| id.ends_with(&port.to_string()));
    ids.next().ok_or_else(|| "the journal does not know it".into())
}
