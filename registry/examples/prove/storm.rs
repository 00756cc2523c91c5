//! Many leases that run out in the same moment, protection off: how late is the last one?

use crate::{
    load::{self, Beater},
    nodes::Lab,
    report::{Outcome, Report, Spread, rate},
};
use rollcall_proto::v1;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;

const TTL: Duration = Duration::from_secs(5);
/// The others beat and are never over.
const LONG: Duration = Duration::from_secs(60);
const PER_SERVICE: usize = 1_000;
/// What the timing contract allows above the TTL.
const MARGIN: Duration = Duration::from_millis(300);
/// What a storm may add to it.
const AIM: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    lab: &mut Lab,
    report: &mut Report,
    rounds: u32,
    count: usize,
    silent: usize,
) -> Outcome {
    let silent = silent.min(load::HANDLES);
    let server = lab.single(&["protection.enabled=false", "telemetry.log=warn"]).await?;
    let channel = load::channel(&server.api)?;
    let others =
        (silent..count.max(silent)).map(|n| load::registration(&name("calm", n), n, LONG, 0));
    let handles = load::register_all(&channel, others.collect(), 250, 8).await?;
    let beater = Beater::start(&channel, handles, LONG / 3);
    let mut firsts = Vec::new();
    let mut lasts = Vec::new();
    for round in 0..rounds as usize {
        let items = (0..silent).map(|n| load::registration(&name("storm", n), n, TTL, round));
        let handles = load::register_all(&channel, items.collect(), 250, 8).await?;
        let (sent, acknowledged) = load::beat_once(&channel, &handles).await?;
        let cpu = server.cpu()?;
        let (first, last) = watch(&channel, silent, acknowledged).await?;
        let spent = server.cpu()? - cpu;
        report.note(&format!(
            "round {}: beat {:.1} ms, first gone {:.1} ms and last gone {:.1} ms after the TTL, {spent:?} of CPU",
            round + 1,
            (acknowledged - sent).as_secs_f64() * 1e3,
            (first - sent).as_secs_f64() * 1e3 - TTL.as_secs_f64() * 1e3,
            (last - acknowledged).as_secs_f64() * 1e3 - TTL.as_secs_f64() * 1e3,
        ));
        firsts.push(first - sent);
        lasts.push((last - acknowledged).saturating_sub(TTL));
    }
    let lost = beater.seen.lost.load(Ordering::Relaxed);
    let earliest = Spread::of(firsts).min;
    let last = Spread::of(lasts);
    report.table(
        &format!("{silent} of {count} leases of {TTL:?} run out at once, protection off"),
        &[
            ("last one gone, after acknowledged beat + TTL", last.to_string()),
            ("expired", rate(silent as u64, last.median.max(Duration::from_millis(1)))),
        ],
    );
    report.promise(earliest >= TTL, "none is gone before its TTL");
    report.promise(
        beater.is_running() && lost == 0,
        &format!("no beating lease was lost ({lost} were)"),
    );
    report.aim(last.max <= MARGIN + AIM, "the last one is gone within bound + 0.5 s");
    Ok(())
}

fn name(kind: &str, number: usize) -> String {
    format!("{kind}-{:04}", number / PER_SERVICE)
}

/// When the first and the last one were seen to be gone.
async fn watch(channel: &Channel, silent: usize, begin: Instant) -> Outcome<(Instant, Instant)> {
    let mut discovery = load::discovery(channel);
    sleep_until(begin + TTL - Duration::from_millis(100)).await;
    let mut first = None;
    loop {
        let request = v1::ListServicesRequest {
            name_prefix: "storm-".to_owned(),
            page_size: 1_000,
            ..v1::ListServicesRequest::default()
        };
        let services = discovery.list_services(request).await?.into_inner().services;
        let now = Instant::now();
        let routable: usize = services.iter().map(|service| service.routable_count as usize).sum();
        if routable < silent && first.is_none() {
            first = Some(now);
        }
        if let (0, Some(first)) = (routable, first) {
            return Ok((first, now));
        }
        if now > begin + TTL * 4 {
            return Err(
                format!("{routable} of {silent} are there still after four times the TTL").into()
            );
        }
        sleep(Duration::from_millis(2)).await;
    }
}
