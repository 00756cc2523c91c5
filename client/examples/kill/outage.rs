//! Every node of the registry is gone for a while, and calls go on.

use super::{
    Outcome, fleet,
    fleet::Registry,
    load::{Load, Tally},
    report::Report,
    way::Caller,
};
use rollcall_client::{Balance, Builder, Copies, Retry, Selection};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{process::Command, time::sleep};

const READY: Duration = Duration::from_secs(10);
/// Time in which the copy is written, and in which backends are back once the registry is.
const SETTLE: Duration = Duration::from_secs(6);

/// What a fresh process found meanwhile.
pub(crate) struct Found {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) first_ms: u64,
}

pub(crate) async fn survive(
    binary: &Path,
    length: Duration,
    callers: usize,
    report: &mut Report,
) -> Outcome {
    let mut registry = Registry::start(binary).await?;
    let _backends = registry.backends(3).await?;
    let directory = tempfile::tempdir()?;
    let copies = Copies::directory(directory.path());
    let client = Builder::new(registry.addresses()).copies(copies).build()?;
    let balancer = client.balance(Balance::named(fleet::service()?).retry(Retry::off()))?;
    balancer.ready(READY).await?;
    let mut load = Load::begin(&Caller::Ours(balancer.channel()), callers);
    sleep(SETTLE).await;

    load.measure();
    registry.kill().await?;
    sleep(length / 2).await;
    let found = fresh(&registry, directory.path()).await?;
    sleep(length / 2).await;
    registry.come_back().await?;
    sleep(SETTLE).await;
    let tally: Tally = load.end().await?;

    let watch = client.watch(Selection::services([fleet::service()?]))?;
    let picture = watch.ready(READY).await?;
    let listed = picture.services.values().map(|service| service.instances.len()).sum();
    report.outage(length, tally, &found, listed);
    Ok(())
}

async fn fresh(registry: &Registry, copies: &Path) -> Outcome<Found> {
    let output = Command::new(std::env::current_exe()?)
        .args(["fresh", "--registry", &registry.addresses().join(","), "--copies"])
        .arg(copies)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await??;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [calls, failed, first_ms] = numbers[..] else {
        return Err(format!("a fresh process said {text:?}").into());
    };
    Ok(Found { calls, failed, first_ms })
}
