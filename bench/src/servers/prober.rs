//! A peer with nothing behind it: it connects to targets and closes at once, from one thread. What the machine allows a
//! TCP check to cost.

use super::Lab;
use crate::{
    outcome::{Doing, Outcome},
    process::{Place, Process},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

/// Connections that are opened at once: as many as a node of ours runs probes.
const UNDER_WAY: u32 = 512;
const TICK: Duration = Duration::from_millis(1);

/// One of the targets: each has an address of its own, and all have one port. All of 127/8 is loopback.
pub(crate) fn target(number: u32, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x7f01_0000 + number), port))
}

#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) process: Process,
}

impl Prober {
    /// Started on core 0. So many checks a second; 0: as many as it can.
    pub(crate) fn start(lab: &Lab, port: u16, targets: u32, rate: u32) -> Outcome<Self> {
        let directory = lab.fresh("prober")?;
        let words = [port.to_string(), targets.to_string(), rate.to_string()];
        let own = std::env::current_exe()?;
        let mut process = Process::new("prober", &own, Place::Core0, &directory)
            .arguments(["probe-bare"])
            .arguments(words);
        process.start()?;
        Ok(Self { process })
    }
}

/// Probes until it is ended, or until a target refuses.
pub(crate) async fn probe(port: u16, targets: u32, rate: u32) -> Outcome {
    if rate == 0 { without_pause(port, targets).await } else { paced(port, targets, rate).await }
}

async fn without_pause(port: u16, targets: u32) -> Outcome {
    let mut loops = JoinSet::new();
    for first in 0..UNDER_WAY {
        loops.spawn(async move {
            for number in (first..targets).step_by(UNDER_WAY as usize).cycle() {
                check(target(number, port)).await?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(())
}

async fn paced(port: u16, targets: u32, rate: u32) -> Outcome {
    let (mut numbers, mut begun, begin) = ((0..targets).cycle(), 0, Instant::now());
    let (mut tick, mut running) = (interval(TICK), JoinSet::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let due = begin.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(begun) < due {
            begun += 1;
            running.spawn(check(target(numbers.next().unwrap_or(0), port)));
        }
        while let Some(ended) = running.try_join_next() {
            ended??;
        }
    }
}

async fn check(target: SocketAddr) -> Outcome {
    TcpStream::connect(target).await.map(drop).doing(target)
}
