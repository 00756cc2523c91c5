//! What happens to the backends while they are called.

use super::{
    Outcome,
    fleet::{Registry, Running},
    load::{Load, Tally},
    report::Report,
    way::Way,
};
use clap::ValueEnum;
use rustix::process::Signal;
use std::{path::Path, time::Duration};
use tokio::time::sleep;

/// Calls before the fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// The same where calls are hedged: what is usual is known after the first interval of 10 s.
const WARM_UP_HEDGED: Duration = Duration::from_secs(12);
/// How many are there when a service grows.
const MANY: usize = 30;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Fault {
    /// Three backends that answer after 2 ms.
    AllFast,
    /// kill -9 of one of three.
    Kill,
    /// SIGSTOP of one of three.
    Stop,
    /// One of three answers after 60 ms.
    Slow,
    /// One of three fails every call at once.
    Fail,
    /// Each of three is drained, ended and started again, one after the other.
    RollingRestart,
    /// From 3 to 30 and back to 3, drained.
    Scale,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::AllFast,
        Self::Kill,
        Self::Stop,
        Self::Slow,
        Self::Fail,
        Self::RollingRestart,
        Self::Scale,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllFast => "all fast",
            Self::Kill => "kill -9 one",
            Self::Stop => "SIGSTOP one",
            Self::Slow => "one 60 ms slow",
            Self::Fail => "one fails fast",
            Self::RollingRestart => "rolling restart",
            Self::Scale => "scale 3, 30, 3",
        }
    }

    /// Whether this way of calling has something to show here: direct calls need a backend to which nothing happens,
    /// hedges one that takes long.
    fn fits(self, way: Way) -> bool {
        match way {
            Way::Direct => self != Self::RollingRestart,
            Way::Hedged => [Self::AllFast, Self::Stop, Self::Slow].contains(&self),
            Way::Once | Way::Safe | Way::Tonic => true,
        }
    }

    /// Does it, for about this long.
    async fn happen(
        self,
        registry: &Registry,
        backends: &mut Vec<Running>,
        length: Duration,
    ) -> Outcome {
        match self {
            Self::AllFast => sleep(length).await,
            Self::Kill => {
                backends[0].kill().await?;
                sleep(length).await;
            }
            Self::Stop => {
                backends[0].send(Signal::STOP)?;
                sleep(length).await;
                backends[0].send(Signal::CONT)?;
            }
            Self::Slow => {
                backends[0].tell("slow").await?;
                sleep(length).await;
            }
            Self::Fail => {
                backends[0].tell("fail").await?;
                sleep(length).await;
            }
            Self::RollingRestart => {
                for number in 0..backends.len() {
                    backends.remove(0).stop().await?;
                    backends.push(registry.backend(&format!("echo-{number}")).await?);
                    sleep(length / 8).await;
                }
            }
            Self::Scale => {
                for number in backends.len()..MANY {
                    backends.push(registry.backend(&format!("echo-{number}")).await?);
                }
                sleep(length / 4).await;
                let mut ending = tokio::task::JoinSet::new();
                for backend in backends.drain(3..) {
                    ending.spawn(backend.stop());
                }
                while let Some(ended) = ending.join_next().await {
                    ended??;
                }
                sleep(length / 4).await;
            }
        }
        Ok(())
    }
}

/// The same fault for each way, each with a registry and backends of its own.
pub(crate) async fn compare(
    fault: Fault,
    binary: &Path,
    length: Duration,
    callers: usize,
    report: &mut Report,
) -> Outcome {
    for way in Way::ALL.into_iter().filter(|way| fault.fits(*way)) {
        let tally = once(fault, way, binary, length, callers).await?;
        report.row(fault, way, tally);
    }
    Ok(())
}

async fn once(
    fault: Fault,
    way: Way,
    binary: &Path,
    length: Duration,
    callers: usize,
) -> Outcome<Tally> {
    let registry = Registry::start(binary).await?;
    let mut backends = registry.backends(3).await?;
    let calling = way.begin(&registry, backends[2].address).await?;
    let mut load = Load::begin(&calling.caller, callers);
    sleep(if way == Way::Hedged { WARM_UP_HEDGED } else { WARM_UP }).await;
    load.measure();
    fault.happen(&registry, &mut backends, length).await?;
    load.end().await
}
